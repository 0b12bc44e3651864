"""LPIPS: distance of deep features, calibrated on human judgements (Zhang et al. 2018).

The lpips package computes it and ships the linear weights; AlexNet's come from the asset cache.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import DataError, ImageError

if TYPE_CHECKING:
    import torch

_CONVOLUTIONS = (0, 3, 6, 8, 10)
MIN_SIDE = 31  # pixels: less leaves nothing of AlexNet's second pooling


def load_lpips(path: str | Path) -> torch.nn.Module:
    """LPIPS version 0.1 on the AlexNet of a torchvision state dict (.pth), in eval mode.

    Nothing is downloaded. Raises DataError where the file is missing or no such state dict.
    """
    import lpips
    import torch

    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler fails in every way there is
        raise _no_alexnet(path, type(error).__name__) from None
    needed = [f"features.{n}.{part}" for n in _CONVOLUTIONS for part in ("weight", "bias")]
    lacking = [name for name in needed if not isinstance(state, dict) or name not in state]
    if lacking:
        raise _no_alexnet(path, f"{lacking[0]} is missing")
    with warnings.catch_warnings():
        # lpips asks torchvision for an untrained network in a way that is deprecated
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model: torch.nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    backbone: Any = model.net
    # slice2.3.weight in lpips is features.3.weight in torchvision
    names = {name: f"features.{name.partition('.')[2]}" for name in backbone.state_dict()}
    try:
        backbone.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    except RuntimeError as error:
        raise _no_alexnet(path, " ".join(str(error).split())[:80]) from None
    return model.eval()


def _no_alexnet(path: str | Path, reason: str) -> DataError:
    return DataError(
        f"{path}: is not torchvision's AlexNet ({reason}); expected "
        "alexnet-owt-7be5be79.pth, which `srtool assets fetch alexnet` downloads"
    )


def lpips(a: NDArray[np.uint8], b: NDArray[np.uint8], model: torch.nn.Module) -> float:
    """Perceptual distance, 0 for equal images; lower is better.

    a, b: (H, W, 3) RGB uint8, sides of at least MIN_SIDE (else ImageError); scaled to -1..1.
    """
    import torch

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
