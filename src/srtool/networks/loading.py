"""Weights on disk: our own files, SPSR's, everything that spandrel knows, and the user's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srtool.errors import CheckpointError
from srtool.files import whole_file
from srtool.networks.checkpoint import read_checkpoint
from srtool.networks.generator import SCALE, Generator, GeneratorConfig
from srtool.networks.network import Network
from srtool.networks.own import OwnModule, network_from_module
from srtool.networks.spandrel import network_from_checkpoint

FORMAT = 1

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


def save_generator(path: Path, generator: Generator, facts: Mapping[str, Any]) -> None:
    """Write weights and config as .safetensors; facts are JSON values that describe training."""
    from safetensors.torch import save

    about = {"format": FORMAT, "config": generator.config.as_dict(), "facts": dict(facts)}
    tensors = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
    with whole_file(path) as temporary:
        # Written by Python: a full disk is an OSError then
        temporary.write_bytes(save(tensors, {"srtool": json.dumps(about)}))


def interpolated(first: Network, second: Network, share: float) -> Generator:
    """The generator whose every weight lies between two of one architecture: `share` of the way
    from the first (0) to the second (1). Between a stage 1 and a stage 2 that grew out of it, this
    trades PSNR for texture (network interpolation, ESRGAN).

    Raises CheckpointError where they are no generators of one config.
    """
    a, b = first.module, second.module
    if not isinstance(a, Generator) or not isinstance(b, Generator) or a.config != b.config:
        raise CheckpointError(
            f"{second.path}: is another architecture than {first.path}; only generators of srtool "
            "with the same config can be interpolated"
        )
    states = a.state_dict(), b.state_dict()
    return generator_from_state(
        a.config, {name: torch.lerp(states[0][name], states[1][name], share) for name in states[0]}
    )


def load_network(path: str | Path, own: OwnModule | None = None) -> Network:
    """Open a file of weights of any supported kind (`checkpoint.SUFFIXES`).

    own: the user's Python class to build the network with; its code is run.
    Raises CheckpointError with one line that says what was found where it is none of them.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    if own is not None:
        return network_from_module(own, checkpoint)
    try:
        if checkpoint.about:
            config = GeneratorConfig(**checkpoint.about["config"])
            generator = generator_from_state(config, checkpoint.candidates[0].state).eval()
            return Network(generator, SCALE, "srtool", path, checkpoint.about.get("facts", {}))
        for candidate in checkpoint.candidates:
            if is_spsr(candidate.state):
                notes = (candidate.note,) if candidate.note else ()
                generator = generator_from_spsr(candidate.state).eval()
                return Network(generator, SCALE, "SPSR", path, notes=notes)
    except (CheckpointError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return network_from_checkpoint(checkpoint)


def generator_from_state(config: GeneratorConfig, state: dict[str, Tensor]) -> Generator:
    """Build a generator and load its weights; CheckpointError names the first misfit."""
    _check_claims(config, state)
    with torch.device("meta"):
        generator = Generator(config)
    own = generator.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f"weight {name} is missing")
        if name not in own:
            raise CheckpointError(f"weight {name} does not belong to this generator")
        if own[name].shape != state[name].shape:
            raise CheckpointError(
                f"weight {name} has shape {tuple(state[name].shape)}, "
                f"the config asks for {tuple(own[name].shape)}"
            )
    generator.load_state_dict({k: v.float() for k, v in state.items()}, assign=True)
    return generator


def _check_claims(config: GeneratorConfig, state: dict[str, Tensor]) -> None:
    """CheckpointError where a config asks for more than the weights can be, before it is built."""
    largest = max((value.numel() for value in state.values()), default=0)
    for name, size in config.as_dict().items():
        most = len(state) if name == "blocks" else largest
        if type(size) is int and size > most:
            raise CheckpointError(
                f"the config claims {size} {name}, its weights are no more than {most}"
            )


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
