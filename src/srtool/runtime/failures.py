"""Why an image failed, in one line that names it, whatever was raised."""

from __future__ import annotations

import errno

from srtool.errors import ImageError, SrtoolError, in_a_line
from srtool.runtime.gpu.cuda import OutOfMemory
from srtool.runtime.inputs import Job


def engine_failure(error: Exception, job: Job) -> SrtoolError:
    """Why an image failed before it was written."""
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
