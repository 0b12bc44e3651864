"""What can be known of an image and of its result before anything is computed."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISDIR

import numpy as np

from srtool.errors import ImageError
from srtool.images.formats import FORMATS
from srtool.images.picture import Picture
from srtool.images.reading import ImageFile
from srtool.images.writing import STREAMED, Shape, check_writable
from srtool.runtime.events import Event
from srtool.runtime.index import Index, Origin
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options, RowsOf, passes

LARGE = 48_000_000  # bytes of a result; what is larger is made and written in bands of rows
_SHARE = {"PNG": 0.2, "TIFF": 0.2}  # of the bytes of its samples that a file takes at least
_SHARE_OF_LOSSY = 0.02
_LITTLE = 5_000_000  # bytes


def standing(job: Job, origin: Origin, index: Index | None, overwrite: bool) -> Event | None:
    """What stands where a result goes and keeps it from being made; None where nothing does."""
    try:
        status = job.target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return _failed(job, f"{job.target}: cannot be written ({reason})")
    if S_ISDIR(status.st_mode):
        return _failed(job, f"{job.target}: is a folder, where the upscaled image should go")
    if overwrite or status.st_size == 0:
        return None
    entry = index.of(job.target) if index else None
    difference = origin.difference(entry) if entry and not entry.failed else ""
    if difference:
        return Event(job, "other", f"{job.target}: exists, {difference}")
    return Event(job, "skipped")


def _failed(job: Job, message: str) -> Event:
    return Event(job, "failed", message, error=ImageError(message, path=job.target))


def check(job: Job, file: ImageFile, options: Options, scale: int) -> list[str]:
    """What is to be known of a file before it is upscaled, a line each; ImageError where its
    result cannot be made or written. scale: of the network."""
    width, height = options.size_of(file.width, file.height, scale)
    made = shape_made(file, options, scale)
    final = replace(made, width=width, height=height)
    check_writable(job.target, replace(final, has_alpha=False), file.metadata)
    check_space(job.target, final)
    if passes(file.width, (width, height), scale) > 1 and bytes_of(made) > 2 * LARGE:
        raise ImageError(
            f"{job.source}: {width}x{height} pixels take more than the network's {scale} times, "
            "which is for smaller pictures",
            path=job.source,
            found=f"{file.width}x{file.height}",
        )
    return notes_of(job, file)


def shape_made(file: ImageFile | RowsOf, options: Options, scale: int) -> Shape:
    """Of what the network makes of it."""
    dtype = np.dtype(np.uint8) if options.depth == 8 else file.dtype
    return Shape(file.width * scale, file.height * scale, dtype, file.gray, file.has_alpha)


def is_banded(target: Path, shape: Shape) -> bool:
    """Whether a result is made and written in bands of rows."""
    return bytes_of(shape) > LARGE and FORMATS[target.suffix.lower()] in STREAMED


def notes_of(job: Job, file: ImageFile) -> list[str]:
    """What is to be known of a file before it is upscaled."""
    notes = []
    if file.pages > 1:
        notes.append(f"{job.source}: has {file.pages} pages; only the first is upscaled")
    named = FORMATS.get(job.source.suffix.lower())
    if named and named != file.format and {named, file.format} != {"AVIF", "HEIF"}:
        notes.append(
            f"{job.source}: is a {file.format} file by its content; the result is "
            f"{FORMATS[job.target.suffix.lower()]}, as {job.target.name} says"
        )
    return notes


def opaque(picture: Picture, job: Job) -> Picture:
    """Without alpha, for JPEG; ImageError where there is something to be seen through."""
    if picture.alpha is None or (picture.alpha == np.iinfo(picture.alpha.dtype).max).all():
        return replace(picture, alpha=None)
    height, width = picture.pixels.shape[:2]
    shape = Shape(width, height, picture.pixels.dtype, picture.gray, has_alpha=True)
    check_writable(job.target, shape, picture.metadata)
    raise AssertionError("JPEG holds no alpha")


def check_opaque(file: ImageFile, job: Job) -> None:
    """The same of a large file, which is read once more for it."""
    with ImageFile(job.source, file.width * file.height) as again:
        rows = again.rows()
        for top in range(0, again.height, 64):
            stop = min(again.height, top + 64)
            colours, alpha = rows.read(top, stop)
            opaque(Picture(colours, alpha), job)


def check_space(target: Path, shape: Shape) -> None:
    """ImageError where the disk is surely too full for a result."""
    share = _SHARE.get(FORMATS[target.suffix.lower()], _SHARE_OF_LOSSY)
    needed = bytes_of(shape) * share
    if needed < _LITTLE:
        return  # writing it tells soon enough
    with suppress(OSError):
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise ImageError(
                f"{target}: cannot be written, it needs about {needed / 1e6:.0f} MB and "
                f"{free / 1e6:.0f} MB are free on the disk"
            )


def bytes_of(shape: Shape) -> int:
    """Of a result's samples."""
    channels = (1 if shape.gray else 3) + shape.has_alpha
    return int(shape.width * shape.height * channels * shape.dtype.itemsize)
