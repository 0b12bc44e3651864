"""Validation of a generator while it is trained: in float32, and as a float16 engine computes it.

An engine holds its weights and whatever passes between two layers in float16, adds up in float32
and rounds each result once. That is emulated here on any device; values beyond 65504 become
infinite, as they do on a GPU. So training that leaves float16's range says so when it does, not
when it is over and exported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from srtool.images.colour import psnr_y
from srtool.images.photographs import Pair
from srtool.networks.generator import (
    RESIDUAL_SCALE,
    RRDB,
    DenseBlock,
    Generator,
    Upsampler,
    fold_head,
    leaky,
)
from srtool.networks.gradient import gradient_map
from srtool.parity import FAITHFUL

Image = NDArray[np.uint8]

FLOAT16_LARGEST = 65504.0
FALL = FAITHFUL.max_delta_psnr  # dB of PSNR-Y
PICTURES = 4
# Deployed graphs carry colours in units of 1/256: whole pixel values are exact in float16.
PIXEL_UNIT = 255 / 256


@dataclass(frozen=True)
class Validation:
    """What a generator makes of images that it was not trained on.

    psnr_y, deployed_psnr_y: mean PSNR-Y in dB, in float32 and as a float16 engine computes it.
    largest_activation: by magnitude, among all that an engine holds in float16; as float32 has
        it, so it is finite where the engine's is not. overflowed: the modules with activations
        beyond 65504, the one with the largest first; an upsampler is named for its input, the sum
        of the long skip.
    scores: means of further metrics, over the images that have one. pictures: the first images,
        (H, W, 3) RGB uint8. Both are of the deployed form.
    """

    psnr_y: float
    deployed_psnr_y: float
    largest_activation: float
    overflowed: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    pictures: list[Image] = field(default_factory=list)


def validate(
    generator: Generator,
    pairs: Sequence[Pair],
    metrics: Mapping[str, Callable[[Image], float]] | None = None,
    device: torch.device | None = None,
) -> Validation:
    """Upscale the LR images in float32 and as deployed; head folded, uint8 in and out.

    metrics: figures of one upscaled image, (H, W, 3) RGB uint8, by name. device: where to
    compute, on the generator's own unless said otherwise. Neither the generator nor the state of
    torch's random numbers changes.
    """
    assert pairs, "nothing to validate on"
    with torch.random.fork_rng(devices=[]):  # fold_head makes a generator, of random weights first
        plain = copy.deepcopy(fold_head(generator)).eval()
    plain.to(device or next(generator.parameters()).device)
    deployed = Deployed(copy.deepcopy(plain))
    largest = _watch(plain)
    psnrs: list[float] = []
    deployed_psnrs: list[float] = []
    scores: dict[str, list[float]] = {name: [] for name in metrics or {}}
    pictures: list[Image] = []
    for pair in pairs:
        image = upscale_uint8(deployed, pair.lr)
        psnrs.append(psnr_y(upscale_uint8(plain, pair.lr), pair.hr))
        deployed_psnrs.append(psnr_y(image, pair.hr))
        for name, metric in (metrics or {}).items():
            if math.isfinite(value := metric(image)):
                scores[name].append(value)
        if len(pictures) < PICTURES:
            pictures.append(image)
    found = {name: value.nan_to_num(math.inf, math.inf).item() for name, value in largest.items()}
    descending = sorted(found, key=lambda name: -found[name])
    return Validation(
        psnr_y=float(np.mean(psnrs)),
        deployed_psnr_y=float(np.mean(deployed_psnrs)),
        largest_activation=found[descending[0]],
        overflowed=tuple(name for name in descending if found[name] > FLOAT16_LARGEST),
        scores={name: float(np.mean(values)) for name, values in scores.items() if values},
        pictures=pictures,
    )


def warnings_of(validation: Validation) -> list[str]:
    """A line for each way in which a float16 engine would do worse than the generator:
    activations out of float16's range, PSNR-Y that falls by more than the 0.02 dB of a faithful
    engine."""
    warnings = []
    if validation.overflowed:
        first, *others = validation.overflowed
        also = f", {len(others)} more modules exceed it too" if others else ""
        warnings.append(
            f"activations of {first} reach {validation.largest_activation:.6g}, float16 ends at "
            f"{FLOAT16_LARGEST:.0f}{also}: a float16 engine computes infinity there; keep these "
            "modules in float32 (`srtool verify --bisect`) or go back to an earlier checkpoint"
        )
    fall = validation.psnr_y - validation.deployed_psnr_y
    if fall > FALL:
        warnings.append(
            f"PSNR-Y falls by {fall:.3f} dB in float16, from {validation.psnr_y:.3f} to "
            f"{validation.deployed_psnr_y:.3f}, and a faithful engine by at most {FALL}: "
            "`srtool verify --bisect` finds the modules that need float32"
        )
    return warnings


def upscale_uint8(network: Generator | Deployed, lr: Image) -> Image:
    """Run a generator with a plain head, or its deployed form, on one image, on its own device:
    (h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
    device = next(network.parameters()).device
    levels = torch.from_numpy(lr).to(device).permute(2, 0, 1)[None].float()
    backend: Any = torch.backends.cudnn
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        # TensorFloat-32 would round like float16, and hide what float16 costs.
        backend.flags(enabled=True, allow_tf32=False),
    ):
        if isinstance(network, Deployed):
            result: Tensor = network(levels)
        else:
            result = network(levels / 255).image * 255
        # Where infinities made NaN, an engine's cast to uint8 gives 0.
        result = result.nan_to_num(0.0, math.inf, -math.inf).round().clamp(0, 255).byte()
    image: Image = result[0].permute(1, 2, 0).cpu().numpy()
    return image


