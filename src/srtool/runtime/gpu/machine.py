"""This machine as TensorRT sees it: its GPU, driver and installed libraries, known without loading
any of them; and their Python modules, where they are asked for."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from srtool.errors import EngineError, in_a_line
from srtool.manifest import Flavour
from srtool.runtime.gpu.devices import check_device, visible_gpus, without_gpu
from srtool.system import version_of

NAMES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
INSTALL: dict[Flavour, str] = {
    "tensorrt": "pip install 'srtool[gpu]'",
    "tensorrt-rtx": "pip install 'srtool[rtx]'",
}
# Modules by which each library may be installed, and the packages that hold their version. The
# libraries' own module is imported before the bindings, which look for it.
_MODULES: dict[Flavour, tuple[tuple[str, ...], ...]] = {
    "tensorrt": (("tensorrt",),),
    "tensorrt-rtx": (("tensorrt_rtx_libs", "tensorrt_rtx_bindings"), ("tensorrt_rtx",)),
}
_PACKAGES: dict[Flavour, tuple[tuple[str, int], ...]] = {  # with the CUDA that they are built for
    "tensorrt": (
        ("tensorrt-cu13-bindings", 13),
        ("tensorrt-cu12-bindings", 12),
        ("tensorrt-cu11-bindings", 11),
        ("tensorrt-bindings", 12),
        ("tensorrt", 0),
    ),
    "tensorrt-rtx": (
        ("tensorrt-rtx-cu13-bindings", 13),
        ("tensorrt-rtx-cu12-bindings", 12),
        ("tensorrt-rtx", 0),
    ),
}
# The oldest driver branch that runs programs of a CUDA major version (its release notes).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


@dataclass(frozen=True)
class Library:
    """An installed TensorRT. version: full, as in a plan's manifest. cuda: major version that it
    is built for, 0 where its package does not say."""

    flavour: Flavour
    version: str
    cuda: int = 0


@dataclass(frozen=True)
class Machine:
    """What decides whether a plan runs. gpu: the name of the GPU, compute: its capability,
    such as "8.9", driver: its version; all empty without one. memory: its, bytes. libraries:
    installed ones, by flavour. cuda: the newest version that the driver serves. no_gpu: why there
    is no GPU, in words. number: of the GPU among those that CUDA sees."""

    gpu: str = ""
    compute: str = ""
    driver: str = ""
    memory: int = 0
    platform: str = f"{sys.platform} {platform.machine().lower()}"
    libraries: dict[Flavour, Library] = field(default_factory=dict)
    cuda: tuple[int, int] = (0, 0)
    no_gpu: str = "this machine has no NVIDIA GPU, or no driver for it"
    number: int = 0


def this_machine(device: int | None = None) -> Machine:
    """Ask the driver and the installed packages; loads no library. device: number of the GPU among
    those that CUDA_VISIBLE_DEVICES leaves, None for the first, if any. EngineError where there is
    none of that number."""
    check_device(device)
    found = {flavour: library_of(flavour) for flavour in get_args(Flavour)}
    libraries = {flavour: library for flavour, library in found.items() if library}
    try:
        gpus = visible_gpus()
    except EngineError as error:
        return Machine(libraries=libraries, no_gpu=str(error))
    if not gpus:
        return Machine(libraries=libraries, no_gpu=without_gpu())
    gpu = gpus[device or 0]
    return Machine(
        gpu.name,
        gpu.compute,
        gpu.driver,
        gpu.memory,
        libraries=libraries,
        cuda=gpu.cuda,
        number=gpu.number,
    )


def library_of(flavour: Flavour) -> Library | None:
    """The installed library of a flavour; it is not imported where its package says enough."""
    if not any(all(map(_importable, names)) for names in _MODULES[flavour]):
        return None
    for package, cuda in _PACKAGES[flavour]:
        if version := version_of(package):
            return Library(flavour, version, cuda)
    return Library(flavour, str(load_library(flavour).__version__))


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it is loaded and has no specification
        return name in sys.modules


def load_library(flavour: Flavour) -> Any:
    """Import the Python module of a flavour. EngineError where it is missing or does not load."""
    for names in _MODULES[flavour]:
        if all(map(_importable, names)):
            return _loaded(flavour, names)
    raise EngineError(f"{NAMES[flavour]} is not installed; {INSTALL[flavour]}")


def _loaded(flavour: Flavour, names: tuple[str, ...]) -> Any:
    if version_of("tensorrt").startswith("8."):
        _preload()
    try:
        return [importlib.import_module(name) for name in names][-1]
    except (ImportError, OSError, RuntimeError) as error:
        reason = in_a_line(error)
        raise EngineError(
            f"{NAMES[flavour]} is installed and does not load ({reason}); {INSTALL[flavour]} in a "
            "new environment"
        ) from None


def _preload() -> None:
    """CUDA and cuDNN out of their pip packages, where TensorRT 8.6 does not look for them."""
    for package, pattern in (
        ("nvidia.cuda_runtime", "libcudart.so.*"),
        ("nvidia.cublas", "libcublasLt.so.*"),
        ("nvidia.cublas", "libcublas.so.*"),
        ("nvidia.cudnn", "libcudnn.so.8"),
    ):
        with suppress(ImportError, OSError):
            found = importlib.util.find_spec(package)
            for place in found.submodule_search_locations or () if found else ():
                for library in Path(place).glob(f"lib/{pattern}"):
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@cache
def log_of(module: Any) -> Any:
    """The logger of a TensorRT, one for the process as it wants it. It keeps the errors, for
    TensorRT's functions say that they failed and not why; who reads `lines` clears them."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                self.lines.append(text)

    return Log()
