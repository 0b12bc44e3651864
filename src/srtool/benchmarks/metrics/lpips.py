"""LPIPS: distance of deep features, calibrated on human judgements (Zhang et al. 2018).

The same network serves as a loss in training; `srtool.train.losses.perceptual` loads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.train.losses.perceptual import LPIPS_MIN_SIDE as MIN_SIDE
from srtool.train.losses.perceptual import load_lpips

__all__ = ["MIN_SIDE", "load_lpips", "lpips"]


def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8], model: torch.nn.Module) -> float:
    """Perceptual distance, 0 for equal images; lower is better.

    a, b: (H, W, 3) RGB uint8, sides of at least MIN_SIDE (else ImageError); scaled to -1..1.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"LPIPS needs two (H, W, 3) images, got {a.shape} and {b.shape}")
    if min(a.shape[:2]) < MIN_SIDE:
        raise ImageError(
            f"LPIPS needs at least {MIN_SIDE} x {MIN_SIDE} pixels inside the shaved border, "
            f"this image has {a.shape[0]} x {a.shape[1]}: leave it out of the evaluation"
        )

    def tensor(image: NDArray[np.uint8]) -> Any:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    with torch.inference_mode():
        return float(model(tensor(a), tensor(b)))
