"""Files of others: what an .onnx file without a manifest computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.manifest import ModelFacts, facts_from_metadata
from srtool.runtime.session import DEFAULT_HALO, OnnxBackend

SIDE = 64  # LR pixels of the trial


def facts_by_trial(path: Path, backend: OnnxBackend) -> ModelFacts:
    """Facts of an .onnx file that has no manifest: from its own metadata where srtool wrote it,
    else from its input (RGB, (N, 3, H, W) float32 in 0..1 or (N, H, W, 3) uint8) and a trial."""
    file = backend.inspect(path)
    if facts := facts_from_metadata(file.metadata):
        return facts
    shape, kind = file.shape, file.dtype
    io: Literal["uint8", "float32"]
    if kind == "float32" and len(shape) == 4 and shape[1] == 3:
        io, sides = "float32", shape[2:]
    elif kind == "uint8" and len(shape) == 4 and shape[3] == 3:
        io, sides = "uint8", shape[1:3]
    else:
        found = f"{kind} of shape {tuple('?' if side is None else side for side in shape)}"
        raise _refused(
            path, "takes", found, "RGB images as float32 (N, 3, H, W) or uint8 (N, H, W, 3)"
        )
    if any(side is not None for side in sides):
        raise EngineError(
            f"{path}: takes only images of {sides[1]}x{sides[0]} pixels; export it with free "
            "height and width",
            path=path,
            found=f"{sides[1]}x{sides[0]}",
            expected="free height and width",
        )
    tile = _tile(io, SIDE)
    try:
        out = file.run(tile)[0]
    except RuntimeError as error:
        raise EngineError(
            f"{path}: fails on an image of {SIDE}x{SIDE} pixels ({error}); expected a network "
            "with one input that takes any size",
            path=path,
            found=str(error),
        ) from None
    height = 1 if io == "uint8" else 2
    scale = out.shape[height] // SIDE if out.ndim == 4 else 0
    expected = list(tile.shape)
    expected[height : height + 2] = [scale * SIDE] * 2
    if scale < 1 or list(out.shape) != expected or out.dtype != tile.dtype:
        found = f"{out.dtype} values of shape {out.shape} from an image of {SIDE}x{SIDE} pixels"
        raise _refused(path, "makes", found, "an image a whole number of times as large")
    return ModelFacts(
        scale=scale, io=io, precision="fp32", architecture="unknown", halo=DEFAULT_HALO
    )


def _refused(path: Path, verb: str, found: str, expected: str) -> EngineError:
    return EngineError(
        f"{path}: {verb} {found}, expected {expected}", path=path, found=found, expected=expected
    )


def _tile(io: Literal["uint8", "float32"], side: int) -> NDArray[Any]:
    """A gray tile in the form that a session takes."""
    if io == "uint8":
        return np.full((1, side, side, 3), 128, np.uint8)
    return np.full((1, 3, side, side), 0.5, np.float32)
