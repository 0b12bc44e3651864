"""How far an engine's images are from the reference's: one piece for export and verify."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from srtool.images.colour import psnr_y
from srtool.parity import FAITHFUL, Fidelity, Gates, WorstTile

TILE = 32  # LR pixels: the side of the tiles among which the worst is named


@dataclass(frozen=True)
class Compared:
    """One image: an engine's output, the reference's and the HR image, (H, W, 3) RGB uint8."""

    name: str
    output: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    hr: NDArray[np.uint8]


def fidelity_from_images(
    images: Iterable[Compared], scale: int, dataset: str = "", gates: Gates = FAITHFUL
) -> Fidelity:
    """Compare over all values of all images, which are looked at one at a time.

    scale: of the engine, for the tiles. dataset, gates: recorded with the result.
    """
    count = values = different = over_1 = largest = 0
    total = squares = worst_squares = 0.0
    worst: WorstTile | None = None
    deltas = []
    names = []
    for image in images:
        gap = np.abs(image.output.astype(np.int16) - image.reference)
        count += 1
        names.append(image.name)
        values += gap.size
        different += int((gap > 0).sum())
        over_1 += int((gap > 1).sum())
        largest = max(largest, int(gap.max()))
        total += float(gap.sum())
        tiles = _squares_of_tiles(gap, TILE * scale)
        squares += float(tiles.sum())
        if tiles.max() > worst_squares:
            worst_squares = float(tiles.max())
            worst = _worst_tile(image.name, gap, tiles, scale)
        deltas.append(_delta(psnr_y(image.output, image.hr), psnr_y(image.reference, image.hr)))
    return Fidelity(
        images=count,
        max_difference=largest,
        mean_difference=total / values,
        share_different=different / values,
        share_over_1=over_1 / values,
        psnr_between=_psnr(squares, values) if squares else None,
        delta_psnr=float(np.mean(deltas)),
        worst_delta_psnr=float(min(deltas)),
        worst_tile=worst,
        dataset=dataset,
        names=tuple(names),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        gates=gates,
    )


def _squares_of_tiles(gap: NDArray[np.int16], side: int) -> NDArray[np.int64]:
    """Sums of squares over tiles of side x side pixels; those at the right and bottom edge may be
    smaller."""
    squares = (gap.astype(np.int64) ** 2).sum(-1)
    rows, columns = (np.arange(0, length, side) for length in squares.shape)
    sums: NDArray[np.int64] = np.add.reduceat(np.add.reduceat(squares, rows, 0), columns, 1)
    return sums


def _worst_tile(
    name: str, gap: NDArray[np.int16], tiles: NDArray[np.int64], scale: int
) -> WorstTile:
    row, column = (int(index) for index in np.unravel_index(tiles.argmax(), tiles.shape))
    side = TILE * scale
    inside = gap[row * side : (row + 1) * side, column * side : (column + 1) * side]
    decibels = _psnr(float(tiles[row, column]), inside.size)
    return WorstTile(image=name, left=column * TILE, top=row * TILE, psnr=decibels)


def _psnr(squares: float, values: int) -> float:
    return 10 * math.log10(255**2 * values / squares)


def _delta(engine: float, reference: float) -> float:
    """The change; none where both meet the HR image exactly."""
    return 0.0 if engine == reference else engine - reference
