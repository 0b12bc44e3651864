"""One candidate in a process of its own: its memory, its threads and its crashes are its own too.

The parent asks for one thing at a time, so that candidates can be run in turn without touching each
other. Nothing heavy is imported here: what a candidate imports counts as its load time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.opened import Opened
from srtool.benchmarks.speed.result import EndToEnd
from srtool.benchmarks.workers import end_with_parent
from srtool.errors import EngineError, SrtoolError, in_a_line
from srtool.files import private_folder
from srtool.interrupts import interrupts_held

MANY = 1_000_000
_NOT_MINE = (SrtoolError, RuntimeError, MemoryError, ImportError, OSError, ValueError)


class ProcessError(EngineError):
    """A candidate does not open, or fails; in one line."""


@dataclass(frozen=True)
class Ready:
    """A candidate after loading. seconds: from the start of the process's own work to there.
    backend: of an engine of srtool, "openvino bf16" for example; empty for baselines."""

    seconds: float
    software: str
    precision: str
    backend: str


class Process:
    """A process with one candidate in it. To be closed; ProcessError for whatever goes wrong
    inside."""

    def __init__(
        self, open_candidate: Callable[[], Any], threads: int | None = None, limit: float = 3600.0
    ) -> None:
        """open_candidate: gives what is `Opened`, and can be pickled; or anything else, and then
        that is `ready`. threads: CPUs that it may use, all where None. limit: seconds after which
        a request is given up."""
        context = multiprocessing.get_context("spawn")
        self._limit = limit
        self._connection, theirs = context.Pipe()
        self._left = ExitStack()
        self._log = self._left.enter_context(private_folder()) / "log.txt"
        self._log.touch()
        self._process = context.Process(
            target=_serve, args=(theirs, open_candidate, threads, str(self._log)), daemon=True
        )
        _launch(self._process)
        theirs.close()
        try:
            self.ready: Any = self._answer()
        except BaseException:
            self.close()
            raise

    def run(self, images: Path, times: int = MANY) -> float:
        """Upscale a batch, an .npy file of (N, H, W, 3) uint8; seconds. times: how many like it an
        engine is to expect, and may make ready for."""
        seconds: float = self._ask("run", images, times)
        return seconds

    def call(self, images: Path, callers: int, times: int) -> tuple[list[float], float]:
        """Have so many upscale a batch at the same time, each so many times: the seconds of each
        run, and of all together. Engines only."""
        found: tuple[list[float], float] = self._ask("call", images, callers, times)
        return found

    def result(self) -> NDArray[np.uint8]:
        """What the last run made: (N, sH, sW, 3)."""
        made: NDArray[np.uint8] = self._ask("result")
        return made

    def use_tile(self, side: int | None) -> None:
        """Cut images into tiles of this side; None for the engine's own choice. Engines only."""
        self._ask("tile", side)

    def folder(self, sources: Sequence[Path], size: tuple[int, int], out: Path) -> EndToEnd:
        """Upscale files of that size to files. Engines only; ProcessError where one fails: seconds
        without it are no measure."""
        found: EndToEnd = self._ask("folder", list(sources), size, out)
        return found

    def peak_memory(self) -> int | None:
        """Bytes that the process held at most since this was last asked, or since it began where
        the system keeps no such count."""
        held: int | None = self._ask("memory")
        return held

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long run
        self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        with suppress(OSError, ValueError):
            self._connection.send(("end", ()))
            self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._left.close()

    def _ask(self, what: str, *arguments: Any) -> Any:
        try:
            self._connection.send((what, arguments))
        except (OSError, ValueError):
            raise ProcessError(self._end()) from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self._connection.poll(self._limit):
                self._process.kill()
                raise ProcessError(f"did not answer within {self._limit:.0f} s")
            found = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ProcessError(self._end()) from None
        if isinstance(found, ProcessError):
            raise found
        return found

    def _end(self) -> str:
        """Why the process is no more."""
        self._process.join(5)
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "its process was ended by the system, most likely for want of memory"
        text = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(text) if line.strip()), "")
        return f"its process ended with code {code}" + (f" ({last[:160]})" if last else "")


def _launch(process: BaseProcess) -> None:
    """Start a process that no Ctrl-C reaches: halfway there, it would print a traceback. Where the
    parent is interrupted meanwhile, that is raised afterwards."""
    with interrupts_held(from_children=True):
        process.start()


