"""The main job: decode, upscale and encode a list of images, all three at the same time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError, SrtoolError
from srtool.runtime.engine import Engine, to_levels
from srtool.runtime.guard import Guard
from srtool.runtime.image import Picture, read_image, write_image
from srtool.runtime.inputs import Job
from srtool.runtime.tiles import DEFAULT_TILE, upscale_tiled

AHEAD = 2  # images decoded before their turn, and images waiting to be encoded


@dataclass(frozen=True)
class Options:
    """tile, halo: see `upscale_tiled`. depth: bits per channel of the result, 8 forces 8-bit.
    quality: of lossy formats. overwrite: redo images whose result exists."""

    tile: int = DEFAULT_TILE
    halo: int | None = None
    depth: int | None = None
    quality: int | None = None
    overwrite: bool = False


@dataclass
class Summary:
    """What was done. Seconds of decode and encode are spent in threads beside compute; total is
    wall time. Pixels are LR and HR pixels of the images done."""

    files: int = 0
    skipped: int = 0
    failed: int = 0
    pixels_in: int = 0
    pixels_out: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "compute", "encode", "total"), 0.0)
    )


@dataclass(frozen=True)
class Event:
    """What the caller may tell the user about one job: it was done, skipped, or failed, or there
    is a note about it. message: one line that names the file."""

    job: Job
    kind: str  # "done", "skipped", "failed" or "note"
    message: str = ""


def upscale_picture(
    picture: Picture, engine: Engine, options: Options, guard: Guard | None = None
) -> Picture:
    """Upscale colours and alpha; 16-bit pictures go through the engine's float32 form."""
    if options.depth == 8 and picture.pixels.dtype != np.uint8:
        picture = _as_8_bit(picture)
    pixels = _upscale(picture.pixels, engine, options, guard)
    alpha = picture.alpha
    if alpha is not None:
        if alpha.min() == alpha.max():  # nearly always opaque throughout
            alpha = np.full(pixels.shape[:2], alpha.flat[0], alpha.dtype)
        else:
            alpha = _gray(_upscale(np.stack([alpha] * 3, -1), engine, options, guard))
    if picture.gray:
        pixels = np.stack([_gray(pixels)] * 3, -1)
    return replace(picture, pixels=pixels, alpha=alpha)


def _upscale(
    pixels: NDArray[Any], engine: Engine, options: Options, guard: Guard | None
) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return upscale_tiled(pixels, engine, options.tile, options.halo, guard)
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    upscaled = upscale_tiled(scaled, engine, options.tile, options.halo, guard)
    return to_levels(upscaled, pixels.dtype)


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """Mean of the channels, rounded: a network gives gray images a slight tint."""
    mean: NDArray[Any] = np.rint(pixels.mean(-1, dtype=np.float32)).astype(pixels.dtype)
    return mean


def _as_8_bit(picture: Picture) -> Picture:
    alpha = picture.alpha
    return replace(
        picture,
        pixels=to_levels(picture.pixels / np.float32(65535), np.uint8),
        alpha=None if alpha is None else to_levels(alpha / np.float32(65535), np.uint8),
    )


def run(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options = Options(),
    report: Callable[[Event], None] = lambda event: None,
    summary: Summary | None = None,
) -> Summary:
    """Upscale every job's image; a bad one is reported and the others still get done.

    Decoding and encoding run in threads beside the engine, a bounded number of images ahead.
    Results are written whole or not at all, so an interrupted run can simply be repeated: what
    exists is skipped. On an interrupt (Ctrl-C) the images in the encoder are finished first.
    """
    summary = summary or Summary()
    guard = Guard(engine)
    start = time.perf_counter()
    todo = deque(jobs)
    decoding: deque[tuple[Job, Future[tuple[Picture, float]]]] = deque()
    encoding: deque[tuple[Job, Future[float], int, int]] = deque()
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as encoder:
        try:
            while todo or decoding:
                while todo and len(decoding) < AHEAD:
                    job = todo.popleft()
                    if job.target.exists() and not options.overwrite:
                        summary.skipped += 1
                        report(Event(job, "skipped"))
                        continue
                    decoding.append((job, decoder.submit(_timed_read, job.source)))
                if not decoding:
                    break
                _compute(*decoding.popleft(), guard, options, encoder, encoding, summary, report)
                while len(encoding) > AHEAD or (encoding and encoding[0][1].done()):
                    _collect(encoding, summary, report)
        finally:
            for _, waiting in decoding:
                waiting.cancel()
            while encoding:
                _collect(encoding, summary, report)
            summary.seconds["total"] = time.perf_counter() - start
    return summary


def _compute(
    job: Job,
    decoded: Future[tuple[Picture, float]],
    guard: Guard,
    options: Options,
    encoder: ThreadPoolExecutor,
    encoding: deque[tuple[Job, Future[float], int, int]],
    summary: Summary,
    report: Callable[[Event], None],
) -> None:
    """Upscale one decoded image and hand it to the encoder."""
    try:
        picture, seconds = decoded.result()
        summary.seconds["decode"] += seconds
        if picture.pages > 1:
            message = f"{job.source}: has {picture.pages} pages; only the first is upscaled"
            report(Event(job, "note", message))
        start = time.perf_counter()
        upscaled = upscale_picture(picture, guard.engine, options, guard)
        summary.seconds["compute"] += time.perf_counter() - start
    except SrtoolError as error:
        _fail(job, _naming(error, job), summary, report)
        return
    except (RuntimeError, MemoryError, ValueError) as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        message = f"{job.source}: the engine failed on it ({text}); try a smaller --tile"
        _fail(job, message, summary, report)
        return
    finally:
        if note := guard.report():
            report(Event(job, "note", f"{job.source}: {note}"))
    sizes = [p.pixels.shape[0] * p.pixels.shape[1] for p in (picture, upscaled)]
    encoding.append((job, encoder.submit(_timed_write, job.target, upscaled, options), *sizes))


def _collect(
    encoding: deque[tuple[Job, Future[float], int, int]],
    summary: Summary,
    report: Callable[[Event], None],
) -> None:
    """Wait for the oldest image to be written and count it."""
    wait([encoding[0][1]])  # it is still in the queue: an interrupt here loses no count
    job, written, pixels_in, pixels_out = encoding.popleft()
    try:
        summary.seconds["encode"] += written.result()
    except (SrtoolError, OSError, MemoryError) as error:
        _fail(job, _naming(error, job), summary, report)
        return
    summary.files += 1
    summary.pixels_in += pixels_in
    summary.pixels_out += pixels_out
    report(Event(job, "done"))


def _fail(job: Job, message: str, summary: Summary, report: Callable[[Event], None]) -> None:
    summary.failed += 1
    report(Event(job, "failed", message))


def _naming(error: Exception, job: Job) -> str:
    """The error's line, with the image named when it is about something else."""
    text = str(error) or "not enough memory to write it"
    named = str(job.source) in text or str(job.target) in text
    return text if named else f"{job.source}: {text}"


def _timed_read(path: Path) -> tuple[Picture, float]:
    start = time.perf_counter()
    picture = read_image(path)
    return picture, time.perf_counter() - start


def _timed_write(path: Path, picture: Picture, options: Options) -> float:
    start = time.perf_counter()
    try:
        write_image(path, picture, options.quality)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from None
    return time.perf_counter() - start
