"""CUDA through PyCUDA, whose objects free themselves. It has no graphs: those come from the
driver's library directly."""

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

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating


class PyCuda:
    """See `Cuda`."""

    library = "PyCUDA"

    def __init__(self, gpu: Gpu, library: Any) -> None:
        """library: the driver's own, of ctypes."""
        driver: Any = import_module("pycuda.driver")
        self.gpu, self._driver, self._graphs = gpu, driver, library
        try:
            driver.init()
            device = driver.Device(gpu.number)
        except driver.Error as error:
            raise EngineError(
                f"PyCUDA does not reach the {gpu.name} ({in_a_line(error)})"
            ) from None
        self._context = device.retain_primary_context()
        found = driver.Context.get_current()
        check_context(found.handle if found else 0, self._context.handle)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Its exceptions have a root of their own."""
        try:
            return function(*arguments)
        except self._driver.MemoryError as error:
            raise OutOfMemory(in_a_line(error, None)) from None
        except self._driver.Error as error:
            raise CudaError(in_a_line(error, None)) from None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call(self._context.push)
        try:
            yield
        finally:
            self._call(self._driver.Context.pop)

    def free_memory(self) -> int:
        return int(self._call(self._driver.mem_get_info)[0])

    def allocate(self, size: int) -> Buffer:
        owner = self._call(self._driver.mem_alloc, size)
        return Buffer(int(owner), size, owner)

    def release(self, buffer: Buffer) -> None:
        self._call(buffer.owner.free)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = self._call(self._driver.pagelocked_empty, size, np.uint8)
        return array

    def unpin(self, array: NDArray[np.uint8]) -> None:
        owner: Any = array.base
        self._call(owner.free)

    def stream(self) -> Any:
        return self._call(self._driver.Stream, NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def upload(self, target: Buffer, source: NDArray[np.uint8], stream: Any) -> None:
        self._call(self._driver.memcpy_htod_async, target.address, source, stream)

    def download(self, target: NDArray[np.uint8], source: Buffer, stream: Any) -> None:
        self._call(self._driver.memcpy_dtoh_async, target, source.address, stream)

    def event(self) -> Any:
        return self._call(self._driver.Event, BLOCKING)

    def record(self, event: Any, stream: Any) -> None:
        self._call(event.record, stream)

    def is_over(self, event: Any) -> bool:
        return bool(self._call(event.query))

    def synchronize(self, event: Any) -> None:
        self._call(event.synchronize)

    def seconds(self, start: Any, end: Any) -> float:
        return float(self._call(end.time_since, start)) / 1000

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        handle = ctypes.c_void_p(stream.handle)
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._driver_call("cuStreamBeginCapture_v2", handle, _THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            self._graphs.cuStreamEndCapture(handle, ctypes.byref(graph))
            raise
        self._driver_call("cuStreamEndCapture", handle, ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        self._driver_call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        self._driver_call("cuGraphDestroy", graph)
        return executable

    def launch(self, graph: Any, stream: Any) -> None:
        self._driver_call("cuGraphLaunch", graph, ctypes.c_void_p(stream.handle))

    def destroy(self, stream: Any = None, event: Any = None, graph: Any = None) -> None:
        if graph is not None:
            self._driver_call("cuGraphExecDestroy", graph)

    def _driver_call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._graphs, function)(*arguments)
        if status:
            raise CudaError(f"{function}: CUDA error {status}")
