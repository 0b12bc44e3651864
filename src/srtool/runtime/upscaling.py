"""One picture through the engine: its colours, its alpha, and the depth that it has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.images.colour import to_levels
from srtool.images.picture import Picture
from srtool.runtime.guard import Guard
from srtool.runtime.session import TileEngine
from srtool.runtime.tiling import Canvas, Progress, Tiling


@dataclass(frozen=True)
class Options:
    """tile, halo: see `Tiling`. depth: bits per channel of the result, 8 forces 8-bit.
    quality: of lossy formats. overwrite: redo images whose result exists."""

    tile: int | None = None
    halo: int | None = None
    depth: int | None = None
    quality: int | None = None
    overwrite: bool = False


class Upscaling:
    """A picture on its way through the engine: colours, and alpha where it is not uniform; 16-bit
    pictures go through the engine's float32 form."""

    def __init__(
        self,
        picture: Picture,
        engine: TileEngine,
        options: Options,
        guard: Guard | None = None,
        progress: Progress | None = None,
    ) -> None:
        """progress: of the colours."""
        if options.depth == 8:
            picture = picture.as_8_bit()
        self._picture = picture
        self._colours = _canvas(picture.pixels, engine, options, guard, progress)
        self._alpha: Canvas | None = None
        alpha = picture.alpha
        if alpha is not None and alpha.min() != alpha.max():  # nearly always opaque throughout
            self._alpha = _canvas(np.stack([alpha] * 3, -1), engine, options, guard)

    @property
    def is_done(self) -> bool:
        return self._colours.is_done and (self._alpha is None or self._alpha.is_done)

    def result(self) -> Picture:
        """The upscaled picture, or the error that there was."""
        picture = self._picture
        pixels = _result(self._colours, picture.pixels.dtype)
        alpha = picture.alpha
        if self._alpha is not None:
            alpha = _gray(_result(self._alpha, picture.pixels.dtype))
        elif alpha is not None:
            alpha = np.full(pixels.shape[:2], alpha.flat[0], alpha.dtype)
        if picture.gray:
            pixels = np.stack([_gray(pixels)] * 3, -1)
        return replace(picture, pixels=pixels, alpha=alpha)


def upscale_picture(
    picture: Picture,
    engine: TileEngine,
    options: Options,
    guard: Guard | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Upscale one picture and wait for it."""
    upscaling = Upscaling(picture, engine, options, guard, progress)
    engine.flush()
    return upscaling.result()


def _canvas(
    pixels: NDArray[Any],
    engine: TileEngine,
    options: Options,
    guard: Guard | None,
    progress: Progress | None = None,
) -> Canvas:
    if pixels.dtype == np.uint16:
        pixels = pixels.astype(np.float32) / np.float32(65535)
    return Canvas(pixels, engine, Tiling(options.tile, options.halo), guard, progress)


def _result(canvas: Canvas, dtype: Any) -> NDArray[Any]:
    upscaled = canvas.result()
    if dtype == np.float32:
        clamped: NDArray[Any] = np.clip(upscaled, 0, 1)
        return clamped
    return upscaled if upscaled.dtype == dtype else to_levels(upscaled, dtype)


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """Mean of the channels, rounded: a network gives gray images a slight tint."""
    mean: NDArray[Any] = pixels.mean(-1, dtype=np.float32)
    return mean if pixels.dtype == np.float32 else np.rint(mean).astype(pixels.dtype)
