"""Checkpoints of the public SPSR code as our generator: the same function under other names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from srtool.errors import CheckpointError
from srtool.networks.generator import Generator, GeneratorConfig, generator_from_state

# The public SPSR code's parameter names and ours. RRDBs share one inner pattern.
_NAMES = (
    (r"model\.0", "head"),
    (r"model\.3", "upsampler.up1"),
    (r"model\.6", "upsampler.up2"),
    (r"model\.8", "upsampler.hr1"),
    (r"HR_conv1_new\.0", "upsampler.hr2"),
    (r"b_fea_conv\.0", "gradient_head"),
    (r"b_LR_conv\.0", "gradient_conv"),
    (r"b_module\.1", "gradient_upsampler.up1"),
    (r"b_module\.4", "gradient_upsampler.up2"),
    (r"b_module\.6", "gradient_upsampler.hr1"),
    (r"b_module\.8", "gradient_upsampler.hr2"),
    (r"conv_w\.0", "gradient_out"),
    (r"f_concat\.0", "fusion.reduce"),
    (r"f_HR_conv0\.0", "fusion.conv"),
    (r"f_HR_conv1\.0", "fusion.image"),
)
_ALIASES = ("get_g_nopadding.", "HR_conv0_new.")  # constants, and model.8 once more
_UPSAMPLERS = 2  # of a factor 2 each


def is_spsr(state: Mapping[str, object]) -> bool:
    return "model.0.weight" in state and any(key.startswith("b_block_1.") for key in state)


def generator_from_spsr(state: Mapping[str, Tensor]) -> Generator:
    """Build our generator from a state dict in the layout of the public SPSR code.

    CheckpointError where a weight is missing or does not belong, or the scale is not 4.
    """
    first = state.get("model.1.sub.0.RDB1.conv1.0.weight")
    numbers = [int(m[1]) for k in state if (m := re.match(r"model\.1\.sub\.(\d+)\.RDB1", k))]
    if not numbers or first is None or first.ndim != 4:
        raise CheckpointError("looks like SPSR, but model.1.sub.0.RDB1.conv1.0.weight is missing")
    convolutions = {m[1] for k in state if (m := re.match(r"b_module\.(\d+)\.", k))}
    upsamplers = len(convolutions) - 2
    if upsamplers != _UPSAMPLERS and upsamplers >= 0:
        scale = {0: "x1", 1: "x2 or x3"}.get(upsamplers, f"x{2**upsamplers}")
        raise CheckpointError(f"is an SPSR network of scale {scale}, expected x4")
    blocks = 1 + max(numbers)
    growth, features = first.shape[:2]
    config = GeneratorConfig(
        features=features,
        growth=growth,
        blocks=blocks,
        gradient_features=features,
        gradient_growth=growth,
        hr_features=features,
        fusion_growth=growth,
        head="plain",
    )
    renamed = {
        _name(key, blocks): value for key, value in state.items() if not key.startswith(_ALIASES)
    }
    return generator_from_state(config, renamed)


def _name(key: str, blocks: int) -> str:
    stem, _, kind = key.rpartition(".")
    if stem == f"model.1.sub.{blocks}":
        return f"trunk_conv.{kind}"
    if match := re.fullmatch(r"b_concat_(\d)\.0", stem):
        return f"gradient_blocks.{int(match[1]) - 1}.conv.{kind}"
    if match := re.fullmatch(r"(.+)\.RDB(\d)\.conv(\d)\.0", stem):
        block, dense, conv = match[1], int(match[2]) - 1, int(match[3])
        inner = "last" if conv == 5 else f"convs.{conv - 1}"
        if number := re.fullmatch(r"model\.1\.sub\.(\d+)", block):
            block = f"trunk.{number[1]}"
        elif number := re.fullmatch(r"b_block_(\d)", block):
            block = f"gradient_blocks.{int(number[1]) - 1}.rrdb"
        elif block == "f_block":
            block = "fusion.rrdb"
        return f"{block}.dense.{dense}.{inner}.{kind}"
    for pattern, name in _NAMES:
        if re.fullmatch(pattern, stem):
            return f"{name}.{kind}"
    return key
