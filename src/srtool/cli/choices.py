"""Values that several commands offer."""

from __future__ import annotations

from enum import Enum


class BackendChoice(str, Enum):
    auto = "auto"
    onnxruntime = "onnxruntime"
    onnxruntime_cuda = "onnxruntime-cuda"
    onnxruntime_tensorrt = "onnxruntime-tensorrt"
    openvino = "openvino"
    torch = "torch"


class RunPrecisionChoice(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class FormatChoice(str, Enum):
    text = "text"
    md = "md"
    latex = "latex"
    html = "html"
