"""A PyTorch module in the place of a plan: the scheduler's `Network`, so that slots, copies and
CUDA graphs can be tried on a GPU for which there is no TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srtool.manifest import ModelFacts, Profile, Shape
from srtool.runtime.gpu.cuda import Buffer, Cuda, OutOfMemory
from srtool.runtime.gpu.layout import SLOTS

Queue = Callable[[int, Callable[[], object]], None]  # of a stream's handle, and what to do on it


def on_stream(stream: int, work: Callable[[], object]) -> None:
    """Have PyTorch queue its kernels on a stream that is not its own."""
    external: Any = torch.cuda.ExternalStream
    with torch.cuda.stream(external(stream)):
        work()


class TorchNetwork:
    """A module on the GPU. Its intermediate values lie in PyTorch's memory, which keeps a pool for
    each stream: a graph of one slot is the only one that uses them, as long as nobody empties the
    cache."""

    def __init__(
        self,
        cuda: Cuda,
        module: nn.Module,
        facts: ModelFacts,
        profile: Profile,
        graphs: bool = True,
        queue: Queue = on_stream,
        device: str = "cuda",
    ) -> None:
        """module: takes and returns what `facts.io` says, on `device`. graphs: let the scheduler
        capture it. queue, device: another way to a GPU, for tests."""
        self.cuda, self.module, self.facts, self.profiles = cuda, module, facts, (profile,)
        self.graphs, self.queue, self.device = graphs, queue, device
        self.most_slots = SLOTS

    def scratch(self, shape: Shape) -> int:
        """Not known: PyTorch takes memory as it goes."""
        return 0

    def execution(self, shape: Shape, stream: Any) -> TorchExecution:
        return TorchExecution(self, self.cuda.handle(stream))

    def close(self) -> None:
        pass


class TorchExecution:
    """A module on one stream."""

    def __init__(self, network: TorchNetwork, stream: int) -> None:
        self._network, self._stream = network, stream

    def enqueue(self, shape: Shape, source: Buffer, target: Buffer) -> None:
        network = self._network
        given, made = (self._tensor(buffer, shape, by) for buffer, by in (
            (source, 1), (target, network.facts.scale)
        ))  # fmt: skip

        def work() -> None:
            with torch.inference_mode():
                made.copy_(network.module(given))

        try:
            network.queue(self._stream, work)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(str(error).partition(".")[0]) from None

    def can_be_captured(self) -> bool:
        return self._network.graphs

    def close(self) -> None:
        pass

    def _tensor(self, buffer: Buffer, shape: Shape, by: int) -> Tensor:
        """A batch in a device buffer, as it lies there."""
        tiles, height, width = shape[0], shape[1] * by, shape[2] * by
        bytewise = self._network.facts.io == "uint8"
        sides = (tiles, height, width, 3) if bytewise else (tiles, 3, height, width)
        kind = np.uint8 if bytewise else np.float32
        if self._network.device == "cuda":
            return torch.as_tensor(_Array(buffer.address, sides, np.dtype(kind).str), device="cuda")
        size = int(np.prod(sides)) * np.dtype(kind).itemsize
        block = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(buffer.address))
        return torch.from_numpy(block.view(kind).reshape(sides))


class _Array:
    """Device memory as other libraries describe it to each other."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: str) -> None:
        self.__cuda_array_interface__ = {
            "data": (address, False), "shape": shape, "typestr": kind, "version": 3, "strides": None
        }  # fmt: skip
