"""Luma, PSNR and levels: what training, export, runtime and benchmarks all count in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0


def luma(image: NDArray[np.uint8], rounded: bool = True) -> NDArray[np.float64]:
    """Y of an 8-bit image as MATLAB's `rgb2ycbcr` gives it: BT.601 studio swing, 16..235.

    image: (H, W, 3) RGB uint8; a gray (H, W) image is taken as R = G = B.
    rounded: round to whole levels, as MATLAB does for uint8 images.
    Returns (H, W) float64.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"luma takes uint8 images, not {image.dtype}")
    rgb = image if image.ndim == 3 else np.stack([image] * 3, -1)
    y = 16.0 + rgb[..., :3].astype(np.float64) @ _WEIGHTS
    return np.floor(y + 0.5) if rounded else y


def psnr(a: NDArray[Any], b: NDArray[Any], peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of one shape; inf when they are equal."""
    if a.shape != b.shape:
        raise ValueError(f"psnr needs equal shapes, got {a.shape} and {b.shape}")
    mse = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else float(10 * np.log10(peak**2 / mse))


def psnr_y(
    a: NDArray[np.uint8], b: NDArray[np.uint8], border: int = 4, rounded: bool = True
) -> float:
    """PSNR of the luma of two 8-bit images, `border` pixels shaved off each side, in dB."""
    inner = slice(border, -border or None)
    return psnr(luma(a, rounded)[inner, inner], luma(b, rounded)[inner, inner])


def to_levels(image: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Float 0..1 to the full range of uint8 or uint16, rounded and clamped; NaN to any level."""
    peak = np.iinfo(dtype).max
    with np.errstate(invalid="ignore"):
        levels: NDArray[Any] = np.rint(np.clip(image, 0, 1) * np.float32(peak)).astype(dtype)
    return levels


def as_floats(image: NDArray[Any]) -> NDArray[np.float32]:
    """Levels of uint8 or uint16 as float32 0..1; float32 as it is."""
    if image.dtype == np.float32:
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
