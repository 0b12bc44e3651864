"""CUDA in a few functions: memory, copies, streams, events and graphs.

Through PyCUDA, and where that is not installed through cuda-python. Both work in the device's
primary context, which torch, TensorRT and ONNX Runtime use as well: in a second context their
memory would not exist. A context is current only inside `with cuda.current():`, so nothing is
left behind for others, and every other function here must be called inside such a block.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.runtime.gpu.devices import Gpu, driver_library, gpu_number

BLOCKING = 1  # CU_EVENT_BLOCKING_SYNC: waiting sleeps and leaves the core to the encoders
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream of others


class CudaError(RuntimeError):
    """A CUDA call failed."""


class OutOfMemory(CudaError):
    """The GPU has not enough free memory. Smaller work may still succeed."""


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


def find_gpu(number: int = 0) -> Gpu | None:
    """A GPU of this machine, None where there is none or nothing to reach it with."""
    try:
        return open_cuda(number).gpu
    except EngineError:
        return None


def open_cuda(number: int = 0) -> Cuda:
    """A GPU by its number among those that are visible (CUDA_VISIBLE_DEVICES).

    EngineError where there is no driver, no such GPU, neither library, or where another context
    than the primary one is in use in this thread.
    """
    library = driver_library()
    if library is None:
        raise EngineError(
            "no NVIDIA driver is installed here (libcuda is missing); a GPU engine needs one"
        )
    gpu = gpu_number(number)
    if _is_installed("pycuda"):
        from srtool.runtime.gpu.cuda.pycuda import PyCuda

        with suppress(ImportError):  # built for another Python, numpy or CUDA
            return PyCuda(gpu, library)
    if _is_installed("cuda.bindings") or _is_installed("cuda.cuda"):
        from srtool.runtime.gpu.cuda.cudapython import CudaPython

        return CudaPython(gpu)
    raise EngineError(
        "neither PyCUDA nor cuda-python is installed; pip install cuda-python, "
        "or pip install pycuda where the CUDA toolkit is"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def check_context(current: int, primary: int) -> None:
    if current not in (0, primary):
        raise EngineError(
            "this process already works in a CUDA context of its own making (pycuda.autoinit does "
            "that); srtool shares the primary one with torch and TensorRT: use "
            "pycuda.autoprimaryctx instead"
        )
