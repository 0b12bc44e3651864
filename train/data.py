"""Training data: a folder of photographs held in memory, random aligned LR/HR patches of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srtool.errors import DataError
from srtool.train.resize import make_lr, mod_crop

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}
SCALE = 4


@dataclass(frozen=True)
class Pair:
    """One photograph: hr (H, W, 3) and lr (H / 4, W / 4, 3), RGB uint8."""

    path: Path
    hr: NDArray[np.uint8]
    lr: NDArray[np.uint8]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an 8- or 16-bit image as (H, W, 3) RGB uint8; alpha is dropped, 16 bits are rounded
    to 8. DataError names the file that is none."""
    import pyvips

    try:
        # libvips remembers opened files by name; revalidate sees one that was written anew.
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True)
        if image.format not in ("uchar", "ushort"):
            raise DataError(f"{path}: has {image.format} samples, expected 8 or 16 bits")
        if image.interpretation in ("rgb16", "grey16"):  # libvips would drop the low byte
            space = "srgb" if image.bands > 2 else "b-w"
            image = (image / 257).rint().cast("uchar").copy(interpretation=space)
        pixels: NDArray[np.uint8] = image.colourspace("srgb")[:3].cast("uchar").numpy()
    except pyvips.Error as error:
        reason = (error.detail or error.message).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read as an image ({reason})") from None
    return pixels


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted, hidden and half-written ones left out; DataError
    when there are none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder of photographs")
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    files = sorted(p for p in found if p.is_file() and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: holds no images; expected files like photo.png or photo.jpg")
    return files


def load_pair(hr_path: Path, lr_path: Path | None = None) -> Pair:
    """Read an HR image, crop it to a multiple of 4, and read or make its LR image."""
    hr = mod_crop(read_rgb(hr_path), SCALE)
    if lr_path is None:
        return Pair(hr_path, hr, make_lr(hr, SCALE))
    lr = read_rgb(lr_path)
    if (lr.shape[0] * SCALE, lr.shape[1] * SCALE) != hr.shape[:2]:
        raise DataError(
            f"{lr_path}: is {lr.shape[1]}x{lr.shape[0]}, expected "
            f"{hr.shape[1] // SCALE}x{hr.shape[0] // SCALE} to fit {hr_path}"
        )
    return Pair(hr_path, hr, lr)


def load_dataset(folder: Path) -> list[Pair]:
    """Read an evaluation folder: HR/ with optional LRx4/ of the same file names, or images
    directly in the folder."""
    hr_folder = folder / "HR" if (folder / "HR").is_dir() else folder
    lr_folder = folder / "LRx4"
    pairs = []
    for path in image_files(hr_folder):
        lr_path = lr_folder / path.relative_to(hr_folder)
        pairs.append(load_pair(path, lr_path if lr_path.is_file() else None))
    return pairs


class Patches:
    """Random aligned patches of a folder, with flips and quarter turns.

    A batch is a pure function of (seed, step): training resumes at any step with the very same
    data, on any number of threads. An image is drawn with a probability in proportion to its
    area. LR images are made once, at loading, of the whole photograph, so patches carry no
    borders of their own.
    """

    def __init__(self, folder: Path, patch: int, batch: int, seed: int) -> None:
        """patch: side of the HR patch in pixels, a multiple of 4."""
        with ThreadPoolExecutor() as pool:
            pairs = list(pool.map(load_pair, image_files(folder)))
        self.pairs = [p for p in pairs if min(p.hr.shape[:2]) >= patch]
        self.skipped = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise DataError(f"{folder}: all {len(pairs)} images are smaller than the patch {patch}")
        areas = np.array([p.hr.shape[0] * p.hr.shape[1] for p in self.pairs], dtype=np.float64)
        self.chances = areas / areas.sum()
        self.patch, self.batch, self.seed = patch, batch, seed

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of one step: LR (N, 3, p / 4, p / 4) and HR (N, 3, p, p), RGB uint8."""
        random = np.random.default_rng([self.seed, step])
        side = self.patch // SCALE
        lows: list[NDArray[np.uint8]] = []
        highs: list[NDArray[np.uint8]] = []
        for number in random.choice(len(self.pairs), self.batch, p=self.chances):
            pair = self.pairs[number]
            top = int(random.integers(pair.lr.shape[0] - side + 1))
            left = int(random.integers(pair.lr.shape[1] - side + 1))
            turns, flip = int(random.integers(4)), bool(random.integers(2))
            for image, scale, out in ((pair.lr, 1, lows), (pair.hr, SCALE, highs)):
                rows = slice(top * scale, (top + side) * scale)
                columns = slice(left * scale, (left + side) * scale)
                crop = np.rot90(image[rows, columns], turns)
                out.append(crop[:, ::-1] if flip else crop)
        return _nchw(lows), _nchw(highs)

    def batches(self, first_step: int, last_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of first_step..last_step (inclusive), made ahead in background threads."""
        ahead = 8
        with ThreadPoolExecutor(2) as pool:
            queue: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for step in range(first_step, last_step + 1):
                queue.append(pool.submit(self.at, step))
                if len(queue) > ahead:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()


def _nchw(images: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
