"""MATLAB's imresize, bicubic, bit by bit: the one resize that SR data sets are made with."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Edges = Literal["clamp", "mirror"]


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel, a = -0.5 (MATLAB's `cubic`)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def contributions(
    length: int, out_length: int, scale: float, edges: Edges
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weights and input positions for each output sample, both (out_length, taps).

    MATLAB's `contributions`: the kernel is stretched by 1 / scale when shrinking (antialiasing).
    """
    stretch = min(scale, 1.0)
    width = 4.0 / stretch
    centre = (np.arange(1, out_length + 1) / scale) + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - width / 2)
    positions = left[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = stretch * cubic(stretch * (centre[:, None] - positions))
    weights /= weights.sum(1, keepdims=True)
    index = positions.astype(np.intp) - 1
    if edges == "clamp":
        index = index.clip(0, length - 1)
    else:
        index %= 2 * length
        index = np.where(index < length, index, 2 * length - 1 - index)
    used = np.any(weights != 0, axis=0)
    return weights[:, used], index[:, used]


def resize_rows(
    image: NDArray[np.float64], scale: float, out_length: int, edges: Edges
) -> NDArray[np.float64]:
    """Resize along axis 0, without rounding."""
    weights, index = contributions(image.shape[0], out_length, scale, edges)
    shape = (-1,) + (1,) * (image.ndim - 1)
    out = np.zeros((out_length, *image.shape[1:]))
    for tap in range(weights.shape[1]):
        out += weights[:, tap].reshape(shape) * image[index[:, tap]]
    return out


def imresize(image: NDArray[Any], scale: float, edges: Edges = "clamp") -> NDArray[Any]:
    """Resize as MATLAB's `imresize(image, scale)` does.

    image: (H, W) or (H, W, C), uint8 or floating point. uint8 is rounded half up and clipped
        after each of the two passes and stays uint8; floating point is never rounded and comes
        back as float64.
    edges: "clamp" repeats the edge pixel (older MATLAB releases, the LR sets in circulation),
        "mirror" reflects with the edge pixel repeated (newer releases).
    Returns ceil(H * scale) x ceil(W * scale) pixels. Vertical pass first.
    """
    rounded = image.dtype == np.uint8
    out = image.astype(np.float64)
    for axis in (0, 1):
        length = int(np.ceil(image.shape[axis] * scale))
        out = np.swapaxes(resize_rows(np.swapaxes(out, 0, axis), scale, length, edges), 0, axis)
        if rounded:
            out = np.floor(out + 0.5).clip(0, 255)
    return np.ascontiguousarray(out.astype(np.uint8) if rounded else out)


def mod_crop(image: NDArray[Any], multiple: int = 4) -> NDArray[Any]:
    """Crop at the bottom and right to a multiple: (H, W, ...) -> (H - H % m, W - W % m, ...)."""
    height, width = image.shape[:2]
    return image[: height - height % multiple, : width - width % multiple]


def make_lr(hr: NDArray[np.uint8], scale: int = 4) -> NDArray[np.uint8]:
    """The LR image of a uint8 HR image as training and evaluation use it (design: uint8 way,
    clamped edges); equals the LRx4 files in circulation pixel for pixel."""
    return imresize(mod_crop(hr, scale), 1 / scale, "clamp")
