"""Tiling: images larger than a tile are cut with a halo, upscaled piece by piece and joined."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import UsageError
from srtool.runtime.gpu.scheduler import TooLarge

if TYPE_CHECKING:
    from srtool.runtime.engine import Engine
    from srtool.runtime.guard import Guard

DEFAULT_TILE = 256


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in LR pixels: reads start..stop, and keeps first..last of it."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, tile: int, halo: int) -> list[Span]:
    """Cover 0..length with tiles of one size, evenly spaced, each result at least halo away from
    a cut. No tile reaches over the image's edge, so the network sees true edges only there."""
    if length <= tile:
        return [Span(0, length, 0, length)]
    check_tile(tile, halo)
    count = -(-(length - 2 * halo) // (tile - 2 * halo))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    cuts = [(left + tile + right) // 2 for left, right in pairwise(starts)]
    return [
        Span(start, start + tile, first, last)
        for start, first, last in zip(starts, [0, *cuts], [*cuts, length], strict=True)
    ]


def fitted(length: int, tile: int, halo: int) -> int:
    """The smallest side of tiles, at most `tile`, that covers a length with as few of them: what
    does not come out even is no reason to compute the same pixels twice."""
    if length <= tile:
        return tile
    check_tile(tile, halo)
    count = -(-(length - 2 * halo) // (tile - 2 * halo))
    return -(-(length + 2 * halo * (count - 1)) // count)


def pieces(span: Span, tile: int, halo: int) -> list[Span]:
    """Cover what a span keeps with smaller tiles, out of what it reads."""
    found = [
        Span(
            span.start + piece.start,
            span.start + piece.stop,
            max(span.first, span.start + piece.first),
            min(span.last, span.start + piece.last),
        )
        for piece in spans(span.stop - span.start, tile, halo)
    ]
    return [piece for piece in found if piece.first < piece.last]


def check_tile(tile: int, halo: int) -> None:
    """UsageError where nothing of a tile would be kept."""
    if tile <= 2 * halo:
        raise UsageError(
            f"--tile {tile} leaves nothing of a tile with a halo of {halo} on each side; "
            f"expected more than {2 * halo}"
        )


class Canvas:
    """An image on its way: its tiles are submitted when it is made, and painted as they come."""

    def __init__(
        self,
        pixels: NDArray[Any],
        engine: Engine,
        tile: int | None = None,
        halo: int | None = None,
        guard: Guard | None = None,
        times: int = 1,
    ) -> None:
        """See `upscale_tiled`. times: how many images of this size come, as far as is known. What
        goes wrong with a tile is raised by `result`."""
        self._pixels, self._engine, self._guard = pixels, engine, guard
        self._halo = engine.facts.halo if halo is None else halo
        self._error: Exception | None = None
        self._missing, self._times = 0, times
        height, width = pixels.shape[:2]
        scale = engine.facts.scale
        self._made = np.empty((height * scale, width * scale, 3), pixels.dtype)
        sides = engine.tile_of(pixels.dtype) if tile is None else (tile, tile)
        if not engine.is_deferred:  # a GPU's tiles have one shape, for which its plan was made
            sides = fitted(height, sides[0], self._halo), fitted(width, sides[1], self._halo)
        self._submit(Span(0, height, 0, height), Span(0, width, 0, width), sides)

    @property
    def is_done(self) -> bool:
        return self._missing == 0

    def result(self) -> NDArray[Any]:
        """The upscaled image. The first error of a tile, if there was one."""
        assert self.is_done or self._error, "a canvas was looked at before the engine was flushed"
        if self._error is not None:
            raise self._error
        return self._made

    def _submit(self, rows: Span, columns: Span, sides: tuple[int, int]) -> None:
        """Have a part of the image upscaled, in tiles of these sides."""
        multiple = self._engine.facts.multiple_of
        down, across = pieces(rows, sides[0], self._halo), pieces(columns, sides[1], self._halo)
        size = [_padded_side(each[0].stop - each[0].start, multiple) for each in (down, across)]
        count = len(down) * len(across) * self._times
        self._engine.expect((1, *size, 3), self._pixels.dtype, count)
        for row in down:
            for column in across:
                if self._error is not None:
                    return
                tile = self._pixels[row.start : row.stop, column.start : column.stop]
                tile = _padded(tile, multiple)
                self._missing += 1
                paint = partial(self._paint, row, column)
                if self._guard is None:
                    self._engine.submit(tile, paint)
                else:
                    self._guard.submit(tile, column.start, row.start, paint)

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
        elif not isinstance(found, TooLarge):
            self._error = self._error or found
        self._missing -= 1


def upscale_tiled(
    pixels: NDArray[Any],
    engine: Engine,
    tile: int | None = None,
    halo: int | None = None,
    guard: Guard | None = None,
) -> NDArray[Any]:
    """Upscale one image of any size in bounded memory.

    pixels: (H, W, 3) uint8, or float32 0..1. tile: side in LR pixels, halo included (default: what
    suits the engine); halo: LR pixels cut off where tiles meet (default: the engine's own). guard:
    of the same engine, looks at every tile.
    Returns (scale * H, scale * W, 3) of the same dtype, float32 not clamped.
    """
    canvas = Canvas(pixels, engine, tile, halo, guard)
    engine.flush()
    return canvas.result()


def _padded(tile: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Continued by its mirror image to sides that are multiples of what the network needs."""
    rows, columns = (_padded_side(side, multiple) - side for side in tile.shape[:2])
    if not rows and not columns:
        return tile
    return np.pad(tile, ((0, rows), (0, columns), (0, 0)), mode="symmetric")


def _padded_side(side: int, multiple: int) -> int:
    return side + -side % multiple
