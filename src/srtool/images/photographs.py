"""Photographs on disk: what is an image, how it is read, and the LR image that belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from srtool.errors import DataError
from srtool.images.imresize import make_lr, mod_crop

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"}
SCALE = 4

Files = tuple[Path, Path | None]  # of an HR image and of its LR image, None to be made


@dataclass(frozen=True)
class Pair:
    """One photograph or a part of one: hr (H, W, 3) and lr (H / 4, W / 4, 3), RGB uint8."""

    path: Path
    hr: NDArray[np.uint8]
    lr: NDArray[np.uint8]


@dataclass(frozen=True)
class Photograph:
    """What is known of a source image. name: its file, below its folder. height, width: pixels,
    multiples of 4. sha256: 32 bytes, see `digest`."""

    name: str
    height: int
    width: int
    sha256: bytes


@dataclass(frozen=True)
class Collection:
    """Photographs, and the pairs to cut patches from: they or parts of them. owners[i]: the number
    of the photograph that pairs[i] shows."""

    photographs: tuple[Photograph, ...]
    pairs: tuple[Pair, ...]
    owners: tuple[int, ...]


def digest(pair: Pair) -> bytes:
    """SHA-256 of the HR pixels, 32 bytes: the same picture in two places is recognised by it."""
    return hashlib.sha256(pair.hr.tobytes()).digest()


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Decode an 8- or 16-bit image as (H, W, 3) RGB uint8; alpha is dropped, 16 bits are rounded
    to 8. DataError names the file that is none."""
    with _opened(path) as image:
        if image.interpretation in ("rgb16", "grey16"):  # libvips would drop the low byte
            space = "srgb" if image.bands > 2 else "b-w"
            image = (image / 257).rint().cast("uchar").copy(interpretation=space)
        pixels: NDArray[np.uint8] = image.colourspace("srgb")[:3].cast("uchar").numpy()
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels as the head of the file gives them; nothing is decoded yet.
    DataError names the file that is no image."""
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        # libvips remembers opened files by name; revalidate sees one that was written anew.
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True)
        if image.format not in ("uchar", "ushort"):
            raise DataError(f"{path}: has {image.format} samples, expected 8 or 16 bits")
        yield image
    except pyvips.Error as error:
        reason = (error.detail or error.message).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read as an image ({reason})") from None


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


def check_lr_size(
    lr_path: Path, lr_size: tuple[int, int], hr_path: Path, hr_size: tuple[int, int]
) -> None:
    """DataError unless an LR image has the size that its HR image, cropped to a multiple of 4,
    asks for. Sizes: height, width."""
    height, width = hr_size[0] // SCALE, hr_size[1] // SCALE
    if lr_size != (height, width):
        raise DataError(
            f"{lr_path}: is {lr_size[1]}x{lr_size[0]}, expected {width}x{height} to fit {hr_path}"
        )


def load_pair(hr_path: Path, lr_path: Path | None = None) -> Pair:
    """Read an HR image, crop it to a multiple of 4, and read or make its LR image."""
    hr = mod_crop(read_rgb(hr_path), SCALE)
    if lr_path is None:
        return Pair(hr_path, hr, make_lr(hr, SCALE))
    lr = read_rgb(lr_path)
    check_lr_size(lr_path, lr.shape[:2], hr_path, hr.shape[:2])
    return Pair(hr_path, hr, lr)


def dataset_files(folder: Path) -> list[Files]:
    """The files of a data set: HR/ with optional LRx4/ of the same file names, or images directly
    in the folder."""
    hr_folder = folder / "HR" if (folder / "HR").is_dir() else folder
    lr_folder = folder / "LRx4"
    files: list[Files] = []
    for path in image_files(hr_folder):
        lr_path = lr_folder / path.relative_to(hr_folder)
        files.append((path, lr_path if lr_path.is_file() else None))
    return files


def load_dataset(folder: Path) -> list[Pair]:
    """Read an evaluation folder (`dataset_files`), in the order of its file names."""
    return [load_pair(hr_path, lr_path) for hr_path, lr_path in dataset_files(folder)]


def training_files(folder: Path) -> list[Files]:
    """As `dataset_files`; DataError where only a part of the LR images is given, since the rest
    would be made by another method."""
    lr_folder = folder / "LRx4"
    if lr_folder.is_dir() and not (folder / "HR").is_dir():
        raise DataError(
            f"{folder}: has LRx4/ but no HR/; put the photographs into {folder / 'HR'} "
            "under the names of their LR images"
        )
    files = dataset_files(folder)
    missing = [hr_path for hr_path, lr_path in files if lr_path is None]
    if lr_folder.is_dir() and missing:
        raise DataError(
            f"{lr_folder}: has no {missing[0].relative_to(folder / 'HR')} for {missing[0]} "
            f"({len(missing)} of {len(files)} are missing); add LR images of the same names, "
            "or remove the folder to have all of them made"
        )
    return files


def name_below(folder: Path, hr_path: Path) -> str:
    """The name of an HR image within its data set."""
    hr_folder = folder / "HR"
    return hr_path.relative_to(hr_folder if hr_folder.is_dir() else folder).as_posix()


def load_photographs(folder: Path) -> Collection:
    """Read a training folder (`training_files`) into memory, on all cores."""

    def load(files: Files) -> tuple[Photograph, Pair]:
        pair = load_pair(*files)
        height, width = pair.hr.shape[:2]
        return Photograph(name_below(folder, pair.path), height, width, digest(pair)), pair

    with ThreadPoolExecutor() as pool:
        photographs, pairs = zip(*pool.map(load, training_files(folder)), strict=True)
    return Collection(photographs, pairs, tuple(range(len(pairs))))
