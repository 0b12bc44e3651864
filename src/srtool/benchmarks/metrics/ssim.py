"""SSIM of Wang et al. 2004: the plain figure of the field, and ssim.m with its downsampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from srtool.errors import ImageError

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def gaussian(size: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian window (size,), sum 1: one axis of `fspecial('gaussian', size, sigma)`."""
    x = np.arange(size) - (size - 1) / 2
    window = np.exp(-(x**2) / (2 * sigma**2))
    return np.asarray(window / window.sum())


def _blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """`filter2(fspecial('gaussian', 11, 1.5), image, 'valid')`: (H, W) -> (H - 10, W - 10)."""
    window, edge = gaussian(_WINDOW, _SIGMA), _WINDOW // 2
    rows = correlate1d(image, window, axis=0)[edge:-edge]
    return np.asarray(correlate1d(rows, window, axis=1)[:, edge:-edge])


def ssim_terms(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean SSIM at full size, as the super-resolution field reports it.

    a, b: (H, W) float64 luma, 0..255, border already shaved, at least 11 x 11.
    Window 11 x 11, sigma 1.5, 'valid', K = (0.01, 0.03), L = 255 (Wang et al. 2004, eq. 13).
    """
    luminance, contrast_structure = ssim_terms(a, b)
    return float(np.mean(luminance * contrast_structure))


def ssim_wang(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean SSIM with the automatic downsampling of Wang's ssim.m, as the paper reports it.

    a, b: as for `ssim`. Both are reduced by f = max(1, round(min(H, W) / 256)) first.
    """
    factor = max(1, int(np.floor(min(a.shape) / 256 + 0.5)))
    return ssim(_reduce(a, factor), _reduce(b, factor))


def _reduce(image: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """f x f box filter with mirrored edges, then every f-th pixel: ceil(H / f) x ceil(W / f).

    `imfilter(image, ones(f) / f^2, 'symmetric')` puts its centre at floor((f + 1) / 2), so the
    window of output i starts (f - 1) // 2 pixels before input i * f, for even f too.
    """
    before = (factor - 1) // 2
    pads = [(before, -length % factor + factor) for length in image.shape]
    rows, columns = (-(-length // factor) for length in image.shape)
    padded = np.pad(image, pads, mode="symmetric")[: rows * factor, : columns * factor]
    return np.asarray(padded.reshape(rows, factor, columns, factor).mean((1, 3)))
