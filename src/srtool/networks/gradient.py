"""The gradient map M: how strongly each colour channel changes around each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gradient_map(image: Tensor) -> Tensor:
    """Return the gradient magnitude of every channel on its own.

    Central differences with kernels [-1, 0, 1] horizontally and vertically, zero padding,
    sqrt(v^2 + h^2 + 1e-6); the constant keeps the derivative finite on flat areas. It is
    subnormal in half precision, so a float16 input is refused: cast to float32 first.

    image: (N, C, H, W) floating point, any range.
    Returns (N, C, H, W), same dtype. Source: the paper's M(.), as in SPSR.
    """
    if image.dtype is torch.float16:
        raise TypeError("gradient_map needs float32 or wider: 1e-6 is subnormal in float16")
    padded = F.pad(image, (1, 1, 1, 1))
    vertical = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    horizontal = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    return torch.sqrt(vertical * vertical + horizontal * horizontal + 1e-6)
