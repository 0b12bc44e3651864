"""A slot of the scheduler: one stream on which a batch goes up, through the network, and down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from srtool.manifest import ModelFacts, Profile, Shape
from srtool.runtime.gpu.cuda import Buffer, Cuda, CudaError, OutOfMemory
from srtool.runtime.gpu.layout import buffer_bytes


class Execution(Protocol):
    """A network on one stream."""

    def enqueue(self, shape: Shape, source: Buffer, target: Buffer) -> None:
        """Queue the network on the stream, from one device buffer to another. OutOfMemory, or
        RuntimeError where it fails."""

    def can_be_captured(self) -> bool:
        """Whether `enqueue` in the main shape can become a CUDA graph; asked after a first one."""

    def close(self) -> None: ...


class Network(Protocol):
    """A network on the GPU: what it computes, the shapes that it takes, and how it is run."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def profiles(self) -> Sequence[Profile]: ...

    @property
    def most_slots(self) -> int:
        """How many executions there may be at a time."""

    def scratch(self, shape: Shape) -> int:
        """Bytes of device memory that an execution needs for a shape, buffers not counted."""

    def execution(self, shape: Shape, stream: Any) -> Execution:
        """One for a stream. `shape` is the main one: it comes most often, and always with the same
        buffers. OutOfMemory or RuntimeError."""

    def close(self) -> None: ...


class Slot:
    """An execution with its stream and the buffers for a batch, on the GPU and pinned on the host.

    Between `start` and `wait` the buffers are the GPU's. All within `cuda.current()`.
    started, computed: events around the computation.
    """

    def __init__(self, cuda: Cuda, network: Network, shape: Shape) -> None:
        """shape: the main one, and the most pixels that it takes. OutOfMemory, with nothing left
        behind."""
        self._cuda, self._facts, self._main = cuda, network.facts, shape
        self._ratio = network.facts.scale**2  # of values in the result to values in the batch
        self._graph: Any = None
        self._ran = self._refused = False
        self._shape = shape
        size = self._bytes(shape)
        with ExitStack() as stack:

            def owned(thing: Any, give_back: Callable[[Any], None]) -> Any:
                stack.callback(give_back, thing)
                return thing

            self._stream = owned(cuda.stream(), lambda stream: cuda.destroy(stream=stream))
            self.started, self.computed, self._landed = (
                owned(cuda.event(), lambda event: cuda.destroy(event=event)) for _ in range(3)
            )
            self._source = owned(cuda.allocate(size), cuda.release)
            self._target = owned(cuda.allocate(size * self._ratio), cuda.release)
            self._given = owned(cuda.pinned(size), cuda.unpin)
            self._made = owned(cuda.pinned(size * self._ratio), cuda.unpin)
            self._execution = network.execution(shape, self._stream)
            stack.callback(self._execution.close)
            self._owned = stack.pop_all()

    def start(self, shape: Shape, tiles: Sequence[NDArray[Any]]) -> None:
        """Queue a batch of tiles, (H, W, 3) each and not larger than `shape`: what is missing to
        that is mirrored. With fewer tiles than the shape has, the rest is whatever it is.

        OutOfMemory or RuntimeError, with nothing left queued.
        """
        cuda, stream = self._cuda, self._stream
        batch = self._view(self._given, shape, 1)
        for place, tile in enumerate(tiles):
            rows, columns = (full - side for full, side in zip(shape[1:], tile.shape, strict=False))
            if rows or columns:
                tile = np.pad(tile, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
            batch[place] = tile
        size = self._bytes((len(tiles), *shape[1:]))
        self._shape = shape
        try:
            cuda.upload(self._source, self._given[:size], stream)
            cuda.record(self.started, stream)
            self._compute(shape)
            cuda.record(self.computed, stream)
            cuda.download(self._made[: size * self._ratio], self._target, stream)
            cuda.record(self._landed, stream)
        except RuntimeError:
            with suppress(CudaError):
                cuda.record(self._landed, stream)
                cuda.synchronize(self._landed)
            raise

    def is_over(self) -> bool:
        """Whether `wait` would not wait, be it for an error."""
        try:
            return self._cuda.is_over(self._landed)
        except CudaError:
            return True

    def wait(self) -> None:
        """Wait for the batch. OutOfMemory or RuntimeError where the GPU failed on it."""
        self._cuda.synchronize(self._landed)

    def results(self) -> NDArray[Any]:
        """What `wait` waited for: (N, sH, sW, 3), a view of the slot's buffer."""
        return self._view(self._made, self._shape, self._facts.scale)

    def close(self) -> None:
        """Wait for the GPU and give everything back."""
        with suppress(CudaError):
            self._cuda.record(self._landed, self._stream)
            self._cuda.synchronize(self._landed)
        if self._graph is not None:
            self._cuda.destroy(graph=self._graph)
        self._owned.close()

    def _compute(self, shape: Shape) -> None:
        """Queue the network: in the main shape as a graph, from the third time on."""
        cuda, stream = self._cuda, self._stream

        def enqueue() -> None:
            self._execution.enqueue(shape, self._source, self._target)

        if shape != self._main:
            return enqueue()
        if self._ran and self._graph is None and not self._refused:
            # The first run in a shape does what cannot be captured: it loads and chooses kernels.
            try:
                if self._execution.can_be_captured():
                    self._graph = cuda.capture(stream, enqueue)
            except OutOfMemory:
                raise
            except RuntimeError:
                self._refused = True  # it only costs launches
        self._ran = True
        if self._graph is None:
            return enqueue()
        return cuda.launch(self._graph, stream)

    def _bytes(self, shape: Shape) -> int:
        return buffer_bytes(shape, self._facts) // (1 + self._ratio)

    def _view(self, buffer: NDArray[np.uint8], shape: Shape, scale: int) -> NDArray[Any]:
        """A batch in a buffer as (N, sH, sW, 3)."""
        tiles, height, width = shape[0], shape[1] * scale, shape[2] * scale
        size = self._bytes(shape) * scale**2
        if self._facts.io == "uint8":
            return buffer[:size].reshape(tiles, height, width, 3)
        planes = buffer[:size].view(np.float32).reshape(tiles, 3, height, width)
        return planes.transpose(0, 2, 3, 1)
