"""A GPU for tests: memory with a capacity, streams that work later, and two libraries to reach it.

What is queued on a stream runs when somebody waits for it, not before, and what is queued on
several streams runs in an order drawn at random. So a copy that is read too early, or a buffer
that is filled again too soon, gives wrong pixels. Addresses are real ones of host memory.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import threading
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE, NOT_READY = 2, 201, 400, 600
POISON = 0xA5
PRIMARY = 0xC0DE


class GpuError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"CUDA error {code}")
        self.code = code


@dataclass
class Event:
    """recorded: how often; passed: how many of these records a stream has come to."""

    recorded: int = 0
    passed: int = 0
    time: float = 0.0


@dataclass
class Stream:
    handle: int
    work: deque[Callable[[], bool]] = field(default_factory=deque)
    capturing: list[Callable[[], bool]] | None = None


class FakeGpu:
    """See above. capacity: bytes. kernel_seconds: what each kernel takes on the GPU's own clock.

    log: names of what ran, in order. launched: graphs. pending_error: what waiting ends with.
    count: of such GPUs; opened: the number of the one that was taken; broken: what the
    driver's start ends with. spare: bytes that a network may take for itself while it runs.
    stingy: give no memory to
    anybody. captures: whether streams can be captured.
    """

    def __init__(self, capacity: int = 1 << 30, seed: int = 0) -> None:
        self.capacity, self.random = capacity, random.Random(seed)
        self.name, self.capability, self.driver = "Fake GPU", (8, 9), 13000
        self.count, self.opened, self.broken = 1, -1, 0
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.host: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Callable[[], bool]]] = {}
        self.stacks: dict[int, list[int]] = {}
        self.handles = itertools.count(0x1000)
        self.clock, self.kernel_seconds = 0.0, 0.001
        self.log: list[str] = []
        self.launched = 0
        self.pending_error = 0
        self.spare, self.stingy, self.captures = 1 << 60, False, True

    # Contexts

    @property
    def contexts(self) -> list[int]:
        """The stack of the thread that asks."""
        return self.stacks.setdefault(threading.get_ident(), [])

    def check(self) -> None:
        if not self.contexts:
            raise GpuError(INVALID_CONTEXT)
        assert self.contexts[-1] == PRIMARY, "a call in another context than the primary one"

    # Memory

    @property
    def used(self) -> int:
        return sum(block.size for block in self.memory.values())

    def allocate(self, size: int) -> int:
        self.check()
        if self.stingy or self.used + size > self.capacity:
            raise GpuError(OUT_OF_MEMORY)
        block = np.full(size, POISON, np.uint8)
        address: int = block.ctypes.data
        self.memory[address] = block
        return address

    def release(self, address: int) -> None:
        self.check()
        self.memory.pop(address)[:] = POISON

    def pin(self, size: int) -> int:
        self.check()
        block = np.full(size, POISON, np.uint8)
        self.host[block.ctypes.data] = block
        return block.ctypes.data

    def unpin(self, address: int) -> None:
        self.host.pop(address)

    def bytes_at(self, address: int, size: int) -> NDArray[np.uint8]:
        """Device memory, which must have been allocated and hold that much."""
        block = self.memory[address]
        assert size <= block.size, f"{size} bytes of a block of {block.size}"
        return block[:size]

    # Streams

    def stream(self) -> int:
        self.check()
        handle = next(self.handles)
        self.streams[handle] = Stream(handle)
        return handle

    def destroy_stream(self, handle: int) -> None:
        assert not self.streams.pop(handle).work, "a stream with work on it"

    def queue(self, handle: int, name: str, work: Callable[[], object]) -> None:
        """Have work done on a stream, later."""
        self.check()

        def step() -> bool:
            self.log.append(name)
            work()
            return True

        self._append(handle, step)

    def _append(self, handle: int, step: Callable[[], bool]) -> None:
        stream = self.streams[handle]
        (stream.work if stream.capturing is None else stream.capturing).append(step)

    def kernel(self, handle: int, name: str, work: Callable[[], object]) -> None:
        def run() -> None:
            self.clock += self.kernel_seconds
            work()

        self.queue(handle, name, run)

    def upload(self, address: int, source: NDArray[np.uint8], handle: int) -> None:
        assert self.is_pinned(source), "an upload from memory that is not pinned"
        self.queue(
            handle, "upload", lambda: self._copy(self.bytes_at(address, source.size), source)
        )

    def download(self, target: NDArray[np.uint8], address: int, handle: int) -> None:
        assert self.is_pinned(target), "a download to memory that is not pinned"
        self.queue(
            handle, "download", lambda: self._copy(target, self.bytes_at(address, target.size))
        )

    def _copy(self, target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        self.clock += 1e-4
        target[:] = source

    def is_pinned(self, array: NDArray[np.uint8]) -> bool:
        start = array.ctypes.data
        return any(
            first <= start and start + array.size <= first + block.size
            for first, block in self.host.items()
        )

    # Events

    def event(self) -> int:
        self.check()
        handle = next(self.handles)
        self.events[handle] = Event()
        return handle

    def record(self, handle: int, stream: int) -> None:
        self.check()
        assert self.streams[stream].capturing is None, "an event inside a graph"
        event = self.events[handle]
        event.recorded += 1
        number = event.recorded

        def step() -> bool:
            event.passed, event.time = number, self.clock
            return True

        self._append(stream, step)

    def is_over(self, handle: int) -> bool:
        """Whether an event is reached; asking gives the streams some time."""
        self.check()
        for _ in range(self.random.randrange(4)):
            self._step()
        event = self.events[handle]
        return event.passed == event.recorded

    def synchronize(self, handle: int) -> None:
        self.check()
        event = self.events[handle]
        while event.passed < event.recorded:
            assert self._step(), "waiting for something that never happens"
        if self.pending_error:
            raise GpuError(self.pending_error)

    def seconds(self, start: int, end: int) -> float:
        self.check()
        first, last = self.events[start], self.events[end]
        if first.passed < first.recorded or last.passed < last.recorded:
            raise GpuError(NOT_READY)
        return last.time - first.time

    def _step(self) -> bool:
        """One piece of work of a stream drawn at random; False where none can go on."""
        ready = [stream for stream in self.streams.values() if stream.work]
        self.random.shuffle(ready)
        for stream in ready:
            if stream.work[0]():
                stream.work.popleft()
                return True
        return False

    # Graphs

    def begin(self, stream: int) -> None:
        self.check()
        self.streams[stream].capturing = []

    def end(self, stream: int) -> int:
        self.check()
        captured, self.streams[stream].capturing = self.streams[stream].capturing, None
        assert captured is not None
        if not self.captures:
            raise GpuError(900)
        handle = next(self.handles)
        self.graphs[handle] = captured
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self.check()
        self.launched += 1
        for step in self.graphs[graph]:
            self._append(stream, step)


def cuda_python(gpu: FakeGpu) -> types.ModuleType:
    """The module cuda.bindings.driver, as far as srtool uses it."""
    module = types.ModuleType("cuda.bindings.driver")

    class Status(int):
        @property
        def name(self) -> str:
            return {OUT_OF_MEMORY: "CUDA_ERROR_OUT_OF_MEMORY"}.get(self, f"CUDA_ERROR_{int(self)}")

    def offer(name: str, function: Callable[..., Any]) -> None:
        def call(*arguments: Any) -> tuple[Any, ...]:
            try:
                found = function(*arguments)
            except GpuError as error:
                return (Status(error.code), *[None] * results)
            return (Status(0), *(found if isinstance(found, tuple) else [found] * results))

        results = 0 if name in _WITHOUT_RESULT else 1
        setattr(module, name, call)

    def array(address: int, size: int) -> NDArray[np.uint8]:
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def pop() -> int:
        return gpu.contexts.pop()

    offer("cuInit", lambda flags: None)
    offer("cuDeviceGet", lambda number: setattr(gpu, "opened", number) or number)
    offer("cuDevicePrimaryCtxRetain", lambda device: PRIMARY)
    offer("cuCtxGetCurrent", lambda: gpu.contexts[-1] if gpu.contexts else 0)
    offer("cuCtxPushCurrent", lambda context: gpu.contexts.append(context))
    offer("cuCtxPopCurrent", pop)
    offer("cuMemGetInfo", lambda: (gpu.capacity - gpu.used, gpu.capacity))
    offer("cuMemAlloc", gpu.allocate)
    offer("cuMemFree", gpu.release)
    offer("cuMemHostAlloc", lambda size, flags: gpu.pin(size))
    offer("cuMemFreeHost", gpu.unpin)
    offer("cuMemcpyHtoDAsync", lambda to, of, size, stream: gpu.upload(to, array(of, size), stream))
    offer(
        "cuMemcpyDtoHAsync", lambda to, of, size, stream: gpu.download(array(to, size), of, stream)
    )
    offer("cuStreamCreate", lambda flags: gpu.stream())
    offer("cuStreamDestroy", gpu.destroy_stream)
    offer("cuEventCreate", lambda flags: gpu.event())
    offer("cuEventDestroy", lambda event: gpu.events.pop(event))
    offer("cuEventRecord", gpu.record)
    offer("cuEventSynchronize", gpu.synchronize)
    offer("cuEventElapsedTime", lambda start, end: 1000 * gpu.seconds(start, end))
    offer("cuStreamBeginCapture", lambda stream, mode: gpu.begin(stream))
    offer("cuStreamEndCapture", gpu.end)
    offer("cuGraphInstantiate", lambda graph, flags: graph)
    offer("cuGraphDestroy", lambda graph: None)
    offer("cuGraphExecDestroy", lambda graph: gpu.graphs.pop(graph))
    offer("cuGraphLaunch", gpu.launch)

    def query(event: int) -> None:
        if not gpu.is_over(event):
            raise GpuError(NOT_READY)

    offer("cuEventQuery", query)
    mode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
    module.CUstreamCaptureMode = mode  # type: ignore[attr-defined]
    return module


_WITHOUT_RESULT = {
    "cuInit", "cuCtxPushCurrent", "cuMemFree", "cuMemFreeHost", "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync", "cuStreamDestroy", "cuEventDestroy", "cuEventRecord", "cuEventQuery",
    "cuEventSynchronize", "cuStreamBeginCapture", "cuGraphDestroy", "cuGraphExecDestroy",
    "cuGraphLaunch",
}  # fmt: skip


def pycuda(gpu: FakeGpu) -> types.ModuleType:
    """The module pycuda.driver, as far as srtool uses it."""
    module: Any = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class MemoryError_(Error):
        pass

    def translated(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except GpuError as error:
                kind = MemoryError_ if error.code == OUT_OF_MEMORY else Error
                raise kind(f"call failed: {error}\n") from None

        return call

    class Context:
        handle = PRIMARY

        def push(self) -> None:
            gpu.contexts.append(self.handle)

        @staticmethod
        def pop() -> None:
            gpu.contexts.pop()

        @staticmethod
        def get_current() -> Any:
            if not gpu.contexts:
                return None
            found = Context()
            found.handle = gpu.contexts[-1]
            return found

    class Device:
        def __init__(self, number: int) -> None:
            gpu.opened = number

        def retain_primary_context(self) -> Context:
            return Context()

    class StreamOf:
        def __init__(self, flags: int) -> None:
            self.handle = translated(gpu.stream)()

    class EventOf:
        def __init__(self, flags: int) -> None:
            self.handle = translated(gpu.event)()
            self.query = translated(lambda: gpu.is_over(self.handle))
            self.synchronize = translated(lambda: gpu.synchronize(self.handle))

        def record(self, stream: StreamOf) -> None:
            translated(gpu.record)(self.handle, stream.handle)

        def time_since(self, start: EventOf) -> float:
            return 1000 * float(translated(gpu.seconds)(start.handle, self.handle))

    class Allocation:
        def __init__(self, size: int) -> None:
            self.address = translated(gpu.allocate)(size)

        def __int__(self) -> int:
            return int(self.address)

        def free(self) -> None:
            gpu.release(self.address)

    class HostAllocation:
        def __init__(self, size: int) -> None:
            self.address = translated(gpu.pin)(size)
            self.__array_interface__ = gpu.host[self.address].__array_interface__

        def free(self) -> None:
            gpu.unpin(self.address)

    def pagelocked_empty(size: int, dtype: Any) -> NDArray[Any]:
        array = np.asarray(HostAllocation(size))
        assert isinstance(array.base, HostAllocation)
        return array

    module.Error, module.MemoryError = Error, MemoryError_
    module.Context, module.Device, module.Stream, module.Event = Context, Device, StreamOf, EventOf
    module.init = lambda: None
    module.mem_get_info = lambda: (gpu.capacity - gpu.used, gpu.capacity)
    module.mem_alloc = Allocation
    module.pagelocked_empty = pagelocked_empty
    module.memcpy_htod_async = lambda to, of, stream: gpu.upload(to, of, stream.handle)
    module.memcpy_dtoh_async = lambda to, of, stream: gpu.download(to, of, stream.handle)
    return module


class DriverLibrary:
    """libcuda through ctypes: which GPUs there are, and the graphs that PyCUDA lacks."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def cuInit(self, flags: int) -> int:
        return self.gpu.broken

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpu.count
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.gpu.driver
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = 40 + number
        return 0 if number < self.gpu.count else 101

    def cuDeviceGetName(self, name: Any, length: int, device: ctypes.c_int) -> int:
        name.value = self.gpu.name.encode()[: length - 1]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: ctypes.c_int) -> int:
        memory._obj.value = self.gpu.capacity
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = self.gpu.capability[attribute - 75]
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: ctypes.c_int) -> int:
        uuid._obj[:] = bytes([0xAB] * 15 + [device.value - 40])
        return 0

    def cuGetErrorName(self, status: int, text: Any) -> int:
        text._obj.value = {803: b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}.get(status)
        return 0 if text._obj.value else 1

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: int) -> int:
        return self._status(lambda: self.gpu.begin(_int(stream)))

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        return self._status(lambda: setattr(graph._obj, "value", self.gpu.end(_int(stream))))

    def cuGraphInstantiateWithFlags(
        self, executable: Any, graph: ctypes.c_void_p, flags: Any
    ) -> int:
        executable._obj.value = _int(graph)
        return 0

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        return 0

    def cuGraphExecDestroy(self, graph: ctypes.c_void_p) -> int:
        return self._status(lambda: self.gpu.graphs.pop(_int(graph)))

    def cuGraphLaunch(self, graph: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        return self._status(lambda: self.gpu.launch(_int(graph), _int(stream)))

    def _status(self, call: Callable[[], object]) -> int:
        try:
            call()
        except GpuError as error:
            return error.code
        return 0


def _int(handle: ctypes.c_void_p) -> int:
    assert handle.value is not None
    return handle.value
