"""An engine: a network file opened by the backend that runs it best here."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.images.colour import to_levels
from srtool.manifest import Manifest, ModelFacts, doubt_about, facts_from_metadata, read_manifest
from srtool.runtime.backends import DEFAULT_HALO, Foresighted, Session
from srtool.runtime.gpu.scheduler import Deliver, Ring
from srtool.runtime.tiling import DEFAULT_TILE, upscale_tiled

Backend = Literal[
    "auto", "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "torch"
]
Precision = Literal["auto", "fp32", "bf16"]
CHECKPOINTS = {".pth", ".pt", ".safetensors"}
PLAN = ".plan"


class Engine:
    """A network ready to run: tiles in, upscaled tiles out. To be closed where it is on a GPU.

    facts: what it computes. backend: what runs it, "openvino bf16" for example. reason: why that
    one, for the user. doubt: why its results are not certified, empty where they are.
    """

    def __init__(
        self,
        path: Path,
        facts: ModelFacts,
        backend: str,
        reason: str,
        session: Session,
        open_float: Callable[[], Session] | None = None,
        doubt: str = "",
    ) -> None:
        """open_float: loads the float32 I/O variant of a uint8 network when first needed."""
        self.path, self.facts, self.backend, self.reason = path, facts, backend, reason
        self.doubt = doubt
        self._session, self._open_float = session, open_float
        self._float_session: Session | None = session if facts.io == "float32" else None

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
        """Give back what it holds of a GPU."""
        for ring in self._rings():
            ring.close()

    def upscale(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """(N, H, W, 3) uint8 or float32 0..1 -> (N, scale * H, scale * W, 3) of the same dtype,
        float32 not clamped. On a GPU, what is larger than its tiles is cut up. EngineError where
        the engine has no float32 form."""
        session = self._session_for(tiles.dtype)
        if isinstance(session, Ring):
            return np.stack([upscale_tiled(image, self) for image in tiles])
        if self._is_bytewise(tiles.dtype):
            return session(np.ascontiguousarray(tiles))
        as_float = tiles.astype(np.float32) / np.float32(255) if tiles.dtype == np.uint8 else tiles
        planes = np.ascontiguousarray(as_float.transpose(0, 3, 1, 2), dtype=np.float32)
        out = session(planes).transpose(0, 2, 3, 1)
        return to_levels(out, np.uint8) if tiles.dtype == np.uint8 else out

    def expect(self, shape: tuple[int, ...], dtype: Any, times: int) -> None:
        """Say that so many batches, (N, H, W, 3) of uint8 or float32, are about to come: where that
        is often, the engine makes ready for just this shape."""
        session = self._session_for(dtype)
        if isinstance(session, Foresighted):
            number, height, width, channels = shape
            planes = (number, channels, height, width)
            session.expect(shape if self._is_bytewise(dtype) else planes, times)

    def submit(self, tile: NDArray[Any], deliver: Deliver) -> None:
        """Upscale one tile, (H, W, 3), as `upscale` does: at once, or on a GPU together with later
        ones. `deliver` gets a view that holds until it returns, or what went wrong, at `flush` the
        latest. What goes wrong at once is raised."""
        session = self._session_for(tile.dtype)
        if not isinstance(session, Ring):
            deliver(self.upscale(tile[None])[0])
        elif tile.dtype == np.uint8 and self.facts.io == "float32":
            scaled = tile.astype(np.float32) / np.float32(255)
            session.submit(scaled, lambda found: deliver(_levels_of(found)))
        else:
            session.submit(tile, deliver)

    def flush(self) -> None:
        """Deliver everything that was submitted."""
        for ring in self._rings():
            ring.flush()

    @property
    def is_deferred(self) -> bool:
        """Whether `submit` returns before the tile is upscaled."""
        return isinstance(self._session, Ring)

    @property
    def busy(self) -> float:
        """Seconds in which a GPU computed, 0 on a CPU."""
        return sum(ring.busy for ring in self._rings())

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the tiles that suit it."""
        return _tile_of(self._session)

    def tile_of(self, dtype: Any) -> tuple[int, int]:
        """The same for images of this dtype, uint8 or float32."""
        return _tile_of(self._session_for(dtype))

    def use_tile(self, side: int) -> None:
        """Have a GPU work on tiles of that side. UsageError where the engine cannot."""
        if isinstance(self._session, Ring):
            self._session.use_tile(side)

    def notes(self) -> list[str]:
        """What the user should know of what happened since the last time."""
        found = [note for ring in self._rings() for note in ring.notes]
        for ring in self._rings():
            ring.notes.clear()
        return found

    def _rings(self) -> list[Ring]:
        sessions = dict.fromkeys((self._session, self._float_session))
        return [session for session in sessions if isinstance(session, Ring)]

    def _is_bytewise(self, dtype: Any) -> bool:
        """Whether the session takes these pixels as they are."""
        return bool(dtype == np.uint8 and self.facts.io == "uint8")

    def _session_for(self, dtype: Any) -> Session:
        if self._is_bytewise(dtype):
            return self._session
        if self._float_session is None:
            if self._open_float is None:
                raise EngineError(
                    f"{self.path}: takes 8-bit images only and its float32 companion is missing; "
                    "export the network again, or convert the image with --depth 8"
                )
            self._float_session = self._open_float()
        return self._float_session


