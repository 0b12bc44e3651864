"""One HDF5 file in place of a folder of photographs: LR made once, nothing left to decode.

Photographs are cut into sub-images, so that the rows of a patch lie close together on disk. The
pixels are plain bytes in the file: training maps them into memory, reads only the pages that a
patch touches and leaves the caching to the operating system, on any number of threads and
processes, without HDF5's global lock.

    /               attributes: format, version, scale, side, lr (how the LR images were made)
    /photographs    name (N), size (N, 2): height and width, sha256 (N, 32) of the HR pixels
    /subimages      (M, 5): photograph, top, left, height, width; in HR pixels
    /hr             (pixels, 3) RGB uint8: the sub-images one after another, row by row
    /lr             (pixels / 16, 3) RGB uint8: likewise
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from srtool.errors import DataError, UsageError
from srtool.files import whole_file
from srtool.images.datasets import (
    SCALE,
    Collection,
    Pair,
    Photograph,
    Sample,
    check_lr_size,
    dataset_from_folder,
    digest,
    load_pair,
)
from srtool.images.reading import image_size

FORMAT = "srtool packed photographs"
VERSION = 1
LR_MADE = "imresize bicubic, uint8, clamped edges"
LR_GIVEN = "files"
AHEAD = 32_000_000  # pixels of photographs in work at a time; make_lr takes about 40 bytes a pixel


@dataclass(frozen=True)
class Progress:
    """What `pack` reports after a photograph: its file, and how many of how many are done."""

    path: Path
    done: int
    count: int


class Cut(NamedTuple):
    """Where a sub-image lies in its photograph, in HR pixels, all multiples of 4."""

    photograph: int
    top: int
    left: int
    height: int
    width: int

    def of(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """Its pixels as (pixels, 3); scale: 1 for the HR image, 4 for the LR image."""
        rows = slice(self.top // scale, (self.top + self.height) // scale)
        columns = slice(self.left // scale, (self.left + self.width) // scale)
        return image[rows, columns].reshape(-1, 3)


def starts(length: int, side: int) -> list[int]:
    """Where pieces of min(length, side) begin that cover a length; evenly spaced multiples of 4,
    overlapping where the length is no multiple of the side."""
    if length <= side:
        return [0] if length else []
    count = -(-length // side)
    last = (length - side) // SCALE
    return [SCALE * (i * last // (count - 1)) for i in range(count)]


def pack(
    folder: Path,
    out: Path,
    side: int = 480,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Collection:
    """Write the photographs of a folder, or the pairs of its HR/ and LRx4/, into one file.

    LR images are made of whole photographs, so that the sub-images carry no borders of their own.
    All sizes are looked at before the first pixel is decoded. The file appears when it is whole.
    side: of the sub-images, HR pixels, a multiple of 4. UsageError for a bad side and an existing
    file; DataError for a bad photograph and where the file cannot be written.
    """
    if side < SCALE or side % SCALE:
        raise UsageError(f"sub-images of side {side}; expected a multiple of {SCALE}, like 480")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name the file to write, like {out / 'train.h5'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; choose another file", path=out, remedy={"overwrite": ""})
    samples = dataset_from_folder(folder).samples
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(_size, samples))
    cuts = [
        Cut(number, top, left, min(height, side), min(width, side))
        for number, (height, width) in enumerate(sizes)
        for top in starts(height, side)
        for left in starts(width, side)
    ]
    if not cuts:
        raise DataError(f"{folder}: all {len(samples)} images are smaller than {SCALE} pixels")
    lr_pixels = sum(cut.height * cut.width for cut in cuts) // SCALE**2
    try:
        with whole_file(out) as temporary:
            _check_space(out, lr_pixels * (SCALE**2 + 1) * 3)
            # This format of HDF5 keeps checksums of all that describes the data.
            with h5py.File(temporary, "w", libver=("v108", "v108"), locking=False) as file:
                _write_head(file, samples, sizes, cuts, side)
                _write_pixels(file, samples, sizes, cuts, report)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else (error.strerror or str(error)).splitlines()[0]
        raise DataError(
            f"{out}: cannot be written ({reason}); it needs {lr_pixels * 51 / 1e6:.0f} MB in a "
            "folder with write permission"
        ) from None
    return open_packed(out)


def _size(sample: Sample) -> tuple[int, int]:
    """Height and width of an HR image after cropping; its LR image must fit."""
    height, width = image_size(sample.hr)
    if sample.lr:
        check_lr_size(sample, image_size(sample.lr), (height, width))
    return height - height % SCALE, width - width % SCALE


def _check_space(out: Path, needed: int) -> None:
    """OSError where a file of that size does not fit: the HDF5 library crashes when it finds out
    by itself."""
    if shutil.disk_usage(out.parent).free < needed:
        raise OSError(errno.ENOSPC, "the disk is full")
    if hasattr(os, "posix_fallocate"):  # quotas and limits count as well
        with tempfile.TemporaryFile(dir=out.parent) as file:
            os.posix_fallocate(file.fileno(), 0, needed)


def _write_head(
    file: h5py.File,
    samples: tuple[Sample, ...],
    sizes: list[tuple[int, int]],
    cuts: list[Cut],
    side: int,
) -> None:
    # Texts of fixed length: damage to others can crash the HDF5 library.
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["lr"] = np.bytes_(LR_MADE if samples[0].lr is None else LR_GIVEN)
    file.attrs.update(version=VERSION, scale=SCALE, side=side)
    names = [sample.name.encode("utf-8", "replace") for sample in samples]
    file.create_dataset("photographs/name", data=np.array(names))
    file.create_dataset("photographs/size", data=np.array(sizes, np.int64))
    file.create_dataset("photographs/sha256", (len(samples), 32), np.uint8)
    file.create_dataset("subimages", data=np.array(cuts, np.int64))
    pixels = sum(cut.height * cut.width for cut in cuts)
    for name, count in (("hr", pixels), ("lr", pixels // SCALE**2)):
        file.create_dataset(name, (count, 3), np.uint8, fill_time="never")


def _write_pixels(
    file: h5py.File,
    samples: tuple[Sample, ...],
    sizes: list[tuple[int, int]],
    cuts: list[Cut],
    report: Callable[[Progress], None],
) -> None:
    of_photograph = {n: list(c) for n, c in itertools.groupby(cuts, lambda cut: cut.photograph)}
    at = 0
    for number, (pair, sha256) in enumerate(_loaded(samples, sizes)):
        if pair.hr.shape[:2] != sizes[number]:
            raise DataError(f"{pair.path}: changed while it was packed; pack again")
        file["photographs/sha256"][number] = np.frombuffer(sha256, np.uint8)
        for cut in of_photograph.get(number, []):
            pixels = cut.of(pair.lr, SCALE)
            file["lr"][at : at + len(pixels)] = pixels
            file["hr"][at * SCALE**2 : (at + len(pixels)) * SCALE**2] = cut.of(pair.hr, 1)
            at += len(pixels)
        report(Progress(pair.path, number + 1, len(samples)))


def _loaded(
    samples: tuple[Sample, ...], sizes: list[tuple[int, int]]
) -> Iterator[tuple[Pair, bytes]]:
    """Pairs and digests in order, made by a pool of threads that keeps at most AHEAD pixels, or
    one photograph, in work."""

    def load(number: int) -> tuple[Pair, bytes]:
        pair = load_pair(samples[number])
        return pair, digest(pair)

    pool = ThreadPoolExecutor()
    try:
        queue: deque[Future[tuple[Pair, bytes]]] = deque()
        submitted, pixels = 0, 0
        areas = [height * width for height, width in sizes]
        for number in range(len(samples)):
            while submitted < len(samples) and (not queue or pixels + areas[submitted] <= AHEAD):
                queue.append(pool.submit(load, submitted))
                pixels += areas[submitted]
                submitted += 1
            yield queue.popleft().result()
            pixels -= areas[number]
    finally:
        pool.shutdown(cancel_futures=True)


def open_packed(path: Path) -> Collection:
    """Open a file that `pack` wrote; the pairs are its sub-images, mapped from the file and read
    when they are looked at. DataError in one line for any other file, a damaged one, one of a newer
    version and one for another scale."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a packed file or a folder of photographs")
    try:
        with path.open("rb") as bytes_:
            signature = bytes_.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if signature != b"\x89HDF\r\n\x1a\n":
        raise DataError(f"{path}: is no packed file; name a folder of photographs, or pack one")
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_format(path, file)
            return _read(path, file)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split()).strip("'\"")
        raise DataError(f"{path}: is damaged ({reason}); pack the photographs again") from None