def run_apart(run: Callable[[], Any], threads: int | None = None) -> Any:
    """What a function gives, in a process of its own that leaves nothing behind. ProcessError where
    it fails."""
    with Process(run, threads) as process:
        return process.ready


def _serve(
    connection: Connection, open_candidate: Callable[[], Any], threads: int | None, log: str
) -> None:
    """The process: open, then answer until the parent is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    end_with_parent()
    _quiet(log)
    _limit_threads(threads)
    start = time.perf_counter()
    try:
        opened = open_candidate()
    except _NOT_MINE as error:
        connection.send(_failure(error))
        return
    seconds = time.perf_counter() - start
    if not isinstance(opened, Opened):
        connection.send(opened)
        return
    backend = str(opened.engine.backend) if opened.engine else ""
    connection.send(Ready(seconds, opened.software, opened.precision, backend))
    served = _Served(opened)
    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:  # the parent is gone
            return
        if what == "end":
            return
        try:
            answer = getattr(served, what)(*arguments)
        except _NOT_MINE as error:
            answer = _failure(error)
        connection.send(answer)


class _Served:
    """What the process does for its parent, request by request."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._source: Path | None = None
        self._images: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        self._made = self._images
        self._tile: int | None = None

    def run(self, images: Path, times: int) -> float:
        self._load(images)
        self._made = np.empty(0, np.uint8)  # not beside the next one
        start = time.perf_counter()
        self._made = self._upscale(times)
        return time.perf_counter() - start

    def call(self, images: Path, callers: int, times: int) -> tuple[list[float], float]:
        self._load(images)

        def one(number: int) -> float:
            start = time.perf_counter()
            self._upscale(times)
            return time.perf_counter() - start

        start = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            found = list(pool.map(one, range(callers * times)))
        return found, time.perf_counter() - start

    def _load(self, images: Path) -> None:
        if images != self._source:
            self._source, self._images = images, np.load(images)

    def _upscale(self, times: int) -> NDArray[np.uint8]:
        engine = self._opened.engine
        if engine is None:
            return self._opened.upscale(self._images)
        from srtool.runtime.tiling import Canvas, Tiling

        height, width = self._images.shape[1:3]
        in_one = max(height, width) <= min(engine.tile) and not engine.is_deferred
        if in_one and self._tile is None:
            engine.prepare(self._images.shape, np.uint8, times)
            return engine.upscale_batch(self._images)
        tiling = Tiling(self._tile, times=times)
        canvases = [Canvas(image, engine, tiling) for image in self._images]
        engine.flush()  # on a GPU, tiles of different images share batches
        return np.stack([canvas.result() for canvas in canvases])

    def result(self) -> NDArray[np.uint8]:
        return self._made

    def tile(self, side: int | None) -> None:
        self._tile = side

    def folder(self, sources: list[Path], size: tuple[int, int], out: Path) -> EndToEnd:
        from srtool.runtime.folder import run
        from srtool.runtime.inputs import Job

        assert self._opened.engine is not None
        jobs = [Job(source, out / source.name) for source in sources]
        self.memory()
        summary = run(jobs, self._opened.engine)
        for job in jobs:
            job.target.unlink(missing_ok=True)
        if summary.failed:
            raise EngineError(f"{summary.failed} of {len(jobs)} images failed")
        seconds = summary.seconds
        return EndToEnd(
            files=len(jobs),
            size=size,
            seconds=seconds["total"],
            decode=seconds["decode"],
            compute=seconds["compute"],
            encode=seconds["encode"],
            peak_memory=self.memory(),
        )

    def memory(self) -> int | None:
        """Linux starts its count anew when asked to; elsewhere it is since the process began."""
        status = Path("/proc/self/status")
        if status.is_file():
            lines = status.read_text(encoding="utf-8").splitlines()
            held = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            return int(held) * 1024 if held else None
        import psutil

        peak: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
        return peak


def _quiet(log: str) -> None:
    """What libraries print goes to a file: it explains a crash, and is of no use otherwise."""
    descriptor = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _limit_threads(threads: int | None) -> None:
    """Every library counts the CPUs that a process may use, or reads OMP_NUM_THREADS."""
    if threads is None:
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _failure(error: BaseException) -> ProcessError:
    return ProcessError("not enough memory" if isinstance(error, MemoryError) else in_a_line(error))
