"""Transparency: the colours that nobody sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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
