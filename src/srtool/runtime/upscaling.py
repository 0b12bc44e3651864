"""One picture through the engine: its colours, its alpha, and the depth that it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.images.colour import as_floats, to_levels
from srtool.images.picture import Picture, Size, bled, resized
from srtool.images.reading import MAX_PIXELS, ImageFile
from srtool.runtime.guard import Guard
from srtool.runtime.session import TileEngine
from srtool.runtime.tiling import Canvas, Progress, Span, Tiling, fitted, spans

BAND = 80_000_000  # bytes of upscaled rows that are held at a time


@dataclass(frozen=True)
class Options:
    """tile, halo: see `Tiling`. depth: bits per channel of the result, 8 forces 8-bit.
    quality: of lossy formats. overwrite: redo images whose result exists. max_pixels: that an
    input may claim. size: of the result, default what the network makes: it runs, twice where that
    is too small, and the result is brought to the size by Lanczos."""

    tile: int | None = None
    halo: int | None = None
    depth: int | None = None
    quality: int | None = None
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    size: Size | None = None

    def size_of(self, width: int, height: int, scale: int) -> tuple[int, int]:
        """Width and height of the result for an input, on an engine of that scale."""
        return self.size.of(width, height) if self.size else (width * scale, height * scale)


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
        pixels, alpha = picture.pixels, picture.alpha
        if alpha is not None:
            pixels = bled(pixels, alpha)
        self._colours = _canvas(pixels, engine, options, guard, progress)
        self._alpha: Canvas | None = None
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
            pixels = np.broadcast_to(_gray(pixels)[..., None], pixels.shape)
        return replace(picture, pixels=pixels, alpha=alpha)


def upscale_picture(
    picture: Picture,
    engine: TileEngine,
    options: Options,
    guard: Guard | None = None,
    progress: Progress | None = None,
) -> Picture:
    """Upscale one picture, to the size that is asked for, and wait for it."""
    height, width = picture.pixels.shape[:2]
    size = options.size_of(width, height, engine.facts.scale)
    for _ in range(passes(width, size, engine.facts.scale)):
        upscaling = Upscaling(picture, engine, options, guard, progress)
        engine.flush()
        picture = upscaling.result()
    return resized(picture, size)


def passes(width: int, size: tuple[int, int], scale: int) -> int:
    """How often the network runs for a result of that size: twice where once is not enough."""
    return 2 if scale > 1 and size[0] > width * scale else 1


class RowsOf:
    """A picture in memory, read as an image file is."""

    def __init__(self, picture: Picture) -> None:
        self.picture, self.metadata = picture, picture.metadata
        self.height, self.width = picture.pixels.shape[:2]
        self.dtype, self.gray = picture.pixels.dtype, picture.gray
        self.has_alpha = picture.alpha is not None

    def rows(self) -> RowsOf:
        return self

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        alpha = self.picture.alpha
        return self.picture.pixels[start:stop], None if alpha is None else alpha[start:stop]


def upscaled_bands(
    file: ImageFile | RowsOf,
    engine: TileEngine,
    options: Options,
    guard: Guard,
    progress: Progress = lambda done, count: None,
) -> Iterator[Picture]:
    """Upscale an image file of any size in memory that does not grow with it: the rows of the
    result, from the top to the bottom, a row of tiles at a time; the same pixels as of
    `upscale_picture`. ImageError where the file is cut off or damaged."""
    options = replace(options, size=None)
    scale, rows = engine.facts.scale, file.rows()
    bands = bands_of(file, engine, options)
    for number, span in enumerate(bands):

        def of_all(done: int, count: int, before: int = number) -> None:
            progress(before * count + done, len(bands) * count)

        colours, alpha = rows.read(span.start, min(span.stop, file.height))
        guard.top = span.start
        band = Picture(colours, alpha, file.gray, file.metadata)
        made = upscale_picture(band, engine, options, guard, of_all)
        kept = slice((span.first - span.start) * scale, (span.last - span.start) * scale)
        alpha = None if made.alpha is None else made.alpha[kept]
        yield replace(made, pixels=made.pixels[kept], alpha=alpha)
        del colours, alpha, band, made  # the next band needs the room


def bands_of(file: ImageFile | RowsOf, engine: TileEngine, options: Options) -> list[Span]:
    """The rows of tiles of an image file, lower ones where it is so wide that they would not fit
    into BAND bytes. The last one may reach below the picture: it is padded there."""
    step = engine.facts.multiple_of
    halo = engine.facts.halo if options.halo is None else options.halo
    deep = file.dtype != np.uint8 and options.depth != 8
    side = engine.tile_of(np.float32 if deep else np.uint8)[0]
    if options.tile is not None:
        side = max(step, options.tile // step * step)
    height = file.height + -file.height % step
    if not engine.is_deferred:
        values = (6 if file.has_alpha else 3) * (4 if deep else 1)
        rows = BAND // (file.width * engine.facts.scale**2 * values)
        low = -(-(2 * halo + 32) // step) * step
        side = fitted(height, min(side, max(rows // step * step, low)), halo, step)
    return spans(height, side, halo, step)


def _canvas(
    pixels: NDArray[Any],
    engine: TileEngine,
    options: Options,
    guard: Guard | None,
    progress: Progress | None = None,
) -> Canvas:
    if pixels.dtype == np.uint16:
        pixels = as_floats(pixels)
    return Canvas(pixels, engine, Tiling(options.tile, options.halo), guard, progress)


def _result(canvas: Canvas, dtype: Any) -> NDArray[Any]:
    upscaled = canvas.result()
    if dtype == np.float32:
        clamped: NDArray[Any] = np.clip(upscaled, 0, 1)
        return clamped
    return upscaled if upscaled.dtype == dtype else to_levels(upscaled, dtype)


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """Mean of the channels, rounded: a network gives gray images a slight tint."""
    if pixels.dtype == np.float32:
        mean: NDArray[Any] = pixels.mean(-1, dtype=np.float32)
        return mean
    made: NDArray[Any] = np.empty(pixels.shape[:2], pixels.dtype)
    wide = np.uint16 if pixels.dtype == np.uint8 else np.uint32
    for top in range(0, len(pixels), 64):  # the sums need twice the room
        sums = pixels[top : top + 64].sum(-1, dtype=wide)
        made[top : top + 64] = (sums + wide(1)) // wide(3)
    return made