def _tile_of(session: Session) -> tuple[int, int]:
    return session.tile if isinstance(session, Ring) else (DEFAULT_TILE, DEFAULT_TILE)


def _levels_of(found: NDArray[Any] | Exception) -> NDArray[Any] | Exception:
    return found if isinstance(found, Exception) else to_levels(found, np.uint8)


def open_engine(
    path: str | Path,
    backend: Backend = "auto",
    precision: Precision = "auto",
    fallback: str | None = None,
) -> Engine:
    """Open an .onnx file, a TensorRT plan, or a checkpoint as the PyTorch reference.

    backend "auto" takes the fastest choice that is faithful according to the manifest: OpenVINO
    in bfloat16 where the CPU has it and the export certified it; else the fastest of ONNX Runtime
    on the GPU, OpenVINO and ONNX Runtime in float32, timed on a small tile. precision "bf16"
    insists on bfloat16. fallback: what runs instead of a plan that cannot run here, "onnxruntime"
    for the .onnx file that it was made of, or the path of one.
    """
    path = Path(path)
    if path.suffix == PLAN:
        from srtool.runtime.opening import open_plan

        return open_plan(path, backend, precision, fallback)
    if fallback is not None:
        raise UsageError(f"{path}: --fallback is for plans (.plan); any machine runs this file")
    if not path.is_file():
        raise EngineError(f"{path}: no such engine; `srtool export model.pth` writes one")
    if path.suffix in CHECKPOINTS:
        return _reference(path, backend, precision)
    if path.suffix != ".onnx":
        raise EngineError(
            f"{path}: is no engine that this version runs; expected .onnx, .plan, .pth or "
            ".safetensors"
        )
    if backend == "torch":
        raise UsageError(f"{path}: the torch backend runs checkpoints (.pth), not .onnx files")
    if precision == "bf16" and backend.startswith("onnxruntime"):
        raise UsageError("ONNX Runtime has no bfloat16; use --backend openvino")
    manifest = read_manifest(path)
    facts = manifest.model if manifest else facts_from_onnx(path)
    name, reason = _choose(path, facts, manifest, backend, precision)
    companion = path.parent / manifest.companion if manifest and manifest.companion else None
    open_float = None
    if companion and companion.is_file():
        # 16-bit images are for precision: bfloat16 would keep 8 of their bits.
        open_float = partial(_open_companion, companion, name.replace("bf16", "fp32"))
    doubt = doubt_about(manifest, name)
    return Engine(path, facts, name, reason, open_session(path, name), open_float, doubt)


def _reference(path: Path, backend: Backend, precision: Precision) -> Engine:
    from srtool.runtime.backends import torch as reference

    if backend not in ("auto", "torch"):
        raise UsageError(f"{path}: {backend} runs .onnx files; `srtool export {path}` writes one")
    if precision == "bf16":
        raise UsageError(f"{path}: the PyTorch reference runs in fp32; export it for bf16")
    session, facts = reference.open_session(path)
    return Engine(path, facts, "torch fp32", "the PyTorch reference", session)


def _open_companion(path: Path, name: str) -> Session:
    read_manifest(path)  # EngineError where the file is not the one that was certified
    return open_session(path, name)


def open_session(path: Path, name: str) -> Session:
    """Load an .onnx file on a backend by name, as `installed_backends` gives it, or on
    "onnxruntime-tensorrt"."""
    from srtool.runtime.backends import onnxruntime, onnxruntime_gpu, openvino

    if name == "onnxruntime fp32":
        return onnxruntime.open_session(path)
    if name.startswith("onnxruntime"):
        manifest = read_manifest(path)
        facts = manifest.model if manifest else facts_from_onnx(path)
        provider: onnxruntime_gpu.Provider = "cuda" if name == "onnxruntime-cuda" else "tensorrt"
        return onnxruntime_gpu.open_session(path, facts, provider)
    return openvino.open_session(path, "bf16" if name == "openvino bf16" else "fp32")


def installed_backends() -> list[str]:
    """Names of the ways to run an .onnx file here, that take no more than opening it. On a GPU
    the precision is that of the file."""
    from srtool.runtime.backends import onnxruntime_gpu, openvino

    names = []
    if importlib.util.find_spec("onnxruntime"):
        names.append("onnxruntime fp32")
    if importlib.util.find_spec("openvino"):
        names.append("openvino fp32")
        if openvino.has_bf16():
            names.append("openvino bf16")
    if onnxruntime_gpu.has("cuda"):
        names.append("onnxruntime-cuda")
    return names


