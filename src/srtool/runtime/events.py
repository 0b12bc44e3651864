"""What happens in a run over many images: an event for each, their sum, and why one failed."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Literal

from srtool.errors import ImageError, SrtoolError, in_a_line
from srtool.runtime.gpu.cuda import OutOfMemory
from srtool.runtime.inputs import Job

Kind = Literal["done", "skipped", "other", "failed", "note"]


@dataclass
class Summary:
    """What was done. skipped: exist already; other: exist, but made by another engine or with
    other options. Seconds of decode and encode are spent in threads beside compute, which on a
    GPU is the time in which it computed; total is wall time. Pixels are LR and HR pixels of the
    images done."""

    files: int = 0
    skipped: int = 0
    other: int = 0
    failed: int = 0
    pixels_in: int = 0
    pixels_out: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "compute", "encode", "total"), 0.0)
    )


@dataclass(frozen=True)
class Event:
    """What the caller may tell the user about one job: it was done, was skipped since its result
    exists, or exists from another engine ("other"), or failed, or there is a note about it.
    message: one line that names the file. pixels_in, pixels_out: of an image that is done. error:
    why it failed."""

    job: Job
    kind: Kind
    message: str = ""
    pixels_in: int = 0
    pixels_out: int = 0
    error: SrtoolError | None = None


def engine_failure(error: Exception, job: Job) -> SrtoolError:
    """Why an image failed before it was written, in one line that names it."""
    if isinstance(error, SrtoolError | OSError):
        return _naming(error, job)
    text = in_a_line(error)
    message = f"{job.source}: the engine failed on it ({text})"
    if isinstance(error, MemoryError | OutOfMemory):
        message = f"{job.source}: the engine failed on it (not enough memory: {text})"
        return ImageError(message, path=job.source, remedy={"tile": 128})
    return ImageError(message, path=job.source)


def writing_failure(error: Exception, job: Job) -> SrtoolError:
    """Why an image could not be written."""
    if isinstance(error, OSError):
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        return ImageError(f"{job.target}: cannot be written ({reason})", path=job.target)
    if isinstance(error, MemoryError):
        return ImageError(f"{job.source}: not enough memory to write it", path=job.source)
    return _naming(error, job)


def _naming(error: Exception, job: Job) -> SrtoolError:
    """The error, with the image named where it is about something else."""
    text = in_a_line(error, None)
    if str(job.source) not in text and str(job.target) not in text:
        text = f"{job.source}: {text}"
    if not isinstance(error, SrtoolError):
        return ImageError(text, path=job.source)
    return ImageError(text, path=error.path or job.source, remedy=error.remedy)
