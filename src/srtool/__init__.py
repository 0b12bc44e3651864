"""srtool: perceptual x4 super-resolution from PyTorch to a certified, fast engine.

    import srtool

    srtool.upscale("photo.jpg", out="photo_x4.png")

Importing this loads nothing: each name is fetched from where it lives when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from srtool.version import __version__

if TYPE_CHECKING:
    from srtool.benchmarks.evaluate import evaluate
    from srtool.benchmarks.verify import verify
    from srtool.errors import (
        AssetError,
        ChangedFileError,
        CheckpointError,
        DataError,
        EngineError,
        ExportError,
        ImageError,
        SrtoolError,
        UsageError,
    )
    from srtool.export import export
    from srtool.export.tensorrt.doctor import doctor
    from srtool.images.picture import Size
    from srtool.networks.loading import load_network
    from srtool.runtime.engine import Engine
    from srtool.runtime.events import Event
    from srtool.runtime.foreign import Foreign
    from srtool.runtime.opening import open_engine
    from srtool.runtime.upscale import upscale, upscale_folder
    from srtool.runtime.upscaling import Options

__all__ = [
    "AssetError",
    "ChangedFileError",
    "CheckpointError",
    "DataError",
    "Engine",
    "EngineError",
    "Event",
    "ExportError",
    "Foreign",
    "ImageError",
    "Options",
    "Size",
    "SrtoolError",
    "UsageError",
    "__version__",
    "doctor",
    "evaluate",
    "export",
    "load_network",
    "open_engine",
    "upscale",
    "upscale_folder",
    "verify",
]

_HOMES = {
    "Engine": "srtool.runtime.engine",
    "Event": "srtool.runtime.events",
    "Foreign": "srtool.runtime.foreign",
    "Size": "srtool.images.picture",
    "Options": "srtool.runtime.upscaling",
    "doctor": "srtool.export.tensorrt.doctor",
    "evaluate": "srtool.benchmarks.evaluate",
    "load_network": "srtool.networks.loading",
    "open_engine": "srtool.runtime.opening",
    "upscale": "srtool.runtime.upscale",
    "upscale_folder": "srtool.runtime.upscale",
    "verify": "srtool.benchmarks.verify",
}


def __getattr__(name: str) -> Any:
    if name == "export":  # a folder of that name is here as well: the module itself can be called
        return import_module("srtool.export")
    if name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif name in __all__:
        found = getattr(import_module("srtool.errors"), name)
    else:
        raise AttributeError(f"module 'srtool' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