def _choose(
    path: Path, facts: ModelFacts, manifest: Manifest | None, backend: Backend, precision: Precision
) -> tuple[str, str]:
    """The backend's name and why."""
    if backend.startswith("onnxruntime"):
        return "onnxruntime fp32" if backend == "onnxruntime" else backend, "asked for"
    names = installed_backends()
    if precision == "bf16":
        if "openvino bf16" not in names:
            raise EngineError(
                f"{path}: bfloat16 takes OpenVINO (pip install 'srtool[cpu]') and a CPU with "
                "bfloat16 instructions; use --precision auto"
            )
        return "openvino bf16", "asked for"
    if not names:
        raise EngineError(
            f"{path}: neither ONNX Runtime nor OpenVINO is installed; pip install 'srtool[cpu]'"
        )
    found = manifest.fidelity if manifest else {}
    faithful = [name for name in found if found[name].passed and found[name].grade != "lossy"]
    on_cpu = "onnxruntime-cuda" not in names
    if precision == "auto" and on_cpu and "openvino bf16" in names and "openvino bf16" in faithful:
        grade = found["openvino bf16"].grade
        return "openvino bf16", f"certified {grade} and the fastest here"
    if backend == "openvino":
        return "openvino fp32", "asked for"
    names = [name for name in names if name != "openvino bf16"]
    if len(names) == 1:
        return names[0], "the only one installed"
    kept = [name for name in names if name in faithful or name not in found]
    if len(kept) == 1:
        return kept[0], "the other one is not faithful"
    seconds = {name: _seconds(path, facts, name) for name in kept or names}
    best, second = sorted(seconds, key=lambda name: seconds[name])[:2]
    if seconds[second] == float("inf"):
        return best, "the only one that runs it"
    ratio = seconds[second] / seconds[best]
    return best, f"{ratio:.2f}x as fast as the alternative on a trial tile"


def _seconds(path: Path, facts: ModelFacts, name: str) -> float:
    """Best of three runs on a small tile, after one to warm up; infinite where it does not run:
    not every backend has every operation of other people's networks."""
    image = np.full((1, 64, 64, 3), 128, np.uint8)
    times = []
    try:
        with Engine(path, facts, name, "", open_session(path, name)) as engine:
            engine.upscale(image)
            for _ in range(3):
                start = time.perf_counter()
                engine.upscale(image)
                times.append(time.perf_counter() - start)
    except (EngineError, RuntimeError):
        return float("inf")
    return min(times)


def _tile(io: Literal["uint8", "float32"], side: int) -> NDArray[Any]:
    """A gray tile in the form that a session takes."""
    if io == "uint8":
        return np.full((1, side, side, 3), 128, np.uint8)
    return np.full((1, 3, side, side), 0.5, np.float32)


def facts_from_onnx(path: Path) -> ModelFacts:
    """Facts of an .onnx file that has no manifest: from its own metadata where srtool wrote it,
    else from its input (RGB, (N, 3, H, W) float32 in 0..1 or (N, H, W, 3) uint8) and a trial."""
    from srtool.runtime.backends import onnxruntime

    metadata, shape, kind = onnxruntime.read_metadata(path)
    if facts := facts_from_metadata(metadata):
        return facts
    io: Literal["uint8", "float32"]
    if kind == "tensor(float)" and len(shape) == 4 and shape[1] == 3:
        io, sides = "float32", shape[2:]
    elif kind == "tensor(uint8)" and len(shape) == 4 and shape[3] == 3:
        io, sides = "uint8", shape[1:3]
    else:
        raise EngineError(
            f"{path}: takes {kind} of shape {shape}, expected RGB images as float32 "
            "(N, 3, H, W) or uint8 (N, H, W, 3)"
        )
    if any(isinstance(side, int) for side in sides):
        raise EngineError(
            f"{path}: takes only images of {sides[1]}x{sides[0]} pixels; export it with free "
            "height and width"
        )
    side = 64
    tile = _tile(io, side)
    try:
        out = onnxruntime.open_session(path)(tile)
    except RuntimeError as error:
        raise EngineError(
            f"{path}: fails on an image of {side}x{side} pixels ({error}); expected a network "
            "with one input that takes any size"
        ) from None
    height = 1 if io == "uint8" else 2
    scale = out.shape[height] // side if out.ndim == 4 else 0
    expected = list(tile.shape)
    expected[height : height + 2] = [scale * side] * 2
    if scale < 1 or list(out.shape) != expected or out.dtype != tile.dtype:
        raise EngineError(
            f"{path}: makes {out.dtype} values of shape {out.shape} from an image of "
            f"{side}x{side} pixels, expected an image a whole number of times as large"
        )
    return ModelFacts(
        scale=scale, io=io, precision="fp32", architecture="unknown", halo=DEFAULT_HALO
    )
