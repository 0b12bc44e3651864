"""What CUDA is to us: the functions that `pycuda` and `cudapython` provide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.runtime.gpu.devices import Gpu

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


def check_context(current: int, primary: int) -> None:
    if current not in (0, primary):
        raise EngineError(
            "this process already works in a CUDA context of its own making (pycuda.autoinit does "
            "that); srtool shares the primary one with torch and TensorRT: use "
            "pycuda.autoprimaryctx instead"
        )
