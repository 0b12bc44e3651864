"""Weights on disk: our own files, SPSR's, and everything that spandrel knows.

Nothing is ever unpickled beyond tensors and plain values (weights_only).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.errors import CheckpointError
from srtool.files import whole_file
from srtool.networks.generator import SCALE, Generator, GeneratorConfig, generator_from_state

FORMAT = 1


@dataclass(frozen=True)
class Network:
    """An SR network ready for use, in eval mode.

    module: (N, 3, H, W) RGB 0..1 float -> (N, 3, scale * H, scale * W); our own generators
        return a GeneratorOutput instead of the bare image.
    architecture: "srtool", "SPSR" or spandrel's name. facts: what the file says of its training.
    """

    module: nn.Module
    scale: int
    architecture: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def upscale(self, x: Tensor) -> Tensor:
        """The reference: (N, 3, H, W) RGB 0..1 -> (N, 3, scale * H, scale * W), not clamped."""
        if not isinstance(self.module, Generator):
            out: Tensor = self.module(x)
            return out
        if self.module.config.head == "unshuffle":
            x = F.interpolate(x, scale_factor=float(SCALE), mode="nearest")
        image: Tensor = self.module(x).image
        return image


def save_generator(path: Path, generator: Generator, facts: Mapping[str, Any]) -> None:
    """Write weights and config as .safetensors; facts are JSON values that describe training."""
    from safetensors.torch import save_file

    about = {"format": FORMAT, "config": generator.config.as_dict(), "facts": dict(facts)}
    tensors = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"srtool": json.dumps(about)})


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


def load_network(path: str | Path) -> Network:
    """Open a .safetensors or .pth file of any supported kind.

    Raises CheckpointError with one line that says what was found where it is none of them.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights (.safetensors or .pth)")
    if path.suffix == ".safetensors":
        about, state = _read_safetensors(path)
    else:
        about, state = _split(unpickle(path), path)
    try:
        if about:
            config = GeneratorConfig(**about["config"])
            generator = generator_from_state(config, state).eval()
            return Network(generator, SCALE, "srtool", path, about.get("facts", {}))
        if "model.0.weight" in state and any(key.startswith("b_block_1.") for key in state):
            return Network(generator_from_spsr(state).eval(), SCALE, "SPSR", path)
    except (CheckpointError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return _through_spandrel(path, state)


def _read_safetensors(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()  # a safetensors file, not a dict: it does not iterate
            state = {key: file.get_tensor(key) for key in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a whole .safetensors file ({error})") from None
    if "srtool" not in metadata:
        return None, state
    try:
        about = json.loads(metadata["srtool"])
        return {"config": dict(about["config"]), "facts": dict(about.get("facts", {}))}, state
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{path}: its srtool metadata is damaged") from None


def unpickle(path: Path) -> Any:
    """Load tensors and plain values; CheckpointError for everything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "GLOBAL" in str(error):  # the unpickler's word for a class or function
            reason = "it holds more than tensors and plain values"
        elif "PytorchStreamReader" in str(error):
            reason = "it is cut short or damaged"
        else:
            reason = "it was not written by torch.save, or is cut short"
        raise CheckpointError(
            f"{path}: cannot be opened as weights ({reason}); "
            "expected a .pth or .safetensors file with a state dict"
        ) from None


def _split(content: Any, path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Find the state dict in what a .pth file holds; our own files also have a config."""
    about: dict[str, Any] | None = None
    if isinstance(content, dict) and "srtool" in content:
        about = {"config": content.get("config")}
        content = content.get("ema") or content.get("generator")
    for key in ("params_ema", "params", "state_dict", "model_state_dict", "generator"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {_found(content)}, expected a dict of tensors")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds {_found(content)}, expected a dict of tensors only")
    return about, {str(key).removeprefix("module."): value for key, value in content.items()}


def _found(content: Any) -> str:
    if isinstance(content, dict):
        keys = ", ".join(repr(str(key)) for key in list(content)[:3])
        return f"a dict of {len(content)} entries ({keys}{', ...' if len(content) > 3 else ''})"
    return f"a {type(content).__name__}"


def _through_spandrel(path: Path, state: dict[str, Tensor]) -> Network:
    from spandrel import ImageModelDescriptor, ModelLoader

    try:
        model = ModelLoader(device="cpu").load_from_state_dict(dict(state))
    except Exception as error:
        raise CheckpointError(
            f"{path}: holds {_found(state)}, which is no network of srtool, SPSR or spandrel "
            f"({type(error).__name__})"
        ) from None
    name = model.architecture.name
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
        raise CheckpointError(f"{path}: is a {name} network, expected one from RGB to RGB images")
    if model.scale < 2:
        raise CheckpointError(f"{path}: is a {name} network with scale 1, expected upscaling")
    return Network(model.model.eval(), model.scale, name, path, {"tags": list(model.tags)})


# The public SPSR code's parameter names and ours. RRDBs share one inner pattern.
_SPSR_NAMES = (
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
_SPSR_ALIASES = ("get_g_nopadding.", "HR_conv0_new.")  # constants, and model.8 once more


def generator_from_spsr(state: Mapping[str, Tensor]) -> Generator:
    """Build our generator from a state dict in the layout of the public SPSR code."""
    numbers = [int(m[1]) for k in state if (m := re.match(r"model\.1\.sub\.(\d+)\.RDB1", k))]
    first = state.get("model.1.sub.0.RDB1.conv1.0.weight")
    if not numbers or first is None or first.ndim != 4:
        raise CheckpointError("looks like SPSR, but model.1.sub.0.RDB1.conv1.0.weight is missing")
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
        _name_from_spsr(key, blocks): value
        for key, value in state.items()
        if not key.startswith(_SPSR_ALIASES)
    }
    return generator_from_state(config, renamed)


def _name_from_spsr(key: str, blocks: int) -> str:
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
    for pattern, name in _SPSR_NAMES:
        if re.fullmatch(pattern, stem):
            return f"{name}.{kind}"
    return key
