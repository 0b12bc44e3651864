"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.manifest import METADATA_KEY
from srtool.runtime.backends import Session


def _open(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(
            f"{path}: ONNX Runtime is not installed; pip install 'srtool[cpu]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: they come as exceptions
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes have no common root of their own
        raise EngineError(
            f"{path}: is no ONNX model that ONNX Runtime opens ({_reason(error)}); "
            "expected a file written by `srtool export`"
        ) from None


def open_session(path: Path) -> Session:
    """Load an .onnx file. EngineError where it is none, or ONNX Runtime is missing."""
    session = _open(path)
    name = session.get_inputs()[0].name

    def run(batch: NDArray[Any], /) -> NDArray[Any]:
        try:
            result: NDArray[Any] = session.run(None, {name: batch})[0]
        except Exception as error:  # see _open
            raise RuntimeError(_reason(error)) from None
        return result

    return run


def read_metadata(path: Path) -> tuple[str | None, list[Any], str]:
    """srtool's entry of metadata_props, and shape and type of the first input, for files
    without a manifest. Shapes hold numbers and names."""
    session = _open(path)
    image = session.get_inputs()[0]
    return session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), image.shape, image.type


def read_input_name(path: Path) -> str:
    """The name of the first input."""
    name: str = _open(path).get_inputs()[0].name
    return name


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.rpartition(" : ")[2][:120]
