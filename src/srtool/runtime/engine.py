"""An engine: a network file opened by a backend, ready for images of any size."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.images.colour import as_floats, to_levels
from srtool.manifest import ModelFacts
from srtool.runtime import pixels
from srtool.runtime.session import Backend, Callback, Session
from srtool.runtime.tiling import fits, upscale_tiled
from srtool.runtime.upscaling import Options

if TYPE_CHECKING:
    from PIL.Image import Image

Value = TypeVar("Value", np.uint8, np.uint16, np.float32)


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is. path: its file. facts: what it computes. backend: what runs it. reason:
    why that one. uncertified_reason: why its results are not certified, empty where they are."""

    path: Path
    facts: ModelFacts
    backend: Backend
    reason: str = ""
    uncertified_reason: str = ""


class Engine:
    """A network ready to run, made by `open_engine` and to be closed, best by `with`.

    Several threads may use it at once. See `EngineInfo` for path, facts, backend, reason and
    uncertified_reason.
    """

    def __init__(
        self,
        info: EngineInfo,
        session: Session,
        open_companion: Callable[[], Session] | None = None,
        open_float32: Callable[[], Engine | None] = lambda: None,
    ) -> None:
        """open_companion: loads the float32 I/O variant of a uint8 network, open_float32: the same
        weights in float32 arithmetic; both when first needed."""
        self.info = info
        self.path, self.facts, self.backend = info.path, info.facts, info.backend
        self.reason, self.uncertified_reason = info.reason, info.uncertified_reason
        self._session, self._open_companion = session, open_companion
        self._open_float32 = open_float32
        self._float_session: Session | None = session if info.facts.io == "float32" else None
        self._float32: list[Engine | None] = []
        self._opening = threading.Lock()
        self._closed = False

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what it holds. It cannot be used afterwards."""
        self._closed = True
        for session in self._sessions():
            session.close()
        for engine in self._float32:
            if engine is not None:
                engine.close()

    @overload
    def upscale(self, image: NDArray[Value], options: Options | None = ...) -> NDArray[Value]: ...
    @overload
    def upscale(self, image: Image, options: Options | None = ...) -> Image: ...
    @overload
    def upscale(self, image: str | Path, options: Options | None = ...) -> NDArray[Any]: ...

    def upscale(self, image: Any, options: Options | None = None) -> Any:
        """Upscale one image of any size, in tiles.

        image: an array of (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8, uint16, or float32
            0..1; a PIL image; or the path of a file.
        Returns what it was given, `facts.scale` times as large: an array of the same dtype and
        channels, float32 clamped to 0..1, or a PIL image; for a path an array, uint8 or uint16.
        UsageError for arrays of another kind, ImageError where the file cannot be read, EngineError
        where the engine has no form for more than 8 bits.
        """
        return pixels.upscale(image, self, options or Options())

    def upscale_batch(self, batch: NDArray[Value]) -> NDArray[Value]:
        """(N, H, W, 3) RGB uint8, uint16 or float32 0..1 -> (N, scale * H, scale * W, 3) of the
        same dtype, float32 not clamped. A CPU computes it in one piece, whatever its size; a GPU
        cuts up what is larger than its tiles.

        UsageError for another shape or dtype, EngineError where the engine has no form for more
        than 8 bits, RuntimeError or MemoryError where the backend fails.
        """
        if batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
            raise UsageError(
                f"a batch has the shape {batch.shape}, expected (N, H, W, 3)",
                parameter="batch",
                found=str(batch.shape),
                expected="(N, H, W, 3)",
            )
        pixels.check_dtype(batch.dtype, "batch")
        if batch.dtype == np.uint16:
            return to_levels(self.upscale_batch(as_floats(batch)), np.uint16)
        if self.facts.batch is not None and len(batch) > self.facts.batch:
            return np.concatenate([self.upscale_batch(image[None]) for image in batch])
        session = self._session_for(batch.dtype)
        if session.is_deferred or not fits(batch.shape[1:3], self.facts):
            return np.stack([upscale_tiled(image, self) for image in batch])
        if batch.dtype == np.uint8 and self.facts.io == "float32":
            return to_levels(session.run(as_floats(batch)), np.uint8)
        return session.run(batch)

    def prepare(self, shape: tuple[int, ...], dtype: Any, times: int) -> None:
        """Say that so many batches, (N, H, W, 3) of uint8 or float32, are about to come from this
        thread: where that is often, the engine makes ready for just this shape."""
        self._session_for(dtype).prepare(shape, times)

    def submit(self, tile: NDArray[Any], callback: Callback) -> None:
        """Upscale one tile, (H, W, 3) uint8 or float32: at once, or on a GPU together with later
        ones. `callback` gets a view that holds until it returns, or what went wrong, at `flush`
        the latest, perhaps in another thread."""
        session = self._session_for(tile.dtype)
        if tile.dtype == np.uint8 and self.facts.io == "float32":
            session.submit(as_floats(tile), lambda found: callback(_levels_of(found)))
        else:
            session.submit(tile, callback)

    def flush(self) -> None:
        """Call back for everything that was submitted."""
        for session in self._sessions():
            session.flush()

    def in_float32(self) -> Engine | None:
        """The same weights in float32 where float32 is kept; None where there is no such file."""
        with self._opening:
            if not self._float32:
                self._float32.append(self._open_float32())
            return self._float32[0]

    @property
    def is_deferred(self) -> bool:
        """Whether `submit` returns before the tile is upscaled."""
        return self._session.is_deferred

    @property
    def busy(self) -> float:
        """Seconds in which a GPU computed, 0 on a CPU."""
        return sum(session.busy for session in self._sessions())

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles that suit it."""
        return self._session.tile

    def tile_of(self, dtype: Any) -> tuple[int, int]:
        """The same for images of this dtype, uint8 or float32."""
        return self._session_for(dtype).tile

    def use_tile(self, side: int) -> None:
        """Have a GPU work on tiles of that side. UsageError where the engine cannot."""
        self._session.use_tile(side)

    def notes(self) -> list[str]:
        """What the user should know of what happened since the last time."""
        found = []
        for session in self._sessions():
            while session.notes:
                found.append(session.notes.pop(0))
        return found

    def _sessions(self) -> list[Session]:
        float_session = self._float_session
        if float_session is None or float_session is self._session:
            return [self._session]
        return [self._session, float_session]

    def _session_for(self, dtype: Any) -> Session:
        if self._closed:
            raise EngineError(f"{self.path}: the engine is closed", path=self.path)
        if dtype == np.uint8 and self.facts.io == "uint8":
            return self._session
        with self._opening:
            if self._float_session is None:
                if self._open_companion is None:
                    raise EngineError(
                        f"{self.path}: takes 8-bit images only and its float32 companion is "
                        "missing; export the network again, or convert the image to 8 bits",
                        path=self.path,
                        remedy={"depth": 8},
                    )
                self._float_session = self._open_companion()
            return self._float_session


def _levels_of(found: NDArray[Any] | Exception) -> NDArray[Any] | Exception:
    return found if isinstance(found, Exception) else to_levels(found, np.uint8)
