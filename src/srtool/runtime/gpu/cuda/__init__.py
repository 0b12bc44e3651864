"""CUDA in a few functions: memory, copies, streams, events and graphs.

Through PyCUDA, and where that is not installed through cuda-python. Both work in the device's
primary context, which torch, TensorRT and ONNX Runtime use as well: in a second context their
memory would not exist. A context is current only inside `with cuda.current():`, so nothing is
left behind for others, and every other function here must be called inside such a block.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError

BLOCKING = 1  # CU_EVENT_BLOCKING_SYNC: waiting sleeps and leaves the core to the encoders
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream of others


class CudaError(RuntimeError):
    """A CUDA call failed."""


class OutOfMemory(CudaError):
    """The GPU has not enough free memory. Smaller work may still succeed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver. memory: bytes. cuda: the newest CUDA version that the driver serves.
    driver: "580.65.06" for example, empty where it cannot be read."""

    name: str
    compute_capability: tuple[int, int]
    memory: int
    cuda: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class Buffer:
    """Device memory. owner: what the library keeps it alive by."""

    address: int
    size: int
    owner: Any


class Cuda(Protocol):
    """A device in its primary context. Streams, events and graphs are the library's own objects.

    CudaError, or OutOfMemory, where a call fails; errors of asynchronous work come with a later
    call, `synchronize` at the latest.
    """

    library: str
    gpu: Gpu

    def current(self) -> AbstractContextManager[None]:
        """A context manager inside which the context is current in this thread."""

    def free_memory(self) -> int:
        """Bytes of device memory that nobody has allocated."""

    def allocate(self, size: int) -> Buffer: ...

    def release(self, buffer: Buffer) -> None: ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that copies reach without the CPU; to be given to `unpin`."""

    def unpin(self, array: NDArray[np.uint8]) -> None: ...

    def stream(self) -> Any: ...

    def handle(self, stream: Any) -> int:
        """The stream as other libraries take it."""

    def upload(self, target: Buffer, source: NDArray[np.uint8], stream: Any) -> None:
        """Queue a copy of all of `source`, which is pinned, to the start of `target`."""

    def download(self, target: NDArray[np.uint8], source: Buffer, stream: Any) -> None:
        """Queue a copy that fills `target`, which is pinned, from the start of `source`."""

    def event(self) -> Any: ...

    def record(self, event: Any, stream: Any) -> None: ...

    def is_over(self, event: Any) -> bool: ...

    def synchronize(self, event: Any) -> None:
        """Wait until all that was queued before the event is done."""

    def seconds(self, start: Any, end: Any) -> float: ...

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` queues on the stream, as a graph, without running it."""

    def launch(self, graph: Any, stream: Any) -> None: ...

    def destroy(self, stream: Any = None, event: Any = None, graph: Any = None) -> None: ...


def find_gpu() -> Gpu | None:
    """The GPU of this machine, None where there is none or nothing to reach it with."""
    try:
        return open_cuda().gpu
    except EngineError:
        return None


def open_cuda() -> Cuda:
    """The first GPU that is visible (CUDA_VISIBLE_DEVICES).

    EngineError where there is no driver, no GPU, neither library, or where another context than
    the primary one is in use in this thread.
    """
    library = driver_library()
    if library is None:
        raise EngineError(
            "no NVIDIA driver is installed here (libcuda is missing); a GPU engine needs one"
        )
    if _is_installed("pycuda"):
        from srtool.runtime.gpu.cuda.pycuda import PyCuda

        with suppress(ImportError):  # built for another Python, numpy or CUDA
            return PyCuda(library)
    if _is_installed("cuda.bindings") or _is_installed("cuda.cuda"):
        from srtool.runtime.gpu.cuda.cudapython import CudaPython

        return CudaPython()
    raise EngineError(
        "neither PyCUDA nor cuda-python is installed; pip install cuda-python, "
        "or pip install pycuda where the CUDA toolkit is"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def driver_library() -> Any | None:
    """The driver's own library, None where no driver is installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


def driver_version() -> str:
    """The version of the installed NVIDIA driver, empty where it cannot be read."""
    report = Path("/proc/driver/nvidia/version")
    with suppress(OSError):
        for word in report.read_text(encoding="utf-8").split():
            if word.count(".") in (1, 2) and word.replace(".", "").isdigit():
                return word
    return ""


def no_gpu(error: Exception) -> str:
    text = " ".join(str(error).split())[:160]
    return f"the NVIDIA driver finds no GPU to work with ({text}); check nvidia-smi"


def check_context(current: int, primary: int) -> None:
    if current not in (0, primary):
        raise EngineError(
            "this process already works in a CUDA context of its own making (pycuda.autoinit does "
            "that); srtool shares the primary one with torch and TensorRT: use "
            "pycuda.autoprimaryctx instead"
        )


def cuda_version(number: int) -> tuple[int, int]:
    return number // 1000, number % 1000 // 10
