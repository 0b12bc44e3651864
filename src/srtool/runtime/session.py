"""What runs a network: a backend is a type of its own, and what it opens is a session."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, in_a_line
from srtool.manifest import ModelFacts

# Gets the upscaled tile, (sH, sW, 3), a view that holds until it returns; or what went wrong.
Callback = Callable[[NDArray[Any] | Exception], None]
Library = Literal["onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch"]
BackendName = Literal["auto", Library]
PrecisionName = Literal["auto", "fp32", "bf16"]

DEFAULT_TILE = 256
# LR pixels, for networks without a measured halo: checkpoints and other people's files.
DEFAULT_HALO = 16

# ONNX Runtime, OpenVINO, TensorRT and PyTorch's CPU allocator have no type of error for want of
# memory, only words. Every other file decides by MemoryError or, on a GPU, by OutOfMemory.
_SHORTAGE = re.compile(
    r"out ?of ?memory|insufficient memory|bad_alloc|allocat|cudaMalloc|bfc_?arena", re.IGNORECASE
)


def is_shortage(text: str) -> bool:
    """Whether a library failed for want of memory. text: what it said."""
    return _SHORTAGE.search(text) is not None


class TooLarge(Exception):
    """A tile is larger than the session takes, perhaps since it ran out of memory: cut it up."""


class Session(Protocol):
    """An opened engine in a backend. Several threads may use it at once.

    Pixels are (N, H, W, 3) or one tile of them, (H, W, 3), in the dtype of the file: uint8, or
    float32 0..1, whose results are not clamped. notes: what the user should know, for the caller
    to show and clear. busy: seconds in which a GPU computed, 0 on a CPU.
    """

    notes: list[str]

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles that suit it."""

    @property
    def is_deferred(self) -> bool:
        """Whether `submit` returns before the tile is upscaled, and takes no more than `tile`."""

    @property
    def busy(self) -> float: ...

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """(N, H, W, 3) -> (N, sH, sW, 3), which is the caller's. RuntimeError or MemoryError where
        it fails, also on what is larger than `tile` where that is the most."""

    def prepare(self, shape: tuple[int, ...], times: int) -> None:
        """`times` batches of this shape, (N, H, W, 3), are about to come from this thread. Where
        those of one shape come in a row, they add up. What is computed stays within the rounding
        of the precision."""

    def submit(self, tile: NDArray[Any], callback: Callback) -> None:
        """Upscale a tile, at once or together with later ones, at `flush` the latest. It must not
        change until then. TooLarge is given to the callback for what does not fit."""

    def flush(self) -> None:
        """Call back for everything that this thread submitted."""

    def use_tile(self, side: int) -> None:
        """Work on square tiles of that side. UsageError where the engine cannot."""

    def close(self) -> None:
        """Give everything back."""


class DirectSession:
    """A session that computes in the thread that calls."""

    is_deferred, busy = False, 0.0

    def __init__(self, facts: ModelFacts, compute: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """compute: a batch in the form of the file, (N, H, W, 3) uint8 or (N, 3, H, W) float32;
        several threads may call it."""
        self.facts, self.compute, self.notes = facts, compute, list[str]()

    @property
    def tile(self) -> tuple[int, int]:
        return self.facts.fixed or (DEFAULT_TILE, DEFAULT_TILE)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """As `Session`. EngineError where the result has another size than the facts say."""
        facts = self.facts
        if facts.io == "uint8":
            made = self._computed(np.ascontiguousarray(batch))
        else:
            planes = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)
            if facts.input_range != 1:
                planes = planes * np.float32(facts.input_range)
            made = self._computed(planes)
            if made.ndim == 4:
                made = made.transpose(0, 2, 3, 1)
            if facts.output_range != 1:
                made = made / np.float32(facts.output_range)
        number, height, width, channels = batch.shape
        expected = (number, facts.scale * height, facts.scale * width, channels)
        if made.shape != expected:
            raise EngineError(
                f"the network makes {made.shape} of an image of {batch.shape}, expected "
                f"{expected}; it does not enlarge {facts.scale} times as its manifest says",
                found=str(made.shape),
                expected=str(expected),
            )
        return made[..., ::-1] if facts.output_bgr else made

    def _computed(self, batch: NDArray[Any]) -> NDArray[Any]:
        try:
            return self.compute(batch)
        except RuntimeError as error:
            if is_shortage(str(error)):
                raise MemoryError(in_a_line(error)) from None
            raise

    def prepare(self, shape: tuple[int, ...], times: int) -> None:
        """Every shape is the same to it."""

    def submit(self, tile: NDArray[Any], callback: Callback) -> None:
        try:
            found = self.run(tile[None])[0]
        except (RuntimeError, MemoryError, EngineError) as error:
            return callback(error)
        return callback(found)

    def flush(self) -> None:
        """Nothing waits."""

    def use_tile(self, side: int) -> None:
        """It takes any."""

    def close(self) -> None:
        """It holds nothing but memory."""


class Backend(Protocol):
    """A way to run network files on this machine: a value, equal where it does the same.

    library: what runs it, as `open_engine` takes it, or a flavour of TensorRT. precision: what it
    computes in, empty where that is the file's. str() is its name, "openvino bf16" for example,
    under which a manifest keeps how faithful it is.
    """

    @property
    def library(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def on_gpu(self) -> bool: ...

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> Session:
        """Load a file. threads: of the CPU that it may take, None for the library's own choice.
        EngineError where it is no such file, or the library is missing."""


class OnnxBackend(Backend, Protocol):
    """A backend for .onnx files."""

    def is_available(self) -> bool:
        """Whether the library and the hardware for it are here."""


@dataclass(frozen=True)
class OnnxFile:
    """What an .onnx file says of itself, as `inspect` of the backends for CPUs gives it.

    metadata: srtool's entry of metadata_props. input, shape, dtype: of the first input, None for
    free sides; dtype as numpy names it. outputs: names. run: every output for a batch in the form
    of the file, RuntimeError where it fails.
    """

    metadata: str | None
    input: str
    shape: tuple[int | None, ...]
    dtype: str
    outputs: tuple[str, ...]
    run: Callable[[NDArray[Any]], list[NDArray[Any]]]


class TileEngine(Protocol):
    """What tiling needs of an engine: see `srtool.runtime.engine.Engine`."""

    @property
    def path(self) -> Path: ...

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def is_deferred(self) -> bool: ...

    def tile_of(self, dtype: Any) -> tuple[int, int]: ...

    def prepare(self, shape: tuple[int, ...], dtype: Any, times: int) -> None: ...

    def submit(self, tile: NDArray[Any], callback: Callback) -> None: ...

    def flush(self) -> None: ...

    def in_float32(self) -> TileEngine | None:
        """The same weights in float32 where float32 is kept; None where there is no such file."""

    def notes(self) -> list[str]: ...