class Deployed(nn.Module):
    """A generator with a plain head as its float16 engine computes it.

    (N, 3, h, w) levels 0..255 -> (N, 3, 4h, 4w) levels, float32, neither rounded nor clamped.
    Gradient map and image skip are computed in float32, all between them in float16.
    """

    def __init__(self, generator: Generator) -> None:
        """generator: is taken over and rewritten, just as the exporter rewrites its graph."""
        super().__init__()
        self.generator = generator
        factors = _folded(generator)
        for name, module in list(generator.named_modules()):
            if isinstance(module, RRDB):
                generator.set_submodule(name, _HalfRRDB(module))
        for name, module in list(generator.named_modules()):
            if isinstance(module, DenseBlock):
                generator.set_submodule(name, _FoldedDenseBlock(module))
        for name, module in list(generator.named_modules()):
            if isinstance(module, nn.Conv2d):
                bias_factor = factors.get(name, 1.0)
                factor = 1 / PIXEL_UNIT if name == "head" else bias_factor
                generator.set_submodule(name, _HalfConvolution(module, factor, bias_factor))

    def forward(self, levels: Tensor) -> Tensor:
        low = levels / 256
        config = self.generator.config
        gradient = gradient_map(low * (1 / PIXEL_UNIT)).half() if config.taps else None
        units = self.generator.branches(low.half(), gradient)[0].float()
        if config.image_skip:
            units = units + F.interpolate(low, scale_factor=4.0, mode="nearest")
        return units * 256


def _folded(generator: Generator) -> dict[str, float]:
    """Factors that the exporter folds into convolutions, by name: what an engine holds of their
    results is that much smaller."""
    dense = [n for n, module in generator.named_modules() if isinstance(module, DenseBlock)]
    return {**{f"{name}.last": RESIDUAL_SCALE for name in dense}, "fusion.image": PIXEL_UNIT}


class _HalfConvolution(nn.Module):
    """A convolution between float16 tensors, of float16 weights, as tensor cores compute it: the
    sum in float32, rounded once."""

    def __init__(self, conv: nn.Conv2d, factor: float, bias_factor: float) -> None:
        super().__init__()
        assert conv.bias is not None
        self.padding = conv.padding
        self.weight = nn.Parameter(_rounded(conv.weight, factor), requires_grad=False)
        self.bias = nn.Parameter(_rounded(conv.bias, bias_factor), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.float(), self.weight, self.bias, padding=self.padding).half()


def _rounded(values: Tensor, factor: float) -> Tensor:
    """Scaled, and rounded to float16; in float32, as no CPU multiplies float16 at any speed."""
    return (values.detach().double() * factor).float().half().float()


class _FoldedDenseBlock(nn.Module):
    """A dense block whose residual scale is folded into its last convolution."""

    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        self.convs, self.last = block.convs, block.last

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for conv in self.convs:
            features = torch.cat((features, leaky(conv(features))), 1)
        out: Tensor = self.last(features)
        return out + x


class _HalfRRDB(nn.Module):
    """An RRDB whose residual scale is the float16 constant of an engine, 0.19995."""

    def __init__(self, rrdb: RRDB) -> None:
        super().__init__()
        self.dense = rrdb.dense
        self.scale = torch.tensor(RESIDUAL_SCALE, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense(x)
        return out * self.scale + x


def _watch(generator: Generator) -> dict[str, Tensor]:
    """Have a generator note, from now on, the largest magnitude of all that an engine holds in
    float16: results of convolutions and sums, by the name of their module."""
    largest: dict[str, Tensor] = {}
    factors = _folded(generator)

    def see(name: str, value: Tensor) -> None:
        low, high = value.aminmax()
        found = torch.maximum(-low, high) * factors.get(name, 1.0)
        largest[name] = torch.maximum(found, largest.get(name, found))

    for name, module in generator.named_modules():
        if name == "gradient_out":  # training alone looks at it, engines do not hold it
            continue
        if isinstance(module, nn.Conv2d | DenseBlock | RRDB):
            module.register_forward_hook(lambda _, given, out, name=name: see(name, out))
        elif isinstance(module, Upsampler):
            module.register_forward_pre_hook(lambda _, given, name=name: see(name, given[0]))
    return largest
