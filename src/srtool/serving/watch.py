"""An engine that tells how far it is with one picture, and stops when nobody waits any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from srtool.runtime.session import Callback, TileEngine


class Watched:
    """The engine, as one picture's tiles go through it.

    check: is called before each tile, and raises where the picture is to be given up.
    report: gets the tiles done and the tiles there are, as far as is known.
    """

    def __init__(
        self, engine: TileEngine, check: Callable[[], None], report: Callable[[int, int], None]
    ) -> None:
        self._engine, self._check, self._report = engine, check, report
        self._done = self._total = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def prepare(self, shape: tuple[int, ...], dtype: Any, times: int) -> None:
        self._total += times
        self._report(self._done, self._total)
        self._engine.prepare(shape, dtype, times)

    def submit(self, tile: NDArray[Any], callback: Callback) -> None:
        self._check()

        def count(found: NDArray[Any] | Exception) -> None:
            callback(found)
            self._done += 1
            self._report(self._done, self._total)

        self._engine.submit(tile, count)
