"""What the proof on a GPU is made of: networks, images, and what the CPU makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from srtool.images.folders import SAMPLES
from srtool.images.reading import read_rgb
from srtool.manifest import ModelFacts

Pixels = NDArray[np.uint8]


class Exact(nn.Module):
    """Whole numbers throughout, so that a GPU and a CPU agree in every pixel: a 3x3 convolution
    with zero padding, a 1x1, a pixel shuffle, the remainder of 256."""

    def __init__(self, io: str = "uint8", seed: int = 0) -> None:
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        first = torch.randint(-2, 3, (8, 3, 3, 3), generator=made).float()
        second = torch.randint(-2, 3, (48, 8, 1, 1), generator=made).float()
        self.first = nn.Parameter(first, requires_grad=False)
        self.second = nn.Parameter(second, requires_grad=False)
        self.bytewise = io == "uint8"

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() if self.bytewise else (image * 255).round()
        x = F.conv2d(F.conv2d(x, self.first, padding=1).round(), self.second)
        x = F.pixel_shuffle(x.round(), 4).remainder(256)
        return x.permute(0, 2, 3, 1).to(torch.uint8) if self.bytewise else x / 255


class Bytes(nn.Module):
    """Pixels around a network of (N, 3, H, W) 0..1 in some type."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255
        made: Tensor = self.module(x.to(self.dtype, memory_format=torch.channels_last))
        levels = (made.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1)


def bytes_of(name: str, weights: Path, precision: str) -> nn.Module:
    """A preset with random weights, or the network of a file, "fp32" or "fp16"."""
    from srtool.benchmarks.speed.baselines.half import half_module
    from srtool.networks.deployed import plain_module
    from srtool.networks.generator import PRESETS, Generator
    from srtool.networks.loading import load_network
    from srtool.networks.network import Network

    if name in PRESETS:
        torch.manual_seed(0)
        network = Network(Generator(PRESETS[name]).eval(), 4, "srtool", Path(name))
    else:
        network = load_network(weights)
    half = precision == "fp16"
    module = half_module(network) if half else plain_module(network)
    return Bytes(module, torch.float16 if half else torch.float32).eval()


def facts_of(io: str = "uint8", precision: str = "fp32") -> ModelFacts:
    return ModelFacts.model_validate(
        {"scale": 4, "io": io, "precision": precision, "architecture": "proof", "halo": 2}
    )


def noise(sides: list[tuple[int, int]], seed: int = 0) -> list[Pixels]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*side, 3)).astype(np.uint8) for side in sides]


def noise_of_any_size(count: int, most: int, seed: int = 0) -> list[Pixels]:
    """Sides between 8, which is the least that the proof's networks take, and `most`."""
    sides = np.random.default_rng(seed).integers(8, most + 1, (count, 2))
    return noise([(int(height), int(width)) for height, width in sides], seed)


def photographs(side: int) -> list[Pixels]:
    """A tile of each sample photograph."""
    images = [read_rgb(path) for path in sorted((SAMPLES / "HR").iterdir())]
    return [np.ascontiguousarray(image[:side, :side]) for image in images]


def given(image: Pixels, io: str) -> NDArray[Any]:
    """An image as engines take it."""
    return image if io == "uint8" else image.astype(np.float32) / np.float32(255)


def levels(made: NDArray[Any]) -> Pixels:
    found: Pixels = made if made.dtype == np.uint8 else np.rint(made * 255).astype(np.uint8)
    return found


def on_cpu(module: nn.Module, image: Pixels, io: str = "uint8") -> Pixels:
    """The whole image at once, without tiles."""
    batch = torch.from_numpy(given(image, io))[None]
    with torch.inference_mode():
        made = module.to("cpu")(batch if io == "uint8" else batch.permute(0, 3, 1, 2))
    return levels((made if io == "uint8" else made.permute(0, 2, 3, 1))[0].numpy())
