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
from torch import Tensor, nn

from srtool.images.colour import psnr_y
from srtool.images.datasets import Image, Pair
from srtool.networks.deployed import Float16, rounded
from srtool.networks.generator import (
    RRDB,
    DenseBlock,
    FastFusion,
    Generator,
    ResidualBlock,
    Upsampler,
    deployed,
    gradient_map,
)
from srtool.parity import FAITHFUL

FLOAT16_LARGEST = 65504.0
FALL = FAITHFUL.max_delta_psnr  # dB of PSNR-Y
PICTURES = 4


@dataclass(frozen=True)
class Validation:
    """What a generator makes of images that it was not trained on.

    psnr_y, deployed_psnr_y: mean PSNR-Y in dB, in float32 and as a float16 engine computes it.
    largest_activation: by magnitude, among all that an engine holds in float16; as float32 has
        it, so it is finite where the engine's is not. overflowed: the modules with activations
        beyond 65504, the one with the largest first; an upsampler and a fusion at LR size are named
        for their input, the sum of the long skip.
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
) -> Validation:
    """Upscale the LR images in float32 and as deployed; head folded, uint8 in and out.

    metrics: figures of one upscaled image, (H, W, 3) RGB uint8, by name. It is computed on the
    generator's own device; neither the generator nor the state of torch's random numbers changes.
    """
    assert pairs, "nothing to validate on"
    network = deployed(generator).to(next(generator.parameters()).device)
    in_half = copy.deepcopy(network)
    largest = _watch(network)
    psnrs: list[float] = []
    deployed_psnrs: list[float] = []
    scores: dict[str, list[float]] = {name: [] for name in metrics or {}}
    pictures: list[Image] = []
    for pair in pairs:
        image = upscale_uint8(in_half, pair.lr, float16=True)
        psnrs.append(psnr_y(upscale_uint8(network, pair.lr), pair.hr))
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
            "modules in float32 (`srtool verify` finds them) or go back to an earlier checkpoint"
        )
    fall = validation.psnr_y - validation.deployed_psnr_y
    if fall > FALL:
        warnings.append(
            f"PSNR-Y falls by {fall:.3f} dB in float16, from {validation.psnr_y:.3f} to "
            f"{validation.deployed_psnr_y:.3f}, and a faithful engine by at most {FALL}: "
            "`srtool verify` finds the modules that need float32, by bisection"
        )
    return warnings


def upscale_uint8(generator: Generator, lr: Image, float16: bool = False) -> Image:
    """Run a generator with a plain head on one image, on its own device, in float32 or as its
    float16 engine computes it: (h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
    device = next(generator.parameters()).device
    levels = torch.from_numpy(lr).to(device).permute(2, 0, 1)[None].float()
    backend: Any = torch.backends.cudnn
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        # TensorFloat-32 would round like float16, and hide what float16 costs.
        backend.flags(enabled=True, allow_tf32=False),
    ):
        low = levels / 255
        result = (in_float16(generator, low) if float16 else generator(low).image) * 255
        # Where infinities made NaN, an engine's cast to uint8 gives 0.
        result = result.nan_to_num(0.0, math.inf, -math.inf).round().clamp(0, 255).byte()
    image: Image = result[0].permute(1, 2, 0).cpu().numpy()
    return image


def in_float16(generator: Generator, low: Tensor) -> Tensor:
    """Gradient map and image skip in float32, all between them in float16, as an exporter has it:
    (N, 3, h, w) 0..1 -> (N, 3, 4h, 4w), float32, not clamped."""
    config = generator.config
    gradient = rounded(gradient_map(low)) if config.taps else None
    with Float16():  # type: ignore[no-untyped-call]
        image = generator.branches(low, gradient)[0]
    if config.image_skip:
        image = image + F.interpolate(low, scale_factor=4.0, mode="nearest")
    return image


def _watch(generator: Generator) -> dict[str, Tensor]:
    """Have a generator note, from now on, the largest magnitude of all that an engine holds in
    float16: results of convolutions and sums, by the name of their module."""
    largest: dict[str, Tensor] = {}

    def see(name: str, value: Tensor) -> None:
        low, high = value.aminmax()
        found = torch.maximum(-low, high)
        largest[name] = torch.maximum(found, largest.get(name, found))

    for name, module in generator.named_modules():
        if name == "gradient_out":  # training alone looks at it, engines do not hold it
            continue
        if isinstance(module, nn.Conv2d | DenseBlock | RRDB | ResidualBlock):
            module.register_forward_hook(lambda _, given, out, name=name: see(name, out))
        elif isinstance(module, Upsampler | FastFusion):  # what comes in is the sum of a long skip
            module.register_forward_pre_hook(lambda _, given, name=name: see(name, given[-1]))
    return largest
