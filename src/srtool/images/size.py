"""The size that a result is to have, and the one reduction that brings it there."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from srtool.errors import UsageError
from srtool.images.picture import Picture

LARGEST = 1 << 20  # pixels a side


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
    import pyvips

    image = pyvips.Image.new_from_array(np.ascontiguousarray(picture.pixels))
    if picture.alpha is not None:
        image = image.bandjoin(pyvips.Image.new_from_array(np.ascontiguousarray(picture.alpha)))
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
