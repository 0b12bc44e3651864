"""An engine of srtool in its own process. Nothing is imported here that infer would not import: it
would count as the engine's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from srtool.benchmarks.speed.opened import Opened
from srtool.runtime.onnx_files import open_on
from srtool.runtime.opening import open_engine
from srtool.runtime.request import BackendName
from srtool.runtime.session import Backend

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


def open_engine_candidate(path: Path, backend: Backend | BackendName) -> Opened:
    """An engine as `srtool infer` opens it, where it chooses itself or is told the library; or on
    one backend."""
    engine = open_engine(path, backend) if isinstance(backend, str) else open_on(path, backend)
    library = engine.backend.library
    software = f"{library.removesuffix('-cuda')} {_version(_PACKAGES[library])}"
    precision = engine.backend.precision or engine.facts.precision
    return Opened(engine.upscale_batch, software, precision, engine)


def _version(packages: Sequence[str]) -> str:
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return ""
