"""What a caller asks for when an engine is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from srtool.runtime.foreign import NOTHING_KNOWN, Foreign

BackendName = Literal[
    "auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch"
]
PrecisionName = Literal["auto", "fp32", "bf16"]

CHECKPOINTS = frozenset({".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl"})
PLAN = ".plan"
# As a fallback: the .onnx file that the plan was made of, on the GPU where that can be.
RECORDED: Literal["onnxruntime"] = "onnxruntime"


@dataclass(frozen=True)
class Request:
    """See `srtool.open_engine`."""

    path: Path
    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    fallback: str | None = None
    threads: int | None = None
    device: int | None = None
    foreign: Foreign = NOTHING_KNOWN
