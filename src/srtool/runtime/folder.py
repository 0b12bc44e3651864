"""The main job: decode, upscale and encode a list of images, all three at the same time."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from srtool.errors import ImageError, SrtoolError
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image
from srtool.runtime.engine import Engine
from srtool.runtime.guard import Guard
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options, Upscaling

MANY = 8  # threads that decode, and that encode, for a GPU
_FAILURES = (SrtoolError, RuntimeError, MemoryError, ValueError)  # of one image, not of the run


@dataclass
class Summary:
    """What was done. Seconds of decode and encode are spent in threads beside compute, which on a
    GPU is the time in which it computed; total is wall time. Pixels are LR and HR pixels of the
    images done."""

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


@dataclass
class _Started:
    """An image that the engine works on. pixels: how many it has."""

    job: Job
    upscaling: Upscaling
    guard: Guard
    pixels: int


def run(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options | None = None,
    report: Callable[[Event], None] = lambda event: None,
    summary: Summary | None = None,
) -> Summary:
    """Upscale every job's image; a bad one is reported and the others still get done.

    Decoding and encoding run in threads beside the engine, a bounded number of images ahead. A
    CPU takes one image after the other; a GPU works on the tiles of several at a time. Results
    are written whole or not at all, so an interrupted run can simply be repeated: what exists is
    skipped. On an interrupt (Ctrl-C) the images in the encoder are finished first.
    """
    summary = summary or Summary()
    options, guard = options or Options(), Guard(engine)
    threads = min(MANY, os.cpu_count() or 1) if engine.is_deferred else 1
    ahead = threads + 1  # images decoded before their turn, and images waiting to be encoded
    start, busy = time.perf_counter(), engine.busy
    todo = deque(jobs)
    decoding: deque[tuple[Job, Future[tuple[Picture, float]]]] = deque()
    started: deque[_Started] = deque()
    encoding: deque[tuple[Job, Future[float], int, int]] = deque()
    with ThreadPoolExecutor(threads) as decoder, ThreadPoolExecutor(threads) as encoder:
        try:
            while todo or decoding or started:
                while todo and len(decoding) < ahead:
                    job = todo.popleft()
                    if job.target.exists() and not options.overwrite:
                        summary.skipped += 1
                        report(Event(job, "skipped"))
                        continue
                    decoding.append((job, decoder.submit(_timed_read, job.source)))
                if decoding:
                    image = *decoding.popleft(), guard.another()
                    _start(*image, options, started, summary, report)
                else:
                    engine.flush()
                while started and started[0].upscaling.is_done:
                    _finish(started.popleft(), options, encoder, encoding, summary, report)
                while len(encoding) > ahead or (encoding and encoding[0][1].done()):
                    _collect(encoding, summary, report)
        finally:
            for _, waiting in decoding:
                waiting.cancel()
            while encoding:
                _collect(encoding, summary, report)
            if engine.is_deferred:
                summary.seconds["compute"] += engine.busy - busy
            summary.seconds["total"] = time.perf_counter() - start
    return summary


def _start(
    job: Job,
    decoded: Future[tuple[Picture, float]],
    guard: Guard,
    options: Options,
    started: deque[_Started],
    summary: Summary,
    report: Callable[[Event], None],
) -> None:
    """Hand one decoded image to the engine."""
    try:
        picture, seconds = decoded.result()
        summary.seconds["decode"] += seconds
        if picture.pages > 1:
            message = f"{job.source}: has {picture.pages} pages; only the first is upscaled"
            report(Event(job, "note", message))
        start = time.perf_counter()
        upscaling = Upscaling(picture, guard.engine, options, guard)
        started.append(_Started(job, upscaling, guard, _area(picture)))
    except _FAILURES as error:
        _fail(job, _reason(error, job), summary, report)
        _say(job, guard, report)
        return
    if not guard.engine.is_deferred:
        summary.seconds["compute"] += time.perf_counter() - start


def _finish(
    started: _Started,
    options: Options,
    encoder: ThreadPoolExecutor,
    encoding: deque[tuple[Job, Future[float], int, int]],
    summary: Summary,
    report: Callable[[Event], None],
) -> None:
    """Hand one upscaled image to the encoder."""
    job, guard = started.job, started.guard
    start = time.perf_counter()
    try:
        upscaled = started.upscaling.result()
    except _FAILURES as error:
        _fail(job, _reason(error, job), summary, report)
        return
    finally:
        _say(job, guard, report)
    if not guard.engine.is_deferred:
        summary.seconds["compute"] += time.perf_counter() - start
    written = encoder.submit(_timed_write, job.target, upscaled, options)
    encoding.append((job, written, started.pixels, _area(upscaled)))


def _say(job: Job, guard: Guard, report: Callable[[Event], None]) -> None:
    """What the guard and the engine have to say."""
    if note := guard.report():
        report(Event(job, "note", f"{job.source}: {note}"))
    for note in guard.engine.notes():
        report(Event(job, "note", f"{guard.engine.path}: {note}"))


def _area(picture: Picture) -> int:
    height, width = picture.pixels.shape[:2]
    return int(height * width)


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


def _reason(error: Exception, job: Job) -> str:
    """Why the engine failed on an image, in one line."""
    if isinstance(error, SrtoolError):
        return _naming(error, job)
    text = " ".join(str(error).split())[:160] or type(error).__name__
    return f"{job.source}: the engine failed on it ({text}); try a smaller --tile"


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
