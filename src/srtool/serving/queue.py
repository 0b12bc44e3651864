"""Pictures on their way: each waits for its turn, and is upscaled as `srtool infer` does it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import anyio
from anyio import to_thread
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from srtool.images.reading import image_size
from srtool.runtime.engine import Engine
from srtool.runtime.events import Summary
from srtool.runtime.folder import upscale_images
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options
from srtool.serving.access import Limits, Refusal

Stage = Literal["receiving", "waiting", "upscaling"]
ON_GPU = 4  # pictures at a time, whose tiles fill its batches
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
MEDIA_TYPES = {  # of what is written, by the name of its format
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tif": "image/tiff",
    "avif": "image/avif",
}


class Stopped(Exception):
    """Nobody waits for the picture any more, or it has had its time."""


@dataclass(eq=False)
class Task:
    """A picture on its way. done, total: its tiles. is_awaited: by whoever sent it. deadline: see
    `time.monotonic`. seconds: what each part took. notes: what whoever sent it should know of the
    result. size: of the result, width and height."""

    stage: Stage = "receiving"
    done: int = 0
    total: int = 0
    is_awaited: bool = True
    deadline: float = float("inf")
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)

    def count(self, job: Job, done: int, total: int) -> None:
        """Called after each tile. Stopped ends the picture."""
        self.done, self.total = done, total
        if not self.is_awaited or time.monotonic() > self.deadline:
            raise Stopped


@dataclass(frozen=True)
class Order:
    """What to do. engine: its name. kind: the format that is written. name: of the picture, as its
    sender calls it."""

    engine: str
    source: Path
    kind: str
    options: Options
    name: str

    @property
    def target(self) -> Path:
        return self.source.with_name(f"result.{self.kind}")


class Queue:
    """Upscales pictures in the order in which they came: one at a time, since one keeps all cores
    busy, and several on GPUs."""

    def __init__(self, engines: Mapping[str, Engine], limits: Limits, metrics: Metrics) -> None:
        self._engines, self._limits, self._metrics = engines, limits, metrics
        on_gpu = all(engine.is_deferred for engine in engines.values())
        self._turn = anyio.Semaphore(ON_GPU if on_gpu else 1)
        self._waiting: deque[Task] = deque()
        self._recent: deque[float] = deque(maxlen=20)  # seconds that pictures took

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._limits.waiting

    def before(self, task: Task) -> int:
        """How many wait that came earlier."""
        return self._waiting.index(task) if task in self._waiting else 0

    def refusal(self) -> Refusal:
        """What a picture hears that finds no place."""
        mean = sum(self._recent) / len(self._recent) if self._recent else 1.0
        return Refusal(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"{len(self._waiting)} pictures are waiting already; send it again later",
            {"Retry-After": str(max(1, min(600, round(mean))))},
        )

    async def upscale(self, order: Order, task: Task) -> None:
        """Carry out one order. Raises what the library says of the picture; Refusal where too many
        wait, or it takes too long. Where it is not awaited, or cancelled, it ends after the tile
        at hand."""
        async with self._its_turn(task):
            task.stage, task.deadline = "upscaling", time.monotonic() + self._limits.seconds
            await to_thread.run_sync(partial(self._carry_out, order, task))
        for stage, seconds in task.seconds.items():
            self._metrics.seconds.labels(order.engine, stage).observe(seconds)

    @asynccontextmanager
    async def _its_turn(self, task: Task) -> AsyncIterator[None]:
        if self.is_full:
            raise self.refusal()
        self._waiting.append(task)
        task.stage, start = "waiting", time.perf_counter()
        try:
            with self._metrics.waiting.track_inprogress():
                await self._turn.acquire()
        finally:
            self._waiting.remove(task)
        now = time.perf_counter()
        task.seconds["waiting"] = now - start
        try:
            with self._metrics.working.track_inprogress():
                yield
        finally:
            self._turn.release()
            self._recent.append(time.perf_counter() - now)

    def _carry_out(self, order: Order, task: Task) -> None:
        job, summary = Job(order.source, order.target), Summary()
        engine = self._engines[order.engine]
        for event in upscale_images([job], engine, order.options, summary, on_tile=task.count):
            if event.kind == "note":
                task.notes.append(event.message)
            elif event.error is not None:
                if time.monotonic() > task.deadline:
                    raise Refusal(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        f"{order.name}: took longer than {self._limits.seconds:g} seconds; "
                        "send a smaller picture",
                    )
                raise event.error
        task.seconds |= {name: summary.seconds[name] for name in ("decode", "compute", "encode")}
        height, width = image_size(order.target)
        task.size = width, height
        for side, pixels in (("in", summary.pixels_in), ("out", summary.pixels_out)):
            self._metrics.pixels.labels(order.engine, side).inc(pixels)


class Metrics:
    """Counters of one server. `text` gives all of them."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        self.answers = Counter(
            "srtool_answers", "Answers to /v1/upscale.", ["status"], registry=self._all
        )
        self.seconds = Histogram(
            "srtool_seconds",
            "Seconds that a picture spent in each stage.",
            ["engine", "stage"],
            buckets=SECONDS,
            registry=self._all,
        )
        self.pixels = Counter(
            "srtool_pixels", "Pixels of pictures done.", ["engine", "side"], registry=self._all
        )
        self.waiting = Gauge(
            "srtool_waiting", "Pictures that wait for their turn.", registry=self._all
        )
        self.working = Gauge("srtool_working", "Pictures that are worked on.", registry=self._all)
        ProcessCollector(registry=self._all)

    def text(self) -> bytes:
        return generate_latest(self._all)
