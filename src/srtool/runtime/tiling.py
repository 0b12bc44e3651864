"""Tiling: images larger than a tile are cut with a halo, upscaled piece by piece and joined."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import UsageError
from srtool.manifest import ModelFacts
from srtool.runtime.guard import Guard
from srtool.runtime.session import TileEngine, TooLarge


@dataclass(frozen=True)
class Tiling:
    """How an image is cut. tile: side in LR pixels, halo included; halo: LR pixels cut off where
    tiles meet; None for what suits the engine. times: how many images of this size come, as far as
    is known."""

    tile: int | None = None
    halo: int | None = None
    times: int = 1


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels: reads start..stop, and keeps first..last of it."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, tile: int, halo: int, step: int = 1) -> list[Span]:
    """Cover 0..length with tiles of one size, evenly spaced, each result at least halo away from
    a cut. No tile reaches over the image's edge, so the network sees true edges only there.

    step: tiles begin at multiples of it. Length and tile are multiples of it as well.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    check_tile(tile, halo, step)
    count = -(-(length - tile) // _stride(tile, halo, step)) + 1
    starts = [round(i * (length - tile) / (count - 1) / step) * step for i in range(count)]
    cuts = [(left + tile + right) // 2 for left, right in pairwise(starts)]
    return [
        Span(start, start + tile, first, last)
        for start, first, last in zip(starts, [0, *cuts], [*cuts, length], strict=True)
    ]


def fitted(length: int, tile: int, halo: int, step: int = 1) -> int:
    """The smallest side of tiles, at most `tile`, that covers a length with as few of them: what
    does not come out even is no reason to compute the same pixels twice."""
    if length <= tile:
        return tile
    check_tile(tile, halo, step)
    count = -(-(length - tile) // _stride(tile, halo, step)) + 1
    if step == 1:
        return -(-(length + 2 * halo * (count - 1)) // count)
    enough = (
        side
        for side in range(step * (-(-2 * halo // step) + 1), tile, step)
        if -(-(length - side) // _stride(side, halo, step)) + 1 <= count
    )
    return next(enough, tile)


def _stride(tile: int, halo: int, step: int) -> int:
    return (tile - 2 * halo) // step * step


def pieces(span: Span, tile: int, halo: int, step: int = 1) -> list[Span]:
    """Cover what a span keeps with smaller tiles, out of what it reads."""
    found = [
        Span(
            span.start + piece.start,
            span.start + piece.stop,
            max(span.first, span.start + piece.first),
            min(span.last, span.start + piece.last),
        )
        for piece in spans(span.stop - span.start, tile, halo, step)
    ]
    return [piece for piece in found if piece.first < piece.last]


def check_tile(tile: int, halo: int, step: int = 1) -> None:
    """UsageError where nothing of a tile would be kept."""
    if _stride(tile, halo, step) < 1:
        least = 2 * halo + step
        raise UsageError(
            f"a tile of {tile} pixels has nothing left of it with a halo of {halo} on each side; "
            f"expected at least {least}",
            parameter="tile",
            found=str(tile),
            expected=f"at least {least}",
        )


# Is told of each painted tile: how many are, and of how many. What it raises ends the image.
Progress = Callable[[int, int], None]


class Canvas:
    """An image on its way: its tiles are submitted when it is made, and painted as they come.

    Tiles may come in any thread, before or after `submit` returns.
    """

    def __init__(
        self,
        pixels: NDArray[Any],
        engine: TileEngine,
        tiling: Tiling = Tiling(),
        look: Guard | None = None,
        progress: Progress | None = None,
    ) -> None:
        """See `upscale_tiled`. What goes wrong with a tile is raised by `result`."""
        self._engine, self._look, self._times = engine, look, tiling.times
        self._progress, self._painted = progress, 0
        self._halo = engine.facts.halo if tiling.halo is None else tiling.halo
        self._sides = pixels.shape[:2]
        sides = _tile_sides(self._sides, engine, pixels.dtype, tiling.tile, self._halo)
        self._pixels = padded(pixels, engine.facts, sides if _whole_tiles(engine.facts) else (1, 1))
        self._error: Exception | None = None
        self._missing, self._lock = 0, threading.Lock()
        height, width = self._pixels.shape[:2]
        scale = engine.facts.scale
        self._made = np.empty((height * scale, width * scale, 3), pixels.dtype)
        self._submit(Span(0, height, 0, height), Span(0, width, 0, width), sides)

    @property
    def is_done(self) -> bool:
        return self._missing == 0

    def result(self) -> NDArray[Any]:
        """The upscaled image. The first error of a tile, if there was one."""
        assert self.is_done or self._error, "a canvas was looked at before the engine was flushed"
        if self._error is not None:
            raise self._error
        height, width = (side * self._engine.facts.scale for side in self._sides)
        return np.ascontiguousarray(self._made[:height, :width])

    def _submit(self, rows: Span, columns: Span, sides: tuple[int, int]) -> None:
        """Have a part of the image upscaled, in tiles of these sides."""
        step = self._engine.facts.multiple_of
        down = pieces(rows, sides[0], self._halo, step)
        across = pieces(columns, sides[1], self._halo, step)
        size = [each[0].stop - each[0].start for each in (down, across)]
        count = len(down) * len(across)
        with self._lock:
            self._missing += count
        self._engine.prepare((1, *size, 3), self._pixels.dtype, count * self._times)
        for row in down:
            for column in across:
                paint = partial(self._paint, row, column)
                if self._error is not None:
                    paint(self._error)
                    continue
                tile = self._pixels[row.start : row.stop, column.start : column.stop]
                if self._look is None:
                    self._engine.submit(tile, paint)
                else:
                    self._look.submit(tile, column.start, row.start, paint)

    def _paint(self, row: Span, column: Span, found: NDArray[Any] | Exception) -> None:
        """Keep what is to be kept of an upscaled tile; cut it up where it was too large."""
        scale = self._engine.facts.scale
        if isinstance(found, TooLarge):
            try:
                self._submit(row, column, self._engine.tile_of(self._pixels.dtype))
            except UsageError as error:
                found = error
        if isinstance(found, np.ndarray):
            kept = found[
                (row.first - row.start) * scale : (row.last - row.start) * scale,
                (column.first - column.start) * scale : (column.last - column.start) * scale,
            ]
            self._made[
                row.first * scale : row.last * scale, column.first * scale : column.last * scale
            ] = kept
        with self._lock:
            if isinstance(found, np.ndarray):
                self._painted += 1
            elif not isinstance(found, TooLarge):
                self._error = self._error or found
            self._missing -= 1
            done, total = self._painted, self._painted + self._missing
        if self._progress is not None and isinstance(found, np.ndarray):
            try:
                self._progress(done, total)
            except Exception as error:  # whoever looks on may end the image, and only this one
                self._error = self._error or error


def upscale_tiled(
    pixels: NDArray[Any],
    engine: TileEngine,
    tiling: Tiling = Tiling(),
    look: Guard | None = None,
) -> NDArray[Any]:
    """Upscale one image of any size in bounded memory.

    pixels: (H, W, 3) uint8, or float32 0..1. look: a guard of the same engine, which looks at
    every tile.
    Returns (scale * H, scale * W, 3) of the same dtype, float32 not clamped.
    """
    canvas = Canvas(pixels, engine, tiling, look)
    engine.flush()
    return canvas.result()


def _tile_sides(
    image: tuple[int, ...], engine: TileEngine, dtype: Any, tile: int | None, halo: int
) -> tuple[int, int]:
    """Height and width of the tiles of an image: what suits the engine, unless `tile` is asked
    for, and what its network takes."""
    facts = engine.facts
    if facts.fixed is not None:
        return facts.fixed
    step, least = facts.multiple_of, _taken_side(1, facts)
    suits = engine.tile_of(dtype) if tile is None else (tile, tile)
    if tile is None and facts.tile is not None and not engine.is_deferred:
        suits = min(suits[0], facts.tile), min(suits[1], facts.tile)
    height, width = (max(least, side // step * step) for side in suits)
    if engine.is_deferred:  # a GPU's tiles have one shape, for which its plan was made
        return height, width
    rows, columns = (_taken_side(side, facts) for side in image)
    if facts.square:
        side = min(height, width, max(rows, columns))
        return side, side
    return max(least, fitted(rows, height, halo, step)), max(
        least, fitted(columns, width, halo, step)
    )


def padded(
    pixels: NDArray[Any], facts: ModelFacts, least: tuple[int, int] = (1, 1)
) -> NDArray[Any]:
    """An image continued at right and bottom to sides that the network takes, and not below
    `least`: its mirror image without the edge itself, as networks' own code pads, and then the
    edge."""
    height, width = (
        _taken_side(max(side, low), facts) for side, low in zip(pixels.shape, least, strict=False)
    )
    rows, columns = height - pixels.shape[0], width - pixels.shape[1]
    for axis, missing in enumerate((rows, columns)):
        if not missing:
            continue
        mirrored = min(missing, pixels.shape[axis] - 1)
        for mode, count in (("reflect", mirrored), ("edge", missing - mirrored)):
            wide = [(0, count if axis == each else 0) for each in range(pixels.ndim)]
            pixels = np.pad(pixels, wide, mode=mode) if count else pixels  # type: ignore[call-overload]
    return pixels


def _whole_tiles(facts: ModelFacts) -> bool:
    """Whether no tile may be smaller than the others, in an image that is smaller than one."""
    return facts.square or facts.fixed is not None


def fits(sides: tuple[int, ...], facts: ModelFacts) -> bool:
    """Whether a network takes an image of this height and width as it is."""
    if facts.fixed is not None:
        return sides == facts.fixed
    same = all(_taken_side(side, facts) == side for side in sides)
    return same and (not facts.square or sides[0] == sides[1])


def _taken_side(side: int, facts: ModelFacts) -> int:
    """The least side, not smaller, that a network takes."""
    side = max(side, facts.minimum)
    return side + -side % facts.multiple_of
