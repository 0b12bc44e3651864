"""What a run over many images would make, and what it would take: known before it starts."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from srtool.files import private_folder
from srtool.images.formats import FORMATS
from srtool.images.picture import Picture, Size
from srtool.images.reading import ImageFile
from srtool.images.writing import write_image
from srtool.runtime.checks import check, standing
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, engine_failure
from srtool.runtime.folder import MANY
from srtool.runtime.index import Index, Origin
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options, upscale_picture
from srtool.system import cores

LOOKED_AT = 64  # images of a run whose heads are read for an estimate
LONG = 60.0  # seconds: of a shorter run nothing is said
_SIDE = 128  # LR pixels of what is cut out of an image for a first trial, on a CPU
_LITTLE = 1.0  # seconds that a trial on a whole tile may take
_WORTH = 40  # times the pixels of a trial: in less than that it would be the longer part
_TRIALS = 3


@dataclass(frozen=True)
class Outlook:
    """What would become of one image. size, made: width and height, None where it is passed over.
    event: why it is; of one that would be made, its notes, empty for none."""

    job: Job
    event: Event | None
    size: tuple[int, int] | None = None
    made: tuple[int, int] | None = None


@dataclass(frozen=True)
class Forecast:
    """Of a run. files: to be made. pixels_in, pixels_out: of all of them. seconds, bytes: what
    they will take, about; None where none of those that were tried can be read. free: bytes on the
    disk of the results."""

    files: int = 0
    pixels_in: int = 0
    pixels_out: int = 0
    seconds: float | None = 0.0
    bytes: int | None = 0
    free: int = 0


def outlook(
    jobs: Iterable[Job], engine: Engine, options: Options, index: Index | None
) -> Iterator[Outlook]:
    """What `upscale_images` would do with each image, as far as its head tells."""
    origin = Origin(engine.path, engine.facts.weights_sha256, options)
    for job in jobs:
        event = standing(job, origin, index, options.overwrite)
        if event is not None:
            yield Outlook(job, event)
            continue
        try:
            with ImageFile(job.source, options.max_pixels) as file:
                notes = check(job, file, options, engine.facts.scale)
                size = file.width, file.height
        except Exception as error:  # whatever it is, it is this one image's
            failure = engine_failure(error, job)
            yield Outlook(job, Event(job, "failed", str(failure), error=failure))
            continue
        made = options.size_of(*size, engine.facts.scale)
        note = Event(job, "note", "; ".join(notes)) if notes else None
        yield Outlook(job, note, size, made)


def forecast(
    outlooks: Sequence[Outlook], of: int, engine: Engine, options: Options, *, always: bool
) -> Forecast | None:
    """What a run over `of` images takes, of which these were looked at.

    Parts of a few of the images are upscaled and encoded for it. Not always: None where that would
    be no small part of the run, or shows that it is shorter than LONG.
    """
    wanted = [each for each in outlooks if each.size and each.made]
    if not wanted:
        return Forecast() if always else None
    share = of / len(outlooks)
    pixels_in = round(share * sum(math.prod(each.size) for each in wanted if each.size))
    pixels_out = round(share * sum(math.prod(each.made) for each in wanted if each.made))
    if not always and pixels_in < _WORTH * _SIDE**2:
        return None
    tried = [wanted[len(wanted) * (2 * n + 1) // (2 * _TRIALS)] for n in range(_TRIALS)]
    side = max(_SIDE, *engine.tile) if engine.is_deferred else _SIDE
    first = _trial(tried[0], side, engine, options)  # warms up
    if first and not always and first.seconds * pixels_in < LONG / 2:
        return None
    whole = min(engine.tile)
    if first and first.seconds * whole**2 < _LITTLE:
        side = max(side, whole)  # small ones cost more a pixel, and vary more
    trials = [trial for each in tried if (trial := _trial(each, side, engine, options))]
    seconds = size = None
    if trials:
        seconds = median(trial.seconds for trial in trials) * pixels_in
        size = round(fmean(trial.bytes for trial in trials) * pixels_out)
    if not always and (seconds is None or seconds < LONG):
        return None
    files, free = round(share * len(wanted)), _free(wanted[0].job.target)
    return Forecast(files, pixels_in, pixels_out, seconds, size, free)


@dataclass(frozen=True)
class _Trial:
    """seconds: a pixel of the input. bytes: a pixel of the result."""

    seconds: float
    bytes: float


def _trial(tried: Outlook, side: int, engine: Engine, options: Options) -> _Trial | None:
    """On a part of at most this side from the middle of an image; None where that fails, which
    the run will tell."""
    assert tried.size is not None
    assert tried.made is not None
    size = None if options.size is None else Size(scale=tried.made[0] / tried.size[0])
    try:
        part = _part(tried, side, options)
        start = time.perf_counter()
        made = upscale_picture(part, engine, replace(options, size=size))
        computed = time.perf_counter() - start
        with private_folder() as folder:
            path = folder / f"trial{tried.job.target.suffix}"
            start = time.perf_counter()
            write_image(path, made, options.quality)
            encoded = time.perf_counter() - start
            taken = path.stat().st_size
    except Exception:  # whatever it is
        return None
    computed *= _overlap(tried.size, engine, options)
    if engine.is_deferred:
        encoded /= min(MANY, cores())
    else:  # an encoder takes one of the cores that the engine has else for itself
        computed += encoded / cores()
    seconds = max(encoded, computed)
    (rows, columns), (high, wide) = part.pixels.shape[:2], made.pixels.shape[:2]
    return _Trial(seconds / (rows * columns), taken / (high * wide))


def _part(tried: Outlook, side: int, options: Options) -> Picture:
    """From the middle, where there is more to be seen than at the edges."""
    assert tried.size is not None
    left, top = (max(0, length - side) // 2 for length in tried.size)
    job, columns = tried.job, slice(left, left + side)
    with ImageFile(job.source, options.max_pixels) as file:
        pixels, alpha = file.rows().read(top, min(file.height, top + side))
        if alpha is not None:
            alpha = None if FORMATS[job.target.suffix.lower()] == "JPEG" else alpha[:, columns]
        return Picture(pixels[:, columns], alpha, file.gray)


def _overlap(size: tuple[int, int], engine: Engine, options: Options) -> float:
    """How many pixels are computed for one that is kept."""
    tile = options.tile or min(engine.tile)
    halo = engine.facts.halo if options.halo is None else options.halo
    return math.prod(tile / (tile - 2 * halo) for side in size if side > tile)


def _free(target: Path) -> int:
    """Bytes on the disk where a file will be."""
    there = next(folder for folder in target.absolute().parents if folder.is_dir())
    return shutil.disk_usage(there).free
