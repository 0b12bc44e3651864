"""The main job: decode, upscale and encode a list of images, all three at the same time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from srtool.errors import SrtoolError
from srtool.images.formats import FORMATS
from srtool.images.picture import Picture, resized
from srtool.images.reading import ImageFile
from srtool.images.writing import RowWriter, write_image
from srtool.interrupts import interrupts_held
from srtool.runtime.checks import (
    bytes_of,
    check,
    check_opaque,
    is_banded,
    opaque,
    shape_made,
    standing,
)
from srtool.runtime.engine import Engine
from srtool.runtime.events import Event, Kind, Summary, engine_failure, writing_failure
from srtool.runtime.guard import Guard
from srtool.runtime.index import Entry, Index, Origin
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import (
    Options,
    RowsOf,
    Upscaling,
    bands_of,
    passes,
    upscale_picture,
    upscaled_bands,
)
from srtool.system import cores

MANY = 8  # threads that decode, and that encode, for a GPU
HELD = 80_000_000  # bytes of one that wait for the encoder, or are being made

OnTile = Callable[[Job, int, int], None]


@dataclass
class _Decoded:
    """A picture, or the open file of a large one."""

    picture: Picture | None
    file: ImageFile | None
    notes: list[str]
    seconds: float


@dataclass
class _Started:
    """An image that the engine works on."""

    job: Job
    upscaling: Upscaling
    guard: Guard
    pixels: int
    size: tuple[int, int]


@dataclass
class _Writing:
    """An image that is being encoded. written: the seconds that it took."""

    job: Job
    written: Future[float]
    pixels_in: int
    pixels_out: int


def upscale_images(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options | None = None,
    summary: Summary | None = None,
    index: Index | None = None,
    on_tile: OnTile = lambda job, done, count: None,
) -> Generator[Event, None, None]:
    """Upscale every job's image; a bad one is reported and the others still get done.

    Decoding and encoding run in threads beside the engine, a bounded number of images ahead; a
    large image is read, upscaled and written in bands of rows. A CPU takes one image after the
    other; a GPU works on the tiles of several at a time. Results are written whole or not at all,
    so an interrupted run can simply be repeated: what exists is skipped. On an interrupt (Ctrl-C,
    or when the iterator is closed) the images in the encoder are finished first.

    jobs: pulled as they are needed, so that a source may come from elsewhere just before its turn.
    summary: counts along. index: of the output folder; tells results of other engines apart, and
    is kept up to date. on_tile: called with the number of tiles of an image that are done.
    """
    run = _Run(engine, options or Options(), summary or Summary(), index, on_tile)
    return run.events(jobs)


def run(
    jobs: Iterable[Job],
    engine: Engine,
    options: Options | None = None,
    report: Callable[[Event], None] = lambda event: None,
    summary: Summary | None = None,
) -> Summary:
    """`upscale_images` to its end, with what happens given to `report`."""
    summary = summary or Summary()
    for event in upscale_images(jobs, engine, options, summary):
        report(event)
    return summary


class _Run:
    """One call of `upscale_images`."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        summary: Summary,
        index: Index | None,
        on_tile: OnTile,
    ) -> None:
        self._engine, self._options, self._summary = engine, options, summary
        self._index, self._on_tile = index, on_tile
        self._origin = Origin(engine.path, engine.facts.weights_sha256, options)
        self._events: deque[Event] = deque()
        self._decoding: deque[tuple[Job, Future[_Decoded]]] = deque()
        self._started: deque[_Started] = deque()
        self._encoding: deque[_Writing] = deque()

    def events(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        engine, summary = self._engine, self._summary
        threads = min(MANY, cores()) if engine.is_deferred else 1
        ahead = threads + 1  # images decoded before their turn, and images waiting to be encoded
        start, busy = time.perf_counter(), engine.busy
        todo, is_over = iter(jobs), False
        with ThreadPoolExecutor(threads) as decoder, ThreadPoolExecutor(threads) as encoder:
            self._encoder = encoder
            try:
                while not is_over or self._decoding or self._started:
                    while not is_over and len(self._decoding) < ahead:
                        job = next(todo, None)
                        if job is None:
                            is_over = True
                        elif self._is_wanted(job):
                            self._decoding.append((job, decoder.submit(self._decode, job)))
                        yield from self._drained()
                    if self._decoding:
                        self._start(*self._decoding.popleft())
                    else:
                        engine.flush()
                    while self._started and self._started[0].upscaling.is_done:
                        self._finish(self._started.popleft())
                    while len(self._encoding) > ahead or (
                        self._encoding and self._encoding[0].written.done()
                    ):
                        self._collect()
                    yield from self._drained()
                self._wind_up()
                yield from self._drained()
            except KeyboardInterrupt:
                self._wind_up()
                yield from self._drained()
                raise
            finally:
                self._wind_up()
                if engine.is_deferred:
                    summary.seconds["compute"] += engine.busy - busy
                summary.seconds["total"] += time.perf_counter() - start

    def _drained(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()

    def _wind_up(self) -> None:
        """Let go of what waits to be decoded, and finish what is being encoded."""
        while self._decoding:
            _, waiting = self._decoding.popleft()
            if not waiting.cancel():
                with suppress(Exception):
                    if file := waiting.result().file:
                        file.close()
        while self._encoding:
            self._collect()

    def _is_wanted(self, job: Job) -> bool:
        """Whether an image is to be upscaled; if not, why is said."""
        event = standing(job, self._origin, self._index, self._options.overwrite)
        if event is None:
            return True
        if event.error:
            self._fail(job, event.error)
            return False
        self._summary.other += event.kind == "other"
        self._summary.skipped += event.kind == "skipped"
        self._events.append(event)
        return False

    def _decode(self, job: Job) -> _Decoded:
        """In a thread: what can be known before computing is checked before."""
        start = time.perf_counter()
        options, scale = self._options, self._engine.facts.scale
        file = ImageFile(job.source, options.max_pixels)
        try:
            notes = check(job, file, options, scale)
            once = passes(file.width, self._size(file), scale) == 1
            if once and is_banded(job.target, shape_made(file, options, scale)):
                return _Decoded(None, file, notes, time.perf_counter() - start)
            picture = file.read()
            file.close()
            if FORMATS[job.target.suffix.lower()] == "JPEG":
                picture = opaque(picture, job)
            return _Decoded(picture, None, notes, time.perf_counter() - start)
        except BaseException:
            file.close()
            raise

    def _size(self, file: ImageFile | RowsOf) -> tuple[int, int]:
        """Width and height of the result."""
        return self._options.size_of(file.width, file.height, self._engine.facts.scale)

    def _start(self, job: Job, decoding: Future[_Decoded]) -> None:
        """Hand one decoded image to the engine."""
        guard = Guard(self._engine)
        try:
            decoded = decoding.result()
            self._summary.seconds["decode"] += decoded.seconds
            for note in decoded.notes:
                self._say(job, "note", note)
            start = time.perf_counter()
            if decoded.file:
                with decoded.file as file:
                    self._stream(job, file, guard, self._size(file))
            elif decoded.picture:
                self._start_picture(job, decoded.picture, guard)
                self._computed(start)
        except Exception as error:  # whatever goes wrong with one image, the others get done
            self._fail(job, engine_failure(error, job))
            self._say_of(job, guard)

    def _start_picture(self, job: Job, picture: Picture, guard: Guard) -> None:
        source = RowsOf(picture)
        size, area = self._size(source), source.width * source.height
        on_tile = partial(self._on_tile, job)
        if passes(source.width, size, self._engine.facts.scale) > 1:
            once = replace(self._options, size=None)
            picture = upscale_picture(picture, self._engine, once, guard, on_tile)
            made = RowsOf(picture)
            shape = shape_made(made, self._options, self._engine.facts.scale)
            if is_banded(job.target, shape):
                self._stream(job, made, guard, size)
                return
        upscaling = Upscaling(picture, self._engine, self._options, guard, on_tile)
        self._started.append(_Started(job, upscaling, guard, area, size))

    def _stream(
        self, job: Job, file: ImageFile | RowsOf, guard: Guard, size: tuple[int, int]
    ) -> None:
        """Upscale and write a large image, band by band."""
        shape = shape_made(file, self._options, self._engine.facts.scale)
        if shape.has_alpha and FORMATS[job.target.suffix.lower()] == "JPEG":
            assert isinstance(file, ImageFile), "a picture in memory was made opaque"
            check_opaque(file, job)
            shape = replace(shape, has_alpha=False)
        height = max(band.last - band.first for band in bands_of(file, self._engine, self._options))
        being_made = bytes_of(replace(shape, height=height * self._engine.facts.scale))
        behind = max(HELD - being_made, HELD // 8)
        writer = RowWriter(job.target, shape, file.metadata, self._options.quality, behind, size)
        written = self._encoder.submit(_timed, writer.write)
        start = time.perf_counter()
        try:
            for band in upscaled_bands(
                file, self._engine, self._options, guard, partial(self._on_tile, job)
            ):
                self._computed(start)
                writer.feed(band.pixels, band.alpha if shape.has_alpha else None)
                del band
                start = time.perf_counter()
        except BaseException:
            writer.end()
            error = written.exception()
            if writer.has_failed and error is not None:
                raise error from None
            raise
        writer.end()
        area = file.width * file.height
        self._encoding.append(_Writing(job, written, area, size[0] * size[1]))
        self._say_of(job, guard)

    def _finish(self, started: _Started) -> None:
        """Hand one upscaled image to the encoder."""
        job, guard = started.job, started.guard
        start = time.perf_counter()
        try:
            upscaled = started.upscaling.result()
        except Exception as error:  # see `_start`
            self._fail(job, engine_failure(error, job))
            return
        finally:
            self._say_of(job, guard)
        self._computed(start)
        written = self._encoder.submit(
            _timed,
            lambda: write_image(job.target, resized(upscaled, started.size), self._options.quality),
        )
        made = started.size[0] * started.size[1]
        self._encoding.append(_Writing(job, written, started.pixels, made))

    def _collect(self) -> None:
        """Wait for the oldest image to be written and count it."""
        wait([self._encoding[0].written])
        with interrupts_held():  # what lies there is counted, and stands in the index
            self._count()

    def _count(self) -> None:
        writing = self._encoding.popleft()
        job, summary = writing.job, self._summary
        try:
            summary.seconds["encode"] += writing.written.result()
        except Exception as error:  # see `_start`
            self._fail(job, writing_failure(error, job))
            return
        summary.files += 1
        summary.pixels_in += writing.pixels_in
        summary.pixels_out += writing.pixels_out
        self._note(self._origin.entry(self._index.key(job.target)) if self._index else None)
        self._events.append(Event(job, "done", "", writing.pixels_in, writing.pixels_out))

    def _computed(self, start: float) -> None:
        if not self._engine.is_deferred:
            self._summary.seconds["compute"] += time.perf_counter() - start

    def _say(self, job: Job, kind: Kind, message: str = "") -> None:
        self._events.append(Event(job, kind, message))

    def _say_of(self, job: Job, guard: Guard) -> None:
        """What the guard and the engine have to say."""
        if note := guard.report():
            self._say(job, "note", f"{job.source}: {note}")
        for note in guard.engine.notes():
            self._say(job, "note", f"{guard.engine.path}: {note}")

    def _fail(self, job: Job, error: SrtoolError) -> None:
        self._summary.failed += 1
        self._events.append(Event(job, "failed", str(error), error=error))
        if self._index:
            self._note(Entry(self._index.key(job.target), failed=str(error)))

    def _note(self, entry: Entry | None) -> None:
        if self._index and entry:
            with suppress(OSError):  # a full disk costs the index, not the run
                self._index.add(entry)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
