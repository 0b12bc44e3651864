"""An engine of srtool in its own process. Nothing is imported here that infer would not import: it
would count as the engine's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from srtool.benchmarks.speed.opened import Opened
from srtool.runtime.engine import open_engine

# What runs an engine, as the names of backends begin, and the packages that it comes in.
_PACKAGES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx"),
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
    "torch": ("torch",),
}


def open_engine_side(path: Path, backend: str) -> Opened:
    """An engine as `srtool infer` opens it. backend: as there, perhaps with a precision behind it,
    as `installed_backends` names them: "openvino bf16"."""
    name, _, precision = backend.partition(" ")
    chosen: Any = name, precision or "auto"
    engine = open_engine(path, *chosen)
    library = next((name for name in _PACKAGES if engine.backend.startswith(name)), "")
    software = f"{library} {_version(_PACKAGES[library])}" if library else engine.backend
    found = engine.backend.rpartition(" ")[2]
    made_in = found if found in ("fp32", "bf16", "fp16") else engine.facts.precision
    return Opened(engine.upscale, software, made_in, engine)


def _version(packages: Sequence[str]) -> str:
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return ""
