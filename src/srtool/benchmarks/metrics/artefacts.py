"""Traces that a network leaves: a grid of its own block size, and a weave on flat areas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW = 64  # pixels
FLAT_WINDOW = 8  # pixels
FLAT = 0.1  # the share of HR's windows that counts as flat: those that deviate least
_ROUNDING = 1 / 12  # levels squared: the variance that rounding adds
_NEAR = range(2, 6)  # bins between a frequency of the grid and its surroundings


def grid(sr: Array, hr: Array) -> float:
    """How much of SR's spectrum lies at the periods 2 and 4, as against HR: 1 where it is as in
    HR, more where a grid shows. (H, W) luma; NaN where the images are smaller than WINDOW."""
    return _at_periods(sr) / _at_periods(hr)


def _at_periods(luma: Array) -> float:
    """Power at the fifteen frequencies of which a pattern of 4x4 pixels is made, the constant one
    left out, over the mean power around them; sums over windows that overlap by half."""
    if min(luma.shape) < WINDOW:
        return float("nan")
    hann = np.hanning(WINDOW + 1)[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(luma, (WINDOW, WINDOW))
    windows = windows[:: WINDOW // 2, :: WINDOW // 2]
    windows = (windows - windows.mean((2, 3), keepdims=True)) * np.outer(hann, hann)
    power = (np.abs(np.fft.fft2(windows)) ** 2).sum((0, 1))
    step = WINDOW // 4
    places = [(step * y, step * x) for y in range(4) for x in range(4) if y or x]
    offsets = [
        (dy, dx) for dy in range(-5, 6) for dx in range(-5, 6) if max(abs(dy), abs(dx)) in _NEAR
    ]
    ratios = [
        power[y, x] / np.mean([power[(y + dy) % WINDOW, (x + dx) % WINDOW] for dy, dx in offsets])
        for y, x in places
    ]
    return float(np.mean(ratios))


def weave(sr: Array, hr: Array) -> float:
    """How far SR deviates where HR is flattest, as against HR: 1 where it is as in HR, more where
    a weave or noise shows, less where texture was lost. Root mean squares of the deviations in
    windows of FLAT_WINDOW pixels. (H, W) luma, sides of at least FLAT_WINDOW."""
    height, width = (side - side % FLAT_WINDOW for side in hr.shape)
    shape = (height // FLAT_WINDOW, FLAT_WINDOW, width // FLAT_WINDOW, FLAT_WINDOW)
    of_sr, of_hr = (image[:height, :width].reshape(shape).var((1, 3)) for image in (sr, hr))
    flat = of_hr <= np.quantile(of_hr, FLAT)
    return float(np.sqrt((of_sr[flat].mean() + _ROUNDING) / (of_hr[flat].mean() + _ROUNDING)))
