"""A network that is ready to be measured, whatever runs it.

What runs it is imported when it is opened: that counts as its load time, and its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.system import version_of

if TYPE_CHECKING:
    from srtool.runtime.engine import Engine
    from srtool.runtime.session import Backend, BackendName

# (N, H, W, 3) uint8 -> (N, sH, sW, 3) uint8, with all that a script does around the network.
Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

# The libraries of backends, and the packages that each comes in.
_PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "onnxruntime-tensorrt": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
    "torch": ("torch",),
    "kserve": ("tritonclient",),
}


@dataclass(frozen=True)
class Opened:
    """upscale: RuntimeError or MemoryError where it fails on an image. software: the library and
    its version. precision: what it computes in: "fp32", "bf16", "fp16". engine: of srtool, where
    it is one."""

    upscale: Upscale
    software: str
    precision: str
    engine: Engine | None = None


def open_engine_candidate(path: Path, backend: Backend | BackendName) -> Opened:
    """An engine as `srtool infer` opens it, where it chooses itself or is told the library; or on
    one backend."""
    from srtool.runtime.onnx_files import open_on
    from srtool.runtime.opening import open_engine

    engine = open_engine(path, backend) if isinstance(backend, str) else open_on(path, backend)
    library = engine.backend.library
    software = f"{library.removesuffix('-cuda')} {version_of(*_PACKAGES[library])}"
    precision = engine.backend.precision or engine.facts.precision
    return Opened(engine.upscale_batch, software, precision, engine)


def planes_from_levels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 0..1, contiguous."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def levels_from_planes(planes: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, 3, H, W) float 0..1 -> (N, H, W, 3) uint8: clamped, rounded, contiguous."""
    levels = np.rint(np.clip(planes, 0, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def missing(name: str, extra: str) -> EngineError:
    """An optional library that is not there, and where it comes from."""
    return EngineError(f"{name} is not installed; pip install 'srtool[{extra}]'")
