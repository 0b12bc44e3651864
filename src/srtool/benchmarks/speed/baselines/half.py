"""A network in float16, as a careful script would run it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.networks.deployed import ImageOnly, plain_module
from srtool.networks.generator import SCALE, gradient_map
from srtool.networks.network import Network


class HalfGenerator(nn.Module):
    """A generator, head folded, whose gradient map stays in float32: its 1e-6 is subnormal in
    float16. Takes and returns (N, 3, H, W) float16, 0..1."""

    def __init__(self, image_only: ImageOnly) -> None:
        super().__init__()
        self.generator = image_only.generator.half()

    def forward(self, x: Tensor) -> Tensor:
        config = self.generator.config
        gradient = gradient_map(x.float()).half() if config.taps else None
        image, _ = self.generator.branches(x, gradient)
        return image + F.interpolate(x, scale_factor=float(SCALE)) if config.image_skip else image


class FloatEnds(nn.Module):
    """Takes and returns float32 around a float16 network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x.to(torch.float16))
        return out.float()


def half_module(network: Network) -> nn.Module:
    """(N, 3, H, W) float16 0..1 -> (N, 3, scale H, scale W) float16, for any network."""
    module = plain_module(network)
    if isinstance(module, ImageOnly):
        return HalfGenerator(module).eval()
    return module.half()
