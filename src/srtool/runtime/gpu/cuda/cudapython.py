"""CUDA through cuda-python: the driver's API as it is."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, in_a_line
from srtool.runtime.gpu.cuda.interface import (
    BLOCKING,
    NON_BLOCKING,
    Buffer,
    CudaError,
    OutOfMemory,
    check_context,
)
from srtool.runtime.gpu.devices import Gpu

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaPython:
    """See `Cuda`."""

    library = "cuda-python"

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, driver = gpu, _driver()
        self._driver = driver
        try:
            self._call("cuInit", 0)
            device = self._call("cuDeviceGet", gpu.number)
        except RuntimeError as error:  # its own class where the driver's library is damaged
            raise EngineError(
                f"cuda-python does not reach the {gpu.name} ({in_a_line(error)})"
            ) from None
        self._context = self._call("cuDevicePrimaryCtxRetain", device)
        found = self._call("cuCtxGetCurrent")
        check_context(int(found), int(self._context))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Its functions return a status and the results."""
        status, *results = getattr(self._driver, function)(*arguments)
        if int(status):
            text = f"{function}: {getattr(status, 'name', status)}"
            raise OutOfMemory(text) if int(status) == _OUT_OF_MEMORY else CudaError(text)
        return results[0] if results else None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def free_memory(self) -> int:
        status, free, _ = self._driver.cuMemGetInfo()
        if int(status):
            raise CudaError(f"cuMemGetInfo: {status}")
        return int(free)

    def allocate(self, size: int) -> Buffer:
        owner = self._call("cuMemAlloc", size)
        return Buffer(int(owner), size, owner)

    def release(self, buffer: Buffer) -> None:
        self._call("cuMemFree", buffer.owner)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        address = int(self._call("cuMemHostAlloc", size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def stream(self) -> Any:
        return self._call("cuStreamCreate", NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream)

    def upload(self, target: Buffer, source: NDArray[np.uint8], stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", target.owner, source.ctypes.data, source.size, stream)

    def download(self, target: NDArray[np.uint8], source: Buffer, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source.owner, target.size, stream)

    def event(self) -> Any:
        return self._call("cuEventCreate", BLOCKING)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cuEventRecord", event, stream)

    def is_over(self, event: Any) -> bool:
        (status,) = self._driver.cuEventQuery(event)
        return int(status) == 0

    def synchronize(self, event: Any) -> None:
        self._call("cuEventSynchronize", event)

    def seconds(self, start: Any, end: Any) -> float:
        return float(self._call("cuEventElapsedTime", start, end)) / 1000

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self._driver.cuStreamEndCapture(stream)
            raise
        graph = self._call("cuStreamEndCapture", stream)
        executable = self._call("cuGraphInstantiate", graph, 0)
        self._call("cuGraphDestroy", graph)
        return executable

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy(self, stream: Any = None, event: Any = None, graph: Any = None) -> None:
        if graph is not None:
            self._call("cuGraphExecDestroy", graph)
        if event is not None:
            self._call("cuEventDestroy", event)
        if stream is not None:
            self._call("cuStreamDestroy", stream)


def _driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ImportError:
        return import_module("cuda.cuda")  # before cuda-python 12.6
