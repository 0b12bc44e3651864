"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, ClassVar

from numpy.typing import NDArray

from srtool.errors import EngineError, in_a_line
from srtool.interrupts import interrupts_held
from srtool.manifest import METADATA_KEY, ModelFacts
from srtool.runtime.engine_files import refused
from srtool.runtime.session import DirectSession, OnnxFile
from srtool.system import cores

_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}


@dataclass(frozen=True)
class OnnxRuntime:
    """The default build's CPU provider, in float32."""

    library: ClassVar = "onnxruntime"
    precision: ClassVar = "fp32"
    on_gpu: ClassVar = False

    def __str__(self) -> str:
        return "onnxruntime fp32"

    def is_available(self) -> bool:
        return importlib.util.find_spec("onnxruntime") is not None

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> DirectSession:
        session = _opened(path, threads)
        given, outputs = _names(session)
        wanted = [facts.output_name if facts.output_name in outputs else outputs[0]]
        # Callers beyond those that there are CPUs for wait: in each other's way they are slower
        # than one after the other, while what they do around the network overlaps.
        turn = BoundedSemaphore(max(1, cores() // (threads or cores())))

        def compute(batch: NDArray[Any]) -> NDArray[Any]:
            with turn:
                return _run(session, given, wanted, batch)[0]

        return DirectSession(facts, compute)

    def inspect(self, path: Path) -> OnnxFile:
        """EngineError as `open`."""
        session = _opened(path)
        name, outputs = _names(session)
        given = session.get_inputs()[0]
        return OnnxFile(
            session.get_modelmeta().custom_metadata_map.get(METADATA_KEY),
            name,
            tuple(side if isinstance(side, int) else None for side in given.shape),
            _DTYPES.get(given.type, given.type),
            outputs,
            partial(_run, session, name, outputs),
        )


def _names(session: Any) -> tuple[str, tuple[str, ...]]:
    """Of the first input and the outputs."""
    return session.get_inputs()[0].name, tuple(output.name for output in session.get_outputs())


def _run(
    session: Any, given: str, wanted: Sequence[str], batch: NDArray[Any]
) -> list[NDArray[Any]]:
    """In as many threads as call: ONNX Runtime's sessions take that."""
    try:
        found: list[NDArray[Any]] = session.run(wanted, {given: batch})
    except Exception as error:  # its exception classes have no common root of their own
        raise RuntimeError(_reason(error)) from None
    return found


def _opened(path: Path, threads: int | None = None) -> Any:
    try:
        with interrupts_held():  # a Ctrl-C in the middle comes out as if it were not installed
            import onnxruntime
    except ImportError:
        raise EngineError(
            f"{path}: ONNX Runtime is not installed; pip install 'srtool[cpu]'", path=path
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions, and need not be printed as well
    # Threads that wait for the next image spin for milliseconds, on CPUs that other callers' pixels
    # are prepared on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is None and cores() < (os.cpu_count() or 1):
        threads = cores()  # by itself it takes all CPUs of the machine, whoever they are for
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # see `_run`
        raise refused(path, "ONNX Runtime", _reason(error)) from None


def _reason(error: Exception) -> str:
    text = in_a_line(error, None)
    return text.rpartition(" : ")[2][:120]
