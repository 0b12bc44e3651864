"""Processes that score images. Nothing heavy is imported here, see `_prepare`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from srtool.errors import SrtoolError
from srtool.interrupts import interrupts_held

Figures = dict[str, float | str]  # by metric: the figure, or why there is none


class Scorer:
    """Scores images in processes, a bounded number of them ahead."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self._pool, self._ahead = pool, 2 * workers
        self._waiting: deque[tuple[Callable[[Figures], None], Future[Figures]]] = deque()

    def start(self, done: Callable[[Figures], None], work: Callable[[], Figures]) -> None:
        """done: is called here with what `work` gives, image by image in the order of their start.
        work: is pickled."""
        self._waiting.append((done, self._pool.submit(work)))
        self.collect()
        while len(self._waiting) > self._ahead:
            self._collect()

    def collect(self) -> None:
        """Take what is scored by now."""
        while self._waiting and self._waiting[0][1].done():
            self._collect()

    def finish(self) -> None:
        """Wait for all."""
        while self._waiting:
            self._collect()

    def _collect(self) -> None:
        done, future = self._waiting.popleft()
        done(future.result())


@contextmanager
def scoring(workers: int, advice: str) -> Iterator[Scorer]:
    """Fresh (spawned) processes, each of one thread, that leave Ctrl-C to their parent. SrtoolError
    with the advice where one of them is ended from outside.

    Work that has not begun when the block ends is dropped.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare)
    try:
        # A process that is not prepared, or is half begun, would print its traceback
        with interrupts_held(from_children=True):
            for _ in range(workers):
                pool.submit(os.getpid)
        yield Scorer(pool, workers)
    except BrokenProcessPool:
        raise SrtoolError(
            "a process that scores images was ended by the system, most likely for want of "
            f"memory; {advice}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Keep this process from outliving the one that started it: a parent that is killed can tell
    nobody, and a pool's worker would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch(parent: Any) -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the parent's handler is
    end_with_parent()
    # BLAS and OpenMP read these when numpy, scipy and torch are first imported: after this.
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
