"""OpenVINO on the CPU, in float32 or bfloat16: for any shape, and better for one that comes often.

Compiled for one shape, a network takes a quarter to almost half less memory and runs 4 to 24 %
faster: operations merge that otherwise do not, and buffers are laid out once. But compiling takes
as long as some tiles.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from srtool.errors import EngineError

Precision = Literal["fp32", "bf16"]
Shape = tuple[int, ...]

# Pixels in a row of one shape that pay for compiling: measured, 50,000 (tiles of 24x24) to 350,000
# (200x200), for networks of 0.6 to 17 million parameters. Pixels and not seconds, since results of
# the two forms differ in the last bit, and must not depend on how busy a machine is.
WORTH = 1 << 18
KEPT = 8  # networks for one shape; only the one that runs holds memory for it


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


def open_session(path: Path, precision: Precision = "fp32") -> OpenvinoSession:
    """Load an .onnx file. EngineError where it is none, or OpenVINO is missing."""
    try:
        core = process_core()
    except ImportError:
        raise EngineError(f"{path}: OpenVINO is not installed; pip install 'srtool[cpu]'") from None
    try:
        return OpenvinoSession(core.read_model(str(path)), precision)
    except RuntimeError as error:
        raise EngineError(
            f"{path}: is no ONNX model that OpenVINO opens ({' '.join(str(error).split())[-120:]});"
            " expected a file written by `srtool export`"
        ) from None


class OpenvinoSession:
    """A network compiled for any shape, and for those that `expect` was told of often enough."""

    def __init__(self, model: Any, precision: Precision) -> None:
        """model: openvino.Model. RuntimeError where it cannot be compiled."""
        hint = {"fp32": "f32", "bf16": "bf16"}[precision]
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        self._for_any = self._running = _Compiled(model, settings)
        self._running_for: Shape | None = None  # None: any
        self._for_one = lru_cache(KEPT)(partial(_compiled_for, model, settings))
        self._row: Shape = ()
        self._pixels = 0  # of the row

    def expect(self, shape: Shape, times: int) -> None:
        """See `Foresighted`."""
        if shape != self._row:
            self._row, self._pixels = shape, 0
        self._pixels += times * math.prod(shape) // 3

    def __call__(self, batch: NDArray[Any], /) -> NDArray[Any]:
        often = batch.shape == self._row and self._pixels >= WORTH
        wanted = batch.shape if often else None
        if wanted != self._running_for:
            self._running.release()
            self._running = self._for_any if wanted is None else self._for_one(wanted)
            self._running_for = wanted
        return self._running(batch)


class _Compiled:
    def __init__(self, model: Any, settings: dict[str, str]) -> None:
        self._network = process_core().compile_model(model, "CPU", settings)
        self._request = self._network.create_infer_request()

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        # The request owns its output buffer and reuses it: copy.
        result: NDArray[Any] = self._request.infer([batch], share_inputs=True)[0].copy()
        return result

    def release(self) -> None:
        """Give back the memory that it holds between runs."""
        self._network.release_memory()


def _compiled_for(model: Any, settings: dict[str, str], shape: Shape) -> _Compiled:
    fixed = model.clone()
    fixed.reshape(list(shape))
    return _Compiled(fixed, settings)