def _check_format(path: Path, file: h5py.File) -> None:
    if file.attrs.get("format") != FORMAT.encode():
        raise DataError(
            f"{path}: is an HDF5 file of another kind; name one that srtool packed, or a folder "
            "of photographs"
        )
    version, scale = int(file.attrs["version"]), int(file.attrs["scale"])
    if version != VERSION:
        raise DataError(
            f"{path}: has format version {version}, this srtool reads version {VERSION}; "
            "update srtool or pack the photographs again"
        )
    if scale != SCALE:
        raise DataError(
            f"{path}: was packed for scale x{scale}, expected x{SCALE}; pack the photographs again"
        )


def _read(path: Path, file: h5py.File) -> Collection:
    """ValueError and the like where the parts of the file contradict one another."""
    names = file["photographs/name"][:]
    sizes, sha256 = file["photographs/size"][:], file["photographs/sha256"][:]
    table = file["subimages"][:]
    side = int(file.attrs["side"])
    if sizes.shape != (len(names), 2) or sha256.shape != (len(names), 32):
        raise ValueError("the tables of photographs have different lengths")
    if table.ndim != 2 or table.shape[1] != 5 or not len(table):
        raise ValueError("the table of sub-images has another form")
    number, top, left, height, width = table.T
    ends = np.stack([top + height, left + width], 1)
    if (
        (number < 0).any()
        or (table[:, 1:] % SCALE).any()
        or (np.minimum(top, left) < 0).any()
        or (np.minimum(height, width) <= 0).any()
        or (np.maximum(height, width) > side).any()
        or (ends > sizes[number]).any()
    ):
        raise ValueError("a sub-image lies outside its photograph")
    photographs = tuple(
        Photograph(bytes(name).decode("utf-8", "replace"), int(size[0]), int(size[1]), bytes(sha))
        for name, size, sha in zip(names, sizes, sha256, strict=True)
    )
    lr_ends = np.cumsum(height * width // SCALE**2).tolist()
    hr = _mapped(path, file["hr"], lr_ends[-1] * SCALE**2)
    lr = _mapped(path, file["lr"], lr_ends[-1])
    paths = [Path(photo.name) for photo in photographs]
    pairs, first = [], 0
    for (owner, _, _, rows, columns), end in zip(table.tolist(), lr_ends, strict=True):
        high = hr[first * SCALE**2 : end * SCALE**2].reshape(rows, columns, 3)
        low = lr[first:end].reshape(rows // SCALE, columns // SCALE, 3)
        pairs.append(Pair(paths[owner], high, low))
        first = end
    return Collection(photographs, tuple(pairs), tuple(number.tolist()))


def _mapped(path: Path, dataset: h5py.Dataset, pixels: int) -> NDArray[np.uint8]:
    """The bytes of a data set as they lie in the file, read-only."""
    if dataset.shape != (pixels, 3) or dataset.dtype != np.uint8:
        raise ValueError(f"{dataset.name} is {dataset.dtype} {dataset.shape}, not ({pixels}, 3)")
    offset = dataset.id.get_offset()
    if offset is None:
        raise ValueError(f"{dataset.name} is compressed or chunked")
    mapped = np.memmap(path, np.uint8, "r", offset, (pixels, 3))
    # A plain array: slicing a memmap costs several times as much.
    return mapped.view(np.ndarray)
