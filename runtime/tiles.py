"""Tiling: images larger than a tile are cut with a halo, upscaled piece by piece and joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import UsageError
from srtool.manifest import ModelFacts
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


def check_tile(tile: int, halo: int) -> None:
    """UsageError where nothing of a tile would be kept."""
    if tile <= 2 * halo:
        raise UsageError(
            f"--tile {tile} leaves nothing of a tile with a halo of {halo} on each side; "
            f"expected more than {2 * halo}"
        )


def upscale_tiled(
    pixels: NDArray[Any],
    engine: Engine,
    tile: int = DEFAULT_TILE,
    halo: int | None = None,
    guard: Guard | None = None,
) -> NDArray[Any]:
    """Upscale one image of any size in bounded memory.

    pixels: (H, W, 3) uint8, or float32 0..1. tile: side in LR pixels, halo included; halo: LR
    pixels cut off where tiles meet (default: the engine's own). guard: of the same engine, looks
    at every tile.
    Returns (scale * H, scale * W, 3) of the same dtype, float32 not clamped.
    """
    scale, halo = engine.facts.scale, engine.facts.halo if halo is None else halo
    height, width = pixels.shape[:2]
    out = np.empty((height * scale, width * scale, 3), pixels.dtype)
    for row in spans(height, tile, halo):
        for column in spans(width, tile, halo):
            piece = pixels[row.start : row.stop, column.start : column.stop]
            upscale: Callable[[NDArray[Any]], NDArray[Any]] = engine.upscale
            if guard is not None:
                upscale = partial(guard.upscale, left=column.start, top=row.start)
            upscaled = _upscale_piece(piece, engine.facts, upscale)
            kept = upscaled[
                (row.first - row.start) * scale : (row.last - row.start) * scale,
                (column.first - column.start) * scale : (column.last - column.start) * scale,
            ]
            out[
                row.first * scale : row.last * scale, column.first * scale : column.last * scale
            ] = kept
    return out


def _upscale_piece(
    piece: NDArray[Any], facts: ModelFacts, upscale: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any]:
    """Run one tile, padded to the sides that the network needs."""
    height, width = piece.shape[:2]
    multiple = facts.multiple_of
    padding = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    padded = np.pad(piece, padding, mode="symmetric") if multiple > 1 else piece
    return upscale(padded[None])[0, : height * facts.scale, : width * facts.scale]
