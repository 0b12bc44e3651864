"""A decoded picture, the size that it is brought to, and its colours where nothing is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import UsageError
from srtool.images.colour import as_floats, to_levels
from srtool.images.metadata import Metadata
from srtool.images.vips import libvips

Samples = NDArray[np.uint8] | NDArray[np.uint16]

LARGEST = 1 << 20  # pixels a side


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image in the form the network takes.

    `pixels` is (H, W, 3) RGB, uint8 or uint16 over the full range of its dtype (in memory float32
    0..1 as well), upright, in the colour space of `metadata.icc`. `alpha` is (H, W) of the same
    dtype, 0 transparent, not multiplied into the pixels. `gray`: the source had one colour
    channel, repeated three times here, and is written back as one where the format can. `pages`:
    how many pages or frames the source holds, of which this is the first.
    """

    pixels: Samples
    alpha: Samples | None = None
    gray: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    pages: int = 1

    def __post_init__(self) -> None:
        assert self.pixels.dtype in (np.uint8, np.uint16, np.float32)
        assert self.pixels.ndim == 3
        assert self.pixels.shape[2] == 3
        if self.alpha is not None:
            assert self.alpha.dtype == self.pixels.dtype
            assert self.alpha.shape == self.pixels.shape[:2]

    def as_8_bit(self) -> Picture:
        """The same in uint8, rounded to the nearest level."""
        if self.pixels.dtype == np.uint8:
            return self
        alpha = None if self.alpha is None else to_levels(as_floats(self.alpha), np.uint8)
        return replace(self, pixels=to_levels(as_floats(self.pixels), np.uint8), alpha=alpha)


@dataclass(frozen=True)
class Size:
    """One of: scale, of both sides against the input; width, height or long_side in pixels, the
    other side following; fit, the width and height of a box that it fills as far as it can;
    megapixels. UsageError for none, several, or what is not above 0."""

    scale: float | None = None
    width: int | None = None
    height: int | None = None
    long_side: int | None = None
    fit: tuple[int, int] | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise UsageError(
                f"the size is given by {found}; expected one of "
                f"{', '.join(each.name for each in fields(self))}",
                parameter="size" if not given else list(given)[-1],
                found=found,
                expected="one",
            )
        ((name, value),) = given.items()
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(number) and 0 < number <= LARGEST for number in numbers):
            raise UsageError(
                f"{name} is {value}, expected more than 0 and at most {LARGEST}",
                parameter=name,
                found=str(value),
                expected=f"0 to {LARGEST}",
            )

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the result for an input, in its proportions, at least 1 a side."""
        if self.scale is not None:
            ratio = self.scale
        elif self.width is not None:
            ratio = self.width / width
        elif self.height is not None:
            ratio = self.height / height
        elif self.long_side is not None:
            ratio = self.long_side / max(width, height)
        elif self.fit is not None:
            ratio = min(self.fit[0] / width, self.fit[1] / height)
        else:
            assert self.megapixels is not None
            ratio = math.sqrt(self.megapixels * 1e6 / (width * height))
        return max(1, math.floor(width * ratio + 0.5)), max(1, math.floor(height * ratio + 0.5))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture of another width and height, see `resized_image`."""
    height, width = picture.pixels.shape[:2]
    if (width, height) == size:
        return picture
    vips = libvips()
    image = vips.Image.new_from_array(np.ascontiguousarray(picture.pixels))
    if picture.alpha is not None:
        image = image.bandjoin(vips.Image.new_from_array(np.ascontiguousarray(picture.alpha)))
    peak = 1.0 if picture.pixels.dtype == np.float32 else float(np.iinfo(picture.pixels.dtype).max)
    made = resized_image(image, size, peak, picture.alpha is not None).numpy()
    if made.dtype == np.float32:
        made = made.clip(0, 1)
    alpha = None if picture.alpha is None else np.ascontiguousarray(made[..., 3])
    return replace(picture, pixels=np.ascontiguousarray(made[..., :3]), alpha=alpha)


def resized_image(image: Any, size: tuple[int, int], peak: float, has_alpha: bool) -> Any:
    """A libvips image of another width and height, by Lanczos and antialiased, row by row.

    peak: the value of white. Colours count by their alpha, the last band, so that what is
    transparent leaves no fringe.
    """
    width, height = size
    format = image.format
    if has_alpha:
        image = image.premultiply(max_alpha=peak)
    image = image.resize(width / image.width, vscale=height / image.height, kernel="lanczos3")
    if has_alpha:
        image = image.unpremultiply(max_alpha=peak)
        if format != "float":
            image = image.rint()
    image = image.cast(format)
    assert (image.width, image.height) == size
    return image


def bled(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Colours under alpha 0 taken from their visible neighbours, so that no network draws them
    into the edges of what is seen.

    colours (H, W, 3) and alpha (H, W) of one dtype; returns colours of the same form. Means over
    ever larger blocks: near ones where they hold visible pixels, else far ones. Colours under any
    other alpha stay, and all stay where nothing is transparent or nothing visible.
    """
    seen = alpha != 0
    if seen.all() or not seen.any():
        return colours
    filled = _filled(colours.astype(np.float32) * seen[..., None], seen.astype(np.float32))
    made = colours.copy()
    made[~seen] = np.rint(filled[~seen]).astype(colours.dtype)
    return made


def _filled(sums: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """sums (H, W, 3) of colours, weights (H, W) of how many; means, where there are none those of
    the blocks of 2 x 2 around, and so on."""
    height, width = weights.shape
    known = weights > 0
    means: NDArray[np.float32] = np.divide(
        sums, np.maximum(weights, 1)[..., None], dtype=np.float32
    )
    if known.all() or max(height, width) == 1:
        return means
    even = (height + height % 2, width + width % 2)
    padding = (0, even[0] - height), (0, even[1] - width)
    blocks = even[0] // 2, 2, even[1] // 2, 2
    coarse = _filled(
        np.pad(sums, (*padding, (0, 0))).reshape(*blocks, 3).sum((1, 3)),
        np.pad(weights, padding).reshape(blocks).sum((1, 3)),
    )
    wide = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    means[~known] = wide[~known]
    return means
