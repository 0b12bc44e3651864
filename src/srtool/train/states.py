"""Training states on disk: each whole or absent, the last few kept, the newest one continued."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from srtool.errors import CheckpointError, SrtoolError, UsageError
from srtool.files import whole_file

FORMAT = 2
FOLDER = "checkpoints"
_NAME = re.compile(r"(stage[12])-(\d{8})\.pth")
_NEEDED = {"srtool", "recipe", "stage", "step", "generator", "optimizers", "ema"}


def states_below(out: Path) -> list[Path]:
    """The states of a run, oldest first."""
    return sorted(path for path in (out / FOLDER).glob("*.pth") if _NAME.fullmatch(path.name))


def save_state(out: Path, state: Mapping[str, Any], keep: int) -> Path:
    """Write a state below `out`, then remove all but the last `keep`. SrtoolError where the disk
    is full; the states before it are kept."""
    path = out / FOLDER / f"{state['stage']}-{state['step']:08d}.pth"
    try:
        with whole_file(path) as temporary:
            torch.save({"srtool": FORMAT, **state}, temporary)
    except (OSError, RuntimeError) as error:  # torch.save: RuntimeError for a short write
        raise _unwritable(path, error) from None
    for old in states_below(out)[:-keep]:
        old.unlink()
    return path


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; CheckpointError where a file is damaged or something else."""
    from srtool.networks.checkpoint import unpickle

    try:
        content = unpickle(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to continue from the one before it") from None
    if not isinstance(content, dict) or not content.keys() >= _NEEDED:
        raise CheckpointError(f"{path}: is not a training checkpoint of srtool")
    if content["srtool"] != FORMAT:
        raise CheckpointError(
            f"{path}: has format {content['srtool']}, this srtool continues format {FORMAT}; "
            "start again from its weights, in another folder",
            path=path,
            remedy={"start_from": "WEIGHTS"},
        )
    return content


def check_space(out: Path, size: int, keep: int) -> None:
    """UsageError before any time is spent where `keep` states of about `size` bytes, one more
    while it is written and the weights do not fit on the disk of `out`."""
    folder = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    needed, free = (keep + 2) * size, shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{out}: has {free / 1e6:.0f} MB free, checkpoints need {needed / 1e6:.0f} MB; "
            "free some space, lower keep or choose another folder",
            path=out,
            parameter="out",
        )


def state_size(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_size(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(state_size(value) for value in state)
    return 0


def _unwritable(path: Path, error: OSError | RuntimeError) -> SrtoolError:
    reason = "the disk is full"
    if isinstance(error, RuntimeError):  # does not say what it is
        if shutil.disk_usage(path.parent).free > 1 << 20:
            raise error
    elif error.errno != errno.ENOSPC:
        reason = error.strerror or str(error)
    return SrtoolError(
        f"{path}: cannot be written ({reason}); the checkpoints before it are kept: "
        "make room and repeat the same command"
    )
