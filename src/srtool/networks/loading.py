"""Weights on disk: our own files, SPSR's, everything that spandrel knows, and the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from srtool.errors import CheckpointError
from srtool.files import whole_file
from srtool.networks.checkpoint import read_checkpoint
from srtool.networks.generator import SCALE, Generator, GeneratorConfig, generator_from_state
from srtool.networks.network import Network
from srtool.networks.own import OwnModule, network_from_module
from srtool.networks.spandrel import network_from_checkpoint
from srtool.networks.spsr import generator_from_spsr, is_spsr

FORMAT = 1


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
