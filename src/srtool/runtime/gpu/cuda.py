"""CUDA in a few functions: memory, copies, streams, events and graphs.

Through PyCUDA, and where that is not installed through cuda-python. Both work in the device's
primary context, which torch, TensorRT and ONNX Runtime use as well: in a second context their
memory would not exist. A context is current only inside `with cuda.current():`, so nothing is
left behind for others, and every other function of a device must be called inside such a block.
Streams, events and graphs are the library's own objects. CudaError, or OutOfMemory, where a call
fails; errors of asynchronous work come with a later call, `synchronize` at the latest.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, in_a_line
from srtool.runtime.gpu.devices import Gpu, driver_library, gpu_number

_BLOCKING = 1  # CU_EVENT_BLOCKING_SYNC: waiting sleeps and leaves the core to the encoders
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream of others
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on allocating


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


class CudaPython:
    """A device through cuda-python: the driver's API as it is."""

    library = "cuda-python"

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._driver: Any
        try:
            self._driver = import_module("cuda.bindings.driver")
        except ImportError:
            self._driver = import_module("cuda.cuda")  # before cuda-python 12.6
        try:
            self._call("cuInit", 0)
            device = self._call("cuDeviceGet", gpu.number)
        except RuntimeError as error:  # its own class where the driver's library is damaged
            raise EngineError(
                f"cuda-python does not reach the {gpu.name} ({in_a_line(error)})"
            ) from None
        self._context = self._call("cuDevicePrimaryCtxRetain", device)
        found = self._call("cuCtxGetCurrent")
        _check_context(int(found), int(self._context))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Its functions return a status and the results."""
        status, *results = getattr(self._driver, function)(*arguments)
        if int(status):
            text = f"{function}: {getattr(status, 'name', status)}"
            raise OutOfMemory(text) if int(status) == _OUT_OF_MEMORY else CudaError(text)
        return results[0] if results else None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside it the context is current in this thread."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def free_memory(self) -> int:
        """Bytes of device memory that nobody has allocated."""
        return int(self._call("cuMemGetInfo"))

    def allocate(self, size: int) -> Buffer:
        owner = self._call("cuMemAlloc", size)
        return Buffer(int(owner), size, owner)

    def release(self, buffer: Buffer) -> None:
        self._call("cuMemFree", buffer.owner)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that copies reach without the CPU; to be given to `unpin`."""
        address = int(self._call("cuMemHostAlloc", size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def unpin(self, array: NDArray[np.uint8]) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def stream(self) -> Any:
        return self._call("cuStreamCreate", _NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        """The stream as other libraries take it."""
        return int(stream)

    def upload(self, target: Buffer, source: NDArray[np.uint8], stream: Any) -> None:
        """Queue a copy of all of `source`, which is pinned, to the start of `target`."""
        self._call("cuMemcpyHtoDAsync", target.owner, source.ctypes.data, source.size, stream)

    def download(self, target: NDArray[np.uint8], source: Buffer, stream: Any) -> None:
        """Queue a copy that fills `target`, which is pinned, from the start of `source`."""
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source.owner, target.size, stream)

    def event(self) -> Any:
        return self._call("cuEventCreate", _BLOCKING)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cuEventRecord", event, stream)

    def is_over(self, event: Any) -> bool:
        (status,) = self._driver.cuEventQuery(event)
        return int(status) == 0

    def synchronize(self, event: Any) -> None:
        """Wait until all that was queued before the event is done."""
        self._call("cuEventSynchronize", event)

    def seconds(self, start: Any, end: Any) -> float:
        return float(self._call("cuEventElapsedTime", start, end)) / 1000

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` queues on the stream, as a graph, without running it."""
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


class PyCuda:
    """As `CudaPython`, through PyCUDA, whose objects free themselves. It has no graphs: those come
    from the driver's library directly."""

    library = "PyCUDA"

    def __init__(self, gpu: Gpu) -> None:
        driver: Any = import_module("pycuda.driver")
        self.gpu, self._driver = gpu, driver
        self._graphs: Any = driver_library()
        try:
            driver.init()
            device = driver.Device(gpu.number)
        except driver.Error as error:
            raise EngineError(
                f"PyCUDA does not reach the {gpu.name} ({in_a_line(error)})"
            ) from None
        self._context = device.retain_primary_context()
        found = driver.Context.get_current()
        _check_context(found.handle if found else 0, self._context.handle)

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
        return self._call(self._driver.Stream, _NON_BLOCKING)

    def handle(self, stream: Any) -> int:
        return int(stream.handle)

    def upload(self, target: Buffer, source: NDArray[np.uint8], stream: Any) -> None:
        self._call(self._driver.memcpy_htod_async, target.address, source, stream)

    def download(self, target: NDArray[np.uint8], source: Buffer, stream: Any) -> None:
        self._call(self._driver.memcpy_dtoh_async, target, source.address, stream)

    def event(self) -> Any:
        return self._call(self._driver.Event, _BLOCKING)

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


Cuda = PyCuda | CudaPython


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
    gpu = gpu_number(number)
    if _is_installed("pycuda"):
        with suppress(ImportError):  # built for another Python, numpy or CUDA
            return PyCuda(gpu)
    if _is_installed("cuda.bindings") or _is_installed("cuda.cuda"):
        return CudaPython(gpu)
    raise EngineError(
        "neither PyCUDA nor cuda-python is installed; pip install cuda-python, "
        "or pip install pycuda where the CUDA toolkit is"
    )


def on_gpu(number: int) -> AbstractContextManager[None]:
    """A block for libraries that work on the thread's current GPU, which is the first where nobody
    says another. EngineError as `open_cuda`."""
    return open_cuda(number).current() if number else nullcontext()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _check_context(current: int, primary: int) -> None:
    if current not in (0, primary):
        raise EngineError(
            "this process already works in a CUDA context of its own making (pycuda.autoinit does "
            "that); srtool shares the primary one with torch and TensorRT: use "
            "pycuda.autoprimaryctx instead"
        )
