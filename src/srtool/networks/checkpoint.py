"""What a file of weights holds, under whatever wrapping: plain tensors by name.

Nothing is ever unpickled beyond tensors and plain values (weights_only).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from srtool.errors import CheckpointError

SUFFIXES = {".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl"}

# Where trainers put a state dict: averages of the weights first, which is what they evaluate.
_AVERAGES = ("params_ema", "params-ema", "ema", "model_ema", "net_g_ema", "generator_ema", "g_ema")
_WEIGHTS = (
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "net_g",
    "netG",
    "generator",
    "network",
    "weights",
)
# What wrappers put before the names: those of averages, of one network among several, of all.
_AVERAGED = ("generator_ema.", "net_g_ema.", "ema_model.", "model_ema.", "ema.")
_OF_GENERATOR = ("generator.", "net_g.", "netG.", "gen.")
_OF_ALL = ("module.", "_orig_mod.", "_forward_module.", "model.", "network.", "net.")
_COUNTERS = {"n_averaged", "initted", "step", "num_updates", "decay"}
_DEPTH = 4


@dataclass(frozen=True)
class Candidate:
    """Weights by name, one reading of what a file holds. note: which of several were taken."""

    state: dict[str, Tensor]
    note: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A file's content. about: config and facts of a generator of ours, None of other files."""

    path: Path
    candidates: list[Candidate]
    about: dict[str, Any] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of any supported kind. CheckpointError where it holds no weights."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected weights (.safetensors or .pth)")
    if path.suffix.lower() == ".safetensors":
        about, state = _read_safetensors(path)
        note = ""
    else:
        about, state, note = _unwrapped(unpickle(path), path)
    _check_claims(path, state)
    if about:
        return Checkpoint(path, [Candidate(state)], about)
    return Checkpoint(path, list(_readings(Candidate(state, note))))


def unpickle(path: Path) -> Any:
    """Load tensors and plain values; CheckpointError for everything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = _reason(str(error))
    raise CheckpointError(
        f"{path}: cannot be opened as weights ({reason}); "
        "expected a .pth or .safetensors file with a state dict"
    )


def _reason(text: str) -> str:
    if found := re.search(r"GLOBAL (\S+)", text):  # the unpickler's word for a class or function
        return (
            f"it holds more than tensors and plain values, such as {found[1].strip('`')[:80]}; "
            "save its state dict alone where it was trained"
        )
    if "GLOBAL" in text:
        return "it holds more than tensors and plain values"
    if "TorchScript" in text:
        return "it is a TorchScript archive, a program and not weights"
    if "PytorchStreamReader" in text:
        return "it is cut short or damaged"
    return "it was not written by torch.save, or is cut short"


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
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(f"{path}: its srtool metadata is damaged") from None


def _unwrapped(content: Any, path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor], str]:
    """Find the state dict in what a .pth file holds; our own files also have a config."""
    about: dict[str, Any] | None = None
    note = ""
    if isinstance(content, dict) and "srtool" in content:
        about = {"config": content.get("config")}
        content = content.get("ema") or content.get("generator")
    for _ in range(_DEPTH):
        inside = _named(content, (*_AVERAGES, *_WEIGHTS))
        if not inside and isinstance(content, dict) and len(content) == 1:
            inside = _named(content, tuple(content))
        if not inside:
            break
        plain = [key for key in inside if key in _WEIGHTS]
        if inside[0] in _AVERAGES and plain:
            note = f"{inside[0]} is taken, the average of the weights; {plain[0]} is there as well"
        content = content[inside[0]]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {described(content)}, expected a dict of tensors")
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    others = [value for value in content.values() if not isinstance(value, Tensor)]
    stray = all(value is None or isinstance(value, (bool, int, float, str)) for value in others)
    if not state or not stray:
        only = " only" if content else ""
        raise CheckpointError(
            f"{path}: holds {described(content)}, expected a dict of tensors{only}"
        )
    return about, state, note


def _named(content: Any, keys: tuple[Any, ...]) -> list[Any]:
    """Those of the keys that hold a dict with something in it."""
    if not isinstance(content, dict):
        return []
    return [key for key in keys if isinstance(content.get(key), dict) and content[key]]


def _readings(first: Candidate) -> Iterator[Candidate]:
    """A state dict as it is, then without what wrappers put before the names."""
    waiting, seen = [first], 0
    while waiting and seen < 12:
        reading = waiting.pop(0)
        state = {
            key: value
            for key, value in reading.state.items()
            if key not in _COUNTERS or value.numel() > 1
        }
        seen += 1
        yield Candidate(state, reading.note)
        for prefix in (*_AVERAGED, *_OF_GENERATOR, *_OF_ALL):
            inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            if not inside or (len(inside) < len(state) and prefix in _OF_ALL):
                continue
            note = reading.note
            if prefix in _AVERAGED and len(inside) < len(state):
                note = f"{prefix}* is taken, the average of the weights; others are there as well"
            waiting.append(Candidate(inside, note))


def described(content: Any) -> str:
    """What there is, in words."""
    if isinstance(content, dict):
        keys = ", ".join(repr(str(key))[:60] for key in list(content)[:3])
        return f"a dict of {len(content)} entries ({keys}{', ...' if len(content) > 3 else ''})"
    return f"a {type(content).__name__}"


def _check_claims(path: Path, state: dict[str, Tensor]) -> None:
    """CheckpointError where names or shapes claim a network that the file is too small for: it
    would be built before anything is compared."""
    most = 4 * len(state) + 64
    for name, value in state.items():
        numbers = [part for part in name.split(".") if part.isdigit()]
        if any(len(number) > 9 or int(number) > most for number in numbers):
            raise CheckpointError(
                f"{path}: {name[:80]} claims more layers than {len(state)} tensors can be"
            )
        held = value.untyped_storage().nbytes() if value.layout is torch.strided else 0
        if value.numel() * value.element_size() > held:
            raise CheckpointError(
                f"{path}: {name[:80]} claims {value.numel()} values and holds {held} bytes"
            )
