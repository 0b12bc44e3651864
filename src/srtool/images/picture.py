"""A decoded picture, and what it carries besides its pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.images.colour import to_levels
from srtool.images.signals import Signal

Samples = NDArray[np.uint8] | NDArray[np.uint16]

_SCREEN_RESOLUTION = 72 / 25.4


@dataclass(frozen=True)
class Metadata:
    """What a picture carries besides its samples.

    `icc` is the profile that the samples are in (None: `signal`, else sRGB or an unnamed gray);
    `exif`, `xmp` and `iptc` are the blocks of the source file. `resolution` is horizontal and
    vertical pixels per millimetre, 72 per inch where the source names none. `signal`: primaries
    and transfer that the source names without a profile (gAMA, cHRM, cICP, nclx), None for sRGB.
    `texts`: tEXt, zTXt and iTXt chunks of a PNG file, whole.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resolution: tuple[float, float] = (_SCREEN_RESOLUTION, _SCREEN_RESOLUTION)
    signal: Signal | None = None
    texts: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image in the form the network takes.

    `pixels` is (H, W, 3) RGB, uint8 or uint16 over the full range of its dtype (in memory float32
    0..1 as well), upright, in the
    colour space of `metadata.icc`. `alpha` is (H, W) of the same dtype, 0 transparent, not
    multiplied into the pixels. `gray`: the source had one colour channel, repeated three times
    here, and is written back as one where the format can. `pages`: how many pages or frames the
    source holds, of which this is the first.
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
        alpha = None if self.alpha is None else _rounded(self.alpha)
        return replace(self, pixels=_rounded(self.pixels), alpha=alpha)


def _rounded(samples: NDArray[Any]) -> NDArray[np.uint8]:
    peak = np.float32(1 if samples.dtype == np.float32 else 65535)
    levels: NDArray[np.uint8] = to_levels(samples / peak, np.uint8)
    return levels
