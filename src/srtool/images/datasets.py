"""Evaluation data: HR images and the LR images that belong to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.errors import DataError, ImageError, UsageError
from srtool.images.colour import to_levels
from srtool.images.files import READABLE, read_image
from srtool.images.imresize import make_lr, mod_crop

SCALE = 4
BORDER = 4  # HR pixels that no metric looks at
SUFFIXES = READABLE | {".bmp", ".ppm"}  # those are not read, but named rather than passed over

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One image of a data set. `name`: of its file below the HR folder. `lr`: None is made."""

    name: str
    hr: Path
    lr: Path | None


@dataclass(frozen=True)
class Dataset:
    name: str
    folder: Path
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Pair:
    """Pixels of a sample: hr (4 H, 4 W, 3) and lr (H, W, 3), RGB uint8, gray as R = G = B."""

    hr: Image
    lr: Image


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; hidden and half-written ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def dataset_from_folder(folder: Path) -> Dataset:
    """HR/ and, where there is one, LRx4/ with the same file names; or images in the folder itself.

    DataError where there are none. Nothing is decoded yet.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a data set: images, or HR/ and LRx4/")
    inner = folder / "HR"
    hr_folder = inner if inner.is_dir() else folder
    files = image_files(hr_folder)
    if not files:
        raise DataError(f"{hr_folder}: holds no images; expected files like img_001.png")
    samples = []
    for path in files:
        relative = path.relative_to(hr_folder)
        lr = folder / "LRx4" / relative
        samples.append(Sample(relative.as_posix(), path, lr if lr.is_file() else None))
    absolute = folder.resolve()
    name = absolute.parent.name if absolute.name == "HR" else absolute.name
    return Dataset(name, folder, tuple(samples))


def datasets_from_folders(folders: list[Path]) -> list[Dataset]:
    """As above; UsageError where two have the same name, by which the results are keyed."""
    datasets: dict[str, Dataset] = {}
    for folder in folders:
        dataset = dataset_from_folder(folder)
        if other := datasets.get(dataset.name):
            raise UsageError(
                f"{other.folder} and {folder} are both called {dataset.name}; "
                "evaluate them one at a time"
            )
        datasets[dataset.name] = dataset
    return list(datasets.values())


def read_rgb(path: Path) -> Image:
    """Decode as (H, W, 3) RGB uint8; alpha is dropped, 16 bits are rounded to 8. ImageError."""
    pixels = read_image(path).pixels
    if pixels.dtype == np.uint16:
        return np.asarray(to_levels(pixels / np.float32(65535), np.uint8))
    return pixels.astype(np.uint8, copy=False)


def load_pair(sample: Sample) -> Pair:
    """Read HR, cropped to a multiple of 4, and read or make LR; ImageError names a bad file."""
    hr = mod_crop(read_rgb(sample.hr), SCALE)
    height, width = hr.shape[:2]
    if min(height, width) <= 2 * BORDER:
        raise ImageError(
            f"{sample.hr}: has nothing inside the shaved border of {BORDER} pixels; "
            "leave it out of the evaluation"
        )
    if sample.lr is None:
        return Pair(hr, make_lr(hr, SCALE))
    lr = read_rgb(sample.lr)
    if (lr.shape[0] * SCALE, lr.shape[1] * SCALE) != (height, width):
        raise ImageError(
            f"{sample.lr}: is {lr.shape[1]}x{lr.shape[0]}, expected "
            f"{width // SCALE}x{height // SCALE} to fit {sample.hr}"
        )
    return Pair(hr, lr)


def fingerprint(*parts: Path | str) -> str:
    """SHA-256 over the contents of files and over texts; a file that cannot be read counts as
    empty, since reading it as an image will name it."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            content = part.encode()
        else:
            try:
                content = part.read_bytes()
            except OSError:
                content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()
