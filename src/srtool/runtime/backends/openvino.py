"""OpenVINO on the CPU, in float32 or bfloat16: for any shape, and better for one that comes often.

Compiled for one shape, a network takes a quarter to almost half less memory and runs 4 to 24 %
faster: operations merge that otherwise do not, and buffers are laid out once. But compiling takes
as long as some tiles.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from srtool.errors import EngineError, in_a_line
from srtool.interrupts import interrupts_held
from srtool.manifest import METADATA_KEY, ModelFacts
from srtool.runtime.engine_files import refused
from srtool.runtime.session import DirectSession, OnnxFile
from srtool.system import share

Shape = tuple[int, ...]

# Pixels in a row of one shape that pay for compiling: measured, 50,000 (tiles of 24x24) to 350,000
# (200x200), for networks of 0.6 to 17 million parameters. Pixels and not seconds, since results of
# the two forms differ in the last bit, and must not depend on how busy a machine is.
WORTH = 1 << 18
KEPT = 8  # networks for one shape; only the one that runs holds memory for it

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_DTYPES = {"f32": "float32", "u8": "uint8", "f16": "float16"}


@dataclass(frozen=True)
class OpenVino:
    """The CPU plugin in one precision."""

    precision: Literal["fp32", "bf16"] = "fp32"
    library: ClassVar = "openvino"
    on_gpu: ClassVar = False

    def __str__(self) -> str:
        return f"openvino {self.precision}"

    def is_available(self) -> bool:
        """In bfloat16: whether this CPU has instructions for it."""
        try:
            core = process_core()
        except ImportError:
            return False
        return self.precision == "fp32" or (
            "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        )

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> OpenVinoSession:
        threads = threads or share()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
        }
        model = _read(path)
        try:
            return OpenVinoSession(model, facts, settings)
        except RuntimeError as error:
            raise refused(path, "OpenVINO", in_a_line(error, None)[-120:]) from None

    def inspect(self, path: Path) -> OnnxFile:
        """EngineError as `open`."""
        model = _read(path)
        given, where = model.inputs[0], ["framework", METADATA_KEY]
        dtype = given.get_element_type().get_type_name()

        @cache
        def request() -> Any:
            settings = {"INFERENCE_PRECISION_HINT": "f32"}
            return process_core().compile_model(model, "CPU", settings).create_infer_request()

        def run(batch: NDArray[Any]) -> list[NDArray[Any]]:
            found = request().infer([batch])
            return [found[index].copy() for index in range(len(model.outputs))]

        return OnnxFile(
            model.get_rt_info(where).value if model.has_rt_info(where) else None,
            given.get_any_name(),
            tuple(
                side.get_length() if side.is_static else None for side in given.get_partial_shape()
            ),
            _DTYPES.get(dtype, dtype),
            tuple(output.get_any_name() for output in model.outputs),
            run,
        )


@cache
def process_core() -> Any:
    """The process's one OpenVINO core. Its CPU plugin installs a stack for signal handlers and on
    unloading puts back the one before: with several cores closed out of order that one is gone,
    and the next Ctrl-C is a segmentation fault."""
    with interrupts_held():  # a Ctrl-C in the middle comes out as if OpenVINO were not installed
        import openvino

        return openvino.Core()


class OpenVinoSession(DirectSession):
    """A network compiled for any shape, and for those that `prepare` was told of often enough."""

    def __init__(self, model: Any, facts: ModelFacts, settings: dict[str, Any]) -> None:
        """model: openvino.Model. RuntimeError where it cannot be compiled."""
        super().__init__(facts, self._compute)
        names = [output.get_any_name() for output in model.outputs]
        index = names.index(facts.output_name) if facts.output_name in names else 0
        self._for_any = self._running = _Compiled(model, settings, index)
        self._running_for: Shape | None = None  # None: any
        self._for_one = lru_cache(KEPT)(partial(_compiled_for, model, settings, index))
        self._choosing = threading.Lock()
        self._row = _Row()

    def prepare(self, shape: Shape, times: int) -> None:
        row = self._row
        number, height, width, channels = shape
        planes = (number, channels, height, width)
        shape = shape if self.facts.io == "uint8" else planes
        if shape != row.shape:
            row.shape, row.pixels = shape, 0
        row.pixels += times * math.prod(shape) // channels

    def _compute(self, batch: NDArray[Any]) -> NDArray[Any]:
        often = batch.shape == self._row.shape and self._row.pixels >= WORTH
        wanted = batch.shape if often else None
        with self._choosing:
            if wanted != self._running_for:
                self._running.release()
                self._running = self._for_any if wanted is None else self._for_one(wanted)
                self._running_for = wanted
            running = self._running
        return running(batch)


class _Row(threading.local):
    """The shape that comes in a row, and its pixels: of each thread, so that none gets another
    result because of what others do."""

    shape: Shape = ()
    pixels = 0


class _Compiled:
    """A compiled network with as many requests as there are threads that use it at once."""

    def __init__(self, model: Any, settings: dict[str, Any], output: int = 0) -> None:
        """output: which of the results is wanted."""
        self._output = output
        self._network = process_core().compile_model(model, "CPU", settings)
        self._idle: list[Any] = [self._network.create_infer_request()]
        self._using = 0
        self._unwanted = False
        self._lock = threading.Lock()

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        with self._lock:
            self._using += 1
            self._unwanted = False
            request = self._idle.pop() if self._idle else self._network.create_infer_request()
        try:
            # The request owns its output buffer and reuses it: copy.
            result: NDArray[Any] = request.infer([batch], share_inputs=True)[self._output].copy()
        finally:
            with self._lock:
                self._using -= 1
                self._idle.append(request)
                self._give_back()
        return result

    def release(self) -> None:
        """Give back the memory that it holds between runs, as soon as none is going on."""
        with self._lock:
            self._unwanted = True
            self._give_back()

    def _give_back(self) -> None:
        if self._unwanted and not self._using:
            self._network.release_memory()
            self._unwanted = False


def _compiled_for(model: Any, settings: dict[str, Any], output: int, shape: Shape) -> _Compiled:
    fixed = model.clone()
    fixed.reshape(list(shape))
    return _Compiled(fixed, settings, output)


def _read(path: Path) -> Any:
    try:
        core = process_core()
    except ImportError:
        raise EngineError(
            f"{path}: OpenVINO is not installed; pip install 'srtool[cpu]'", path=path
        ) from None
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise refused(path, "OpenVINO", in_a_line(error, None)[-120:]) from None
