"""A network that is ready to be measured, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError

if TYPE_CHECKING:
    from srtool.runtime.engine import Engine

# (N, H, W, 3) uint8 -> (N, sH, sW, 3) uint8, with all that a script does around the network.
Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Opened:
    """upscale: RuntimeError or MemoryError where it fails on an image. software: the library and
    its version. precision: what it computes in: "fp32", "bf16", "fp16". engine: of srtool, where
    it is one."""

    upscale: Upscale
    software: str
    precision: str
    engine: Engine | None = None


def planes_from_levels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 0..1, contiguous."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def levels_from_planes(planes: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, 3, H, W) float 0..1 -> (N, H, W, 3) uint8: clamped, rounded, contiguous."""
    levels = np.rint(np.clip(planes, 0, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def one_line(error: BaseException, length: int = 160) -> str:
    """What an exception says, its first line, or its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:length] if lines else type(error).__name__


def missing(name: str, extra: str) -> EngineError:
    """An optional library that is not there, and where it comes from."""
    return EngineError(f"{name} is not installed; pip install 'srtool[{extra}]'")
