"""Images as a part of the page: PNG files in data URIs, without loss."""

from __future__ import annotations

import base64

import matplotlib as mpl
import numpy as np
import pyvips
from numpy.typing import NDArray

from srtool.benchmarks.report.pictures import Difference

COLOURS = "inferno"  # of difference maps: even steps of lightness, black where nothing differs


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W, 3) RGB uint8 -> "data:image/png;base64,..."."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    data = image.copy(interpretation="srgb").write_to_buffer(".png", compression=9, keep="none")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def difference_map(difference: Difference) -> NDArray[np.uint8]:
    """(H, W, 3) RGB uint8: the colour of each pixel's level."""
    return np.asarray(_colours(difference.end)[difference.levels.clip(0, difference.end)])


def colour_scale(difference: Difference) -> list[tuple[int, str]]:
    """Five levels and their colours, "#rrggbb"."""
    colours = _colours(difference.end)
    steps = np.linspace(0, difference.end, 5).round().astype(int)
    return [(int(step), "#" + bytes(colours[step]).hex()) for step in steps]


def _colours(end: int) -> NDArray[np.uint8]:
    """(end + 1, 3) uint8."""
    shades = mpl.colormaps[COLOURS](np.linspace(0, 1, end + 1))[:, :3]
    return np.asarray((255 * shades).round().astype(np.uint8))
