"""Pictures on their way: each waits for its turn, is read, upscaled and written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeVar, cast

import anyio
from anyio import from_thread, to_thread

from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image
from srtool.runtime.engine import Engine
from srtool.runtime.guard import Guard
from srtool.runtime.session import TileEngine
from srtool.runtime.upscaling import Options, upscale_picture
from srtool.serving.kinds import Format
from srtool.serving.limits import Limits, Refusal
from srtool.serving.metrics import Metrics
from srtool.serving.watch import Watched

Stage = Literal["receiving", "waiting", "reading", "upscaling", "writing"]
Result = TypeVar("Result")
ON_GPU = 4  # pictures at a time, whose tiles fill its batches


@dataclass(eq=False)
class Task:
    """A picture on its way. done, total: its tiles. seconds: what each stage took. notes: what
    whoever sent it should know of the result. size: of the result, width and height."""

    stage: Stage = "receiving"
    done: int = 0
    total: int = 0
    seconds: dict[Stage, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)

    def count(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        self.stage, start = stage, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start


@dataclass(frozen=True)
class Order:
    """What to do. engine: its name. kind: the format that is written. name: of the picture, as its
    sender calls it."""

    engine: str
    source: Path
    kind: Format
    options: Options
    name: str

    @property
    def target(self) -> Path:
        return self.source.with_name(f"result.{self.kind}")


class Queue:
    """Upscales pictures in the order in which they came: one at a time, since one keeps all cores
    busy, on GPUs several; the one before is written and the one after is read meanwhile."""

    def __init__(self, engines: dict[str, Engine], limits: Limits, metrics: Metrics) -> None:
        self._engines, self._limits, self._metrics = engines, limits, metrics
        abreast = ON_GPU if all(engine.is_deferred for engine in engines.values()) else 1
        self._turn, self._computing = anyio.Semaphore(abreast + 1), anyio.Semaphore(abreast)
        self._waiting: deque[Task] = deque()
        self._recent: deque[float] = deque(maxlen=20)  # seconds that pictures took

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._limits.waiting

    def before(self, task: Task) -> int:
        """How many wait that came earlier."""
        return self._waiting.index(task) if task in self._waiting else 0

    def refuse_if_full(self) -> None:
        """Refusal where no more may wait."""
        if self.is_full:
            mean = sum(self._recent) / len(self._recent) if self._recent else 1.0
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{len(self._waiting)} pictures are waiting already; send it again later",
                {"Retry-After": str(max(1, min(600, round(mean))))},
            )

    async def upscale(self, order: Order, task: Task) -> None:
        """Carry out one order. Raises what the library says of the picture; Refusal where too many
        wait, or it takes too long. Where it is cancelled, it stops after the tile at hand."""
        async with self._its_turn(task):
            try:
                with anyio.fail_after(self._limits.seconds):
                    await self._carry_out(order, task)
            except TimeoutError:
                raise Refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    f"{order.name}: took longer than {self._limits.seconds:g} seconds; "
                    "send a smaller picture",
                ) from None

    @asynccontextmanager
    async def _its_turn(self, task: Task) -> AsyncIterator[None]:
        self.refuse_if_full()
        self._waiting.append(task)
        try:
            with self._metrics.waiting.track_inprogress(), task.timed("waiting"):
                await self._turn.acquire()
        finally:
            self._waiting.remove(task)
        start = time.perf_counter()
        try:
            with self._metrics.working.track_inprogress():
                yield
        finally:
            self._turn.release()
            self._recent.append(time.perf_counter() - start)

    async def _carry_out(self, order: Order, task: Task) -> None:
        picture = await _stage(
            task, "reading", partial(read_image, order.source, self._limits.pixels)
        )
        if picture.pages > 1:
            task.notes.append(f"it has {picture.pages} pages; only the first is upscaled")
        async with self._computing:
            upscale = partial(self._upscaled, picture, order, task)
            upscaled = await _stage(task, "upscaling", upscale)
        write = partial(write_image, order.target, upscaled, order.options.quality)
        await _stage(task, "writing", write)
        task.size = upscaled.pixels.shape[1], upscaled.pixels.shape[0]
        for stage, seconds in task.seconds.items():
            self._metrics.seconds.labels(order.engine, stage).observe(seconds)
        for side, made in (("in", picture), ("out", upscaled)):
            self._metrics.pixels.labels(order.engine, side).inc(made.pixels.size // 3)

    def _upscaled(self, picture: Picture, order: Order, task: Task) -> Picture:
        watched = Watched(self._engines[order.engine], from_thread.check_cancelled, task.count)
        engine = cast(TileEngine, watched)
        guard = Guard(engine)
        upscaled = upscale_picture(picture, engine, order.options, guard)
        if note := guard.report():
            task.notes.append(note)
        return upscaled


async def _stage(task: Task, stage: Stage, work: Callable[[], Result]) -> Result:
    """Do it in a thread. Cancelled, this waits for the thread, which looks for that itself."""
    with task.timed(stage):
        return await to_thread.run_sync(work)
