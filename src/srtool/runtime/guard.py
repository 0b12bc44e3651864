"""Tiles that went wrong: found cheaply, and computed again in float32.

In float16 a value beyond 65504 is infinite, and what is computed from it is no number. A float32
graph shows that. A uint8 graph turns it into black or white, so there a tile counts as bad where

- it is one colour throughout and the input is not, or
- 4 x 4 LR pixels and more became one saturated colour more than 64 levels away from all of them.

An upscaler keeps the local mean, so neither happens by itself: a sharp edge moves single pixels
that far, not blocks of them. Damage that changes less than that is left to `srtool verify`. A
tile in doubt is not discarded but computed again, so a wrong suspicion only costs time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.images.colour import as_floats, to_levels
from srtool.runtime.session import Callback, TileEngine

BLOCK = 4  # LR pixels
FAR = 64  # levels
VARIED = 16  # levels between the darkest and the lightest value of a tile that is not flat


class Guard:
    """Looks at each tile that an engine makes of one image; `recomputed` lists those that were
    bad, by the LR pixel at their left and top. `top`: where the band of rows begins that the tiles
    are cut from."""

    def __init__(self, engine: TileEngine) -> None:
        self.engine = engine
        self.recomputed: list[tuple[int, int]] = []
        self.top = 0

    def submit(self, tile: NDArray[Any], left: int, top: int, callback: Callback) -> None:
        """As `Engine.submit`, of a tile at this place of the image, in float32 where it must be.
        `callback` gets an ImageError where there is no float32 file for that, or it fails on the
        tile as well."""
        row = self.top + top

        def look(found: NDArray[Any] | Exception) -> None:
            if isinstance(found, np.ndarray):
                try:
                    good = _good(tile, found)
                    found = self._again(tile, left, row) if good is None else good
                except Exception as error:  # whatever the other engine raises is about this tile
                    found = error
            callback(found)

        self.engine.submit(_given(self.engine, tile), look)

    def _again(self, tile: NDArray[Any], left: int, top: int) -> NDArray[Any]:
        where = f"the tile of {tile.shape[1]}x{tile.shape[0]} pixels at {left},{top}"
        fallback = self.engine.in_float32()
        if fallback is None:
            raise ImageError(
                f"{where} comes out as garbage on {self.engine.backend}, and beside "
                f"{self.engine.path} there is no float32 file of the same weights to do it again; "
                "export the network again",
                path=self.engine.path,
            )
        made: list[NDArray[Any] | Exception] = []
        fallback.submit(
            _given(fallback, tile),
            lambda found: made.append(found if isinstance(found, Exception) else found.copy()),
        )
        fallback.flush()
        if isinstance(made[0], Exception):
            raise made[0]
        found = _good(tile, made[0])
        if found is None:
            raise ImageError(
                f"{where} comes out as garbage, in float32 ({fallback.path.name}) as well; "
                "the network cannot upscale this image, or its weights are damaged",
                path=fallback.path,
            )
        self.recomputed.append((left, top))
        return found

    def report(self) -> str:
        """What was done since the last report, in words; empty where nothing was."""
        tiles, self.recomputed = self.recomputed, []
        if not tiles:
            return ""
        shown = [f"{left},{top}" for left, top in tiles[:8]]
        shown += [f"{len(tiles) - 8} more"] if len(tiles) > 8 else []
        fallback = self.engine.in_float32()
        assert fallback is not None
        return (
            f"{len(tiles)} {'tile' if len(tiles) == 1 else 'tiles'} came out as garbage on "
            f"{self.engine.backend} and went through {fallback.path.name} in float32: "
            f"at {' '.join(shown)}"
        )


def _given(engine: TileEngine, tile: NDArray[Any]) -> NDArray[Any]:
    """The tile in the form in which the engine's result can be looked at."""
    if tile.dtype == np.uint8 and engine.facts.io == "float32":
        return as_floats(tile)
    return tile


def _good(tile: NDArray[Any], found: NDArray[Any]) -> NDArray[Any] | None:
    """What an engine made of `_given`, in the tile's own type; None where that is garbage."""
    if found.dtype == np.uint8:
        return None if is_garbage(tile, found) else found
    if not is_finite(found):
        return None
    return to_levels(found, np.uint8) if tile.dtype == np.uint8 else found


def is_finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite: one pass, nothing allocated."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum()))


def is_garbage(tile: NDArray[np.uint8], upscaled: NDArray[np.uint8]) -> bool:
    """The rule at the top of this file. tile: (H, W, 3); upscaled: (sH, sW, 3)."""
    height, width = tile.shape[:2]
    scale = upscaled.shape[0] // height
    centres = upscaled[scale // 2 :: scale, scale // 2 :: scale]  # one for each LR pixel
    flat = (centres[0] == centres[0, 0]).all() and (centres == centres[0, 0]).all()
    if flat and int(np.ptp(tile, (0, 1)).max()) > VARIED:
        return True
    rows, columns = height // BLOCK, width // BLOCK
    made, given = (
        image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
        for image in (centres, tile)
    )
    # A bad block shows at its first pixel: nearly every tile ends here, at a sixteenth of the work.
    row, column = np.nonzero(_lost(made[:, 0, :, 0], given[:, 0, :, 0]))
    made, given = made[row, :, column], given[row, :, column]  # (blocks, BLOCK, BLOCK, 3)
    one_colour = (made == made[:, :1, :1]).all((1, 2, 3))
    return bool((_lost(made, given).all((1, 2)) & one_colour).any())


def _lost(centres: NDArray[np.uint8], tile: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels that are saturated and far from the input."""
    saturated = ((centres == 0) | (centres == 255)).all(-1)
    far = (np.abs(centres.astype(np.int16) - tile) > FAR).any(-1)
    lost: NDArray[np.bool_] = saturated & far
    return lost
