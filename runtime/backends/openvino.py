"""OpenVINO on the CPU, in float32 or bfloat16."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.runtime.backends import Session

Precision = Literal["fp32", "bf16"]


def has_bf16() -> bool:
    """Whether OpenVINO is installed and this CPU has bfloat16 instructions."""
    try:
        core = process_core()
    except ImportError:
        return False
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def process_core() -> Any:
    """The process's one OpenVINO core. Its CPU plugin installs a stack for signal handlers and on
    unloading puts back the one before: with several cores closed out of order that one is gone,
    and the next Ctrl-C is a segmentation fault."""
    import openvino

    return openvino.Core()


def open_session(path: Path, precision: Precision = "fp32") -> Session:
    """Load an .onnx file. EngineError where it is none, or OpenVINO is missing."""
    try:
        core = process_core()
    except ImportError:
        raise EngineError(f"{path}: OpenVINO is not installed; pip install 'srtool[cpu]'") from None
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    try:
        model = core.read_model(str(path))
        compiled = core.compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        )
    except RuntimeError as error:
        raise EngineError(
            f"{path}: is no ONNX model that OpenVINO opens ({' '.join(str(error).split())[-120:]});"
            " expected a file written by `srtool export`"
        ) from None
    request = compiled.create_infer_request()

    def run(batch: NDArray[Any], /) -> NDArray[Any]:
        # The request owns its output buffer and reuses it: copy.
        result: NDArray[Any] = request.infer([batch], share_inputs=True)[0].copy()
        return result

    return run
