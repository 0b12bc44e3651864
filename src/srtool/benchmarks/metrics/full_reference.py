"""Metrics of an image against its HR: SSIM (Wang et al. 2004), as the field reports it and with the
downsampling of ssim.m; LPIPS (Zhang et al. 2018); and the traces that a network leaves: a grid of
its own block size, and a weave on flat areas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from srtool.errors import ImageError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

GRID_WINDOW = 64  # pixels
FLAT_WINDOW = 8  # pixels
FLAT = 0.1  # the share of HR's windows that counts as flat: those that deviate least
_ROUNDING = 1 / 12  # levels squared: the variance that rounding adds
_NEAR = range(2, 6)  # bins between a frequency of the grid and its surroundings


def gaussian(size: int, sigma: float) -> Array:
    """Gaussian window (size,), sum 1: one axis of `fspecial('gaussian', size, sigma)`."""
    x = np.arange(size) - (size - 1) / 2
    window = np.exp(-(x**2) / (2 * sigma**2))
    return np.asarray(window / window.sum())


def _blur(image: Array) -> Array:
    """`filter2(fspecial('gaussian', 11, 1.5), image, 'valid')`: (H, W) -> (H - 10, W - 10)."""
    window, edge = gaussian(_WINDOW, _SIGMA), _WINDOW // 2
    rows = correlate1d(image, window, axis=0)[edge:-edge]
    return np.asarray(correlate1d(rows, window, axis=1)[:, edge:-edge])


def ssim_terms(a: Array, b: Array) -> tuple[Array, Array]:
    """The two factors of SSIM at every window that lies fully inside.

    a, b: (H, W) float64, range 0..255, both at least 11 x 11; smaller raises ImageError.
    Returns the luminance map and the contrast-structure map, both (H - 10, W - 10).
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"SSIM needs two (H, W) images of one shape, got {a.shape} and {b.shape}")
    if min(a.shape) < _WINDOW:
        raise ImageError(
            f"SSIM needs at least {_WINDOW} x {_WINDOW} pixels inside the shaved border, "
            f"this image has {a.shape[0]} x {a.shape[1]}: leave it out of the evaluation"
        )
    mean_a, mean_b = _blur(a), _blur(b)
    power, product = mean_a**2 + mean_b**2, mean_a * mean_b
    variances = _blur(a * a + b * b) - power
    covariance = _blur(a * b) - product
    luminance = (2 * product + _C1) / (power + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def ssim(a: Array, b: Array) -> float:
    """Mean SSIM at full size, as the super-resolution field reports it.

    a, b: (H, W) float64 luma, 0..255, border already shaved, at least 11 x 11.
    Window 11 x 11, sigma 1.5, 'valid', K = (0.01, 0.03), L = 255 (Wang et al. 2004, eq. 13).
    """
    luminance, contrast_structure = ssim_terms(a, b)
    return float(np.mean(luminance * contrast_structure))


def ssim_wang(a: Array, b: Array) -> float:
    """Mean SSIM with the automatic downsampling of Wang's ssim.m, as the paper reports it.

    a, b: as for `ssim`. Both are reduced by f = max(1, round(min(H, W) / 256)) first.
    """
    factor = max(1, int(np.floor(min(a.shape) / 256 + 0.5)))
    return ssim(_reduce(a, factor), _reduce(b, factor))


def _reduce(image: Array, factor: int) -> Array:
    """f x f box filter with mirrored edges, then every f-th pixel: ceil(H / f) x ceil(W / f).

    `imfilter(image, ones(f) / f^2, 'symmetric')` puts its centre at floor((f + 1) / 2), so the
    window of output i starts (f - 1) // 2 pixels before input i * f, for even f too.
    """
    before = (factor - 1) // 2
    pads = [(before, -length % factor + factor) for length in image.shape]
    rows, columns = (-(-length // factor) for length in image.shape)
    padded = np.pad(image, pads, mode="symmetric")[: rows * factor, : columns * factor]
    return np.asarray(padded.reshape(rows, factor, columns, factor).mean((1, 3)))


def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8], model: torch.nn.Module) -> float:
    """Distance of deep features, calibrated on human judgements: 0 for equal images.

    a, b: (H, W, 3) RGB uint8, sides of at least 31 (else ImageError); scaled to -1..1. model: of
    `load_lpips`, which serves as a loss in training too.
    """
    import torch

    from srtool.train.perceptual import LPIPS_MIN_SIDE

    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"LPIPS needs two (H, W, 3) images, got {a.shape} and {b.shape}")
    if min(a.shape[:2]) < LPIPS_MIN_SIDE:
        raise ImageError(
            f"LPIPS needs at least {LPIPS_MIN_SIDE} x {LPIPS_MIN_SIDE} pixels inside the shaved "
            f"border, this image has {a.shape[0]} x {a.shape[1]}: leave it out of the evaluation"
        )

    def tensor(image: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.inference_mode():
        return float(model(tensor(a), tensor(b)))


def grid(sr: Array, hr: Array) -> float:
    """How much of SR's spectrum lies at the periods 2 and 4, as against HR: 1 where it is as in
    HR, more where a grid shows. (H, W) luma; NaN where the images are smaller than GRID_WINDOW."""
    return _at_periods(sr) / _at_periods(hr)


def _at_periods(luma: Array) -> float:
    """Power at the fifteen frequencies of which a pattern of 4x4 pixels is made, the constant one
    left out, over the mean power around them; sums over windows that overlap by half."""
    if min(luma.shape) < GRID_WINDOW:
        return float("nan")
    hann = np.hanning(GRID_WINDOW + 1)[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(luma, (GRID_WINDOW, GRID_WINDOW))
    windows = windows[:: GRID_WINDOW // 2, :: GRID_WINDOW // 2]
    windows = (windows - windows.mean((2, 3), keepdims=True)) * np.outer(hann, hann)
    power = (np.abs(np.fft.fft2(windows)) ** 2).sum((0, 1))
    step = GRID_WINDOW // 4
    places = [(step * y, step * x) for y in range(4) for x in range(4) if y or x]
    offsets = [
        (dy, dx) for dy in range(-5, 6) for dx in range(-5, 6) if max(abs(dy), abs(dx)) in _NEAR
    ]
    ratios = [
        power[y, x]
        / np.mean([power[(y + dy) % GRID_WINDOW, (x + dx) % GRID_WINDOW] for dy, dx in offsets])
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
