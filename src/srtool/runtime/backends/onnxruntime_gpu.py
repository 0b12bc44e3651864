"""ONNX Runtime on an NVIDIA GPU, with its CUDA or its TensorRT provider, through the scheduler.

Input and output are bound to the scheduler's device memory and the provider queues its work on the
slot's stream, so that copies and computation overlap as they do for a plan.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256 as digest
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from srtool.assets import cache_folder
from srtool.errors import EngineError, in_a_line
from srtool.files import sha256
from srtool.manifest import ModelFacts, Profile, Shape
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.gpu.cuda import Buffer, Cuda, OutOfMemory, find_gpu, open_cuda
from srtool.runtime.gpu.layout import FEWEST_SLOTS
from srtool.runtime.gpu.machine import library_of, load_library
from srtool.runtime.gpu.scheduler import Scheduler
from srtool.runtime.session import Library, is_shortage

Provider = Literal["cuda", "tensorrt"]

_PROVIDERS: dict[Provider, str] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# CUDA kernels are chosen when a shape comes, so nothing speaks against any shape; the TensorRT
# provider builds its engine for a range, which takes the longer the wider it is.
_PROFILES: dict[Provider, Profile] = {
    "cuda": Profile(min=(1, 1, 1), opt=(2, 256, 256), max=(64, 2048, 2048)),
    "tensorrt": Profile(min=(1, 16, 16), opt=(2, 256, 256), max=(4, 256, 256)),
}


@dataclass(frozen=True)
class OnnxRuntimeGpu:
    """The CUDA or the TensorRT provider; the precision is that of the file. The latter builds an
    engine first, which takes minutes, and keeps it in the user's cache folder. device: number of
    the GPU among those that are visible. tuning: options of the CUDA provider to switch on,
    prefer_nhwc or fuse_conv_bias; what they are worth depends on the GPU (tools/gpu_choices.py)."""

    provider: Provider
    device: int = 0
    tuning: tuple[str, ...] = ()
    precision: ClassVar = ""
    on_gpu: ClassVar = True

    @property
    def library(self) -> Library:
        return "onnxruntime-cuda" if self.provider == "cuda" else "onnxruntime-tensorrt"

    def __str__(self) -> str:
        return self.library

    def is_available(self) -> bool:
        """Whether this machine has a GPU and the installed ONNX Runtime the provider, with all
        that it needs."""
        return not self.missing()

    def missing(self) -> str:
        """What is missing for it here, in words; empty where it works."""
        gpu = find_gpu(self.device)
        if gpu is None:
            return "there is no GPU for it, or no cuda-python"
        return _missing(self.provider, gpu.cuda)

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> Scheduler:
        """EngineError where there is no GPU, the provider is missing or does not load, or the file
        is no ONNX model."""
        cuda = open_cuda(self.device)
        if missing := _missing(self.provider, cuda.gpu.cuda):
            raise EngineError(f"{path}: {missing}", path=path, found=missing)
        if self.provider == "tensorrt" and facts.precision != "fp32":
            raise EngineError(
                f"{path}: computes in {facts.precision}, and ONNX Runtime's TensorRT provider may "
                "narrow what was kept in float32; its CUDA provider does not, nor does a plan",
                path=path,
                found=facts.precision,
                expected="fp32",
                parameter="backend",
                remedy={"backend": "onnxruntime-cuda"},
            )
        try:
            with cuda.current():
                return Scheduler(cuda, OnnxNetwork(cuda, path, facts, self))
        except EngineError as error:
            raise EngineError(f"{path}: {error}", path=path) from None
        except RuntimeError as error:
            raise EngineError(
                f"{path}: ONNX Runtime fails with it on the {cuda.gpu.name} ({error})",
                path=path,
                found=str(error),
            ) from None


class OnnxNetwork:
    """An .onnx file on one provider: the scheduler's `Network`."""

    def __init__(self, cuda: Cuda, path: Path, facts: ModelFacts, backend: OnnxRuntimeGpu) -> None:
        provider = backend.provider
        self.facts, self.most_slots = facts, FEWEST_SLOTS
        self.profiles = (_PROFILES[provider].fitted(facts),)
        self._cuda, self._path, self._provider = cuda, path, provider
        self._tuning = dict.fromkeys(backend.tuning, "1")
        self._key = engine_key(path, facts, cuda) if provider == "tensorrt" else ""

    def scratch(self, shape: Shape) -> int:
        """Not known: ONNX Runtime takes memory as it goes; the scheduler does with less then."""
        return 0

    def execution(self, shape: Shape, stream: Any) -> OnnxExecution:
        handle = self._cuda.handle(stream)
        return OnnxExecution(self._session(handle), self.facts, self._cuda.gpu.number)

    def close(self) -> None:
        pass

    def _session(self, stream: int) -> Any:
        """A session whose work goes to a stream: the stream is an option of the provider, so that
        each slot has a session of its own."""
        import onnxruntime

        name = _PROVIDERS[self._provider]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        place = {"user_compute_stream": str(stream), "device_id": str(self._cuda.gpu.number)}
        providers: list[Any] = [(name, {**place, **self._options()})]
        if self._provider == "tensorrt":
            providers.append((_PROVIDERS["cuda"], place))
        try:
            session = onnxruntime.InferenceSession(str(self._path), options, providers=providers)
        except Exception as error:  # its exception classes have no common root of their own
            raise _error(error) from None
        if session.get_providers()[0] != name:
            raise EngineError(
                f"{name} does not load, ONNX Runtime would go on without a word on "
                "the CPU; are CUDA, cuDNN and, for TensorRT, its libraries installed?"
            )
        return session

    def _options(self) -> dict[str, str]:
        if self._provider == "cuda":
            return {
                # TensorFloat-32 has 10 bits of mantissa: not what float32 promises.
                "use_tf32": "0",
                # The exhaustive search takes seconds for each new size of an image.
                "cudnn_conv_algo_search": "HEURISTIC",
                **self._tuning,
            }
        folder = cache_folder() / "onnxruntime-tensorrt" / self._key
        folder.mkdir(parents=True, exist_ok=True)
        profile, image = self.profiles[0], OnnxRuntime().inspect(self._path).input
        shapes = {
            f"trt_profile_{name}_shapes": f"{image}:" + "x".join(map(str, tensor))
            for name in ("min", "opt", "max")
            if (tensor := _tensor(getattr(profile, name), self.facts))
        }
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            "trt_fp16_enable": "0",  # the network is not to be narrowed behind its back
            **shapes,
        }


class OnnxExecution:
    """A session on one stream."""

    def __init__(self, session: Any, facts: ModelFacts, device: int) -> None:
        import onnxruntime

        self._session, self._facts, self._device = session, facts, device
        self._given, self._made = session.get_inputs()[0].name, session.get_outputs()[0].name
        self._options = onnxruntime.RunOptions()
        # The scheduler waits for the stream itself.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, shape: Shape, source: Buffer, target: Buffer) -> None:
        value = np.uint8 if self._facts.io == "uint8" else np.float32
        tiles, height, width = shape
        scale = self._facts.scale
        large = tiles, height * scale, width * scale
        try:
            binding = self._session.io_binding()
            for bind, name, sides, buffer in (
                (binding.bind_input, self._given, shape, source),
                (binding.bind_output, self._made, large, target),
            ):
                bind(name, "cuda", self._device, value, _tensor(sides, self._facts), buffer.address)
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # see OnnxNetwork._session
            raise _error(error) from None

    def can_be_captured(self) -> bool:
        """It takes memory while it runs, which a graph cannot."""
        return False

    def close(self) -> None:
        self._session = None


def _missing(provider: Provider, driver: tuple[int, int]) -> str:
    """What the installed ONNX Runtime lacks for a provider, in words. A provider that is compiled
    in but cannot be loaded, as after an install without CUDA's libraries, would be replaced by the
    CPU without a word. driver: the newest CUDA version that it serves."""
    if not importlib.util.find_spec("onnxruntime"):
        return "ONNX Runtime is not installed; pip install 'srtool[gpu]'"
    import onnxruntime

    name, version = _PROVIDERS[provider], onnxruntime.__version__
    if name not in onnxruntime.get_available_providers():
        return (
            f"ONNX Runtime {version} has no {name}; pip uninstall -y onnxruntime && "
            "pip install --force-reinstall --no-deps onnxruntime-gpu"
        )
    built_for = str(getattr(onnxruntime, "cuda_version", "")).partition(".")[0]
    if built_for.isdigit() and int(built_for) > driver[0]:
        return (
            f"ONNX Runtime {version} is built for CUDA {built_for}, and the driver serves CUDA "
            f"{driver[0]}.{driver[1]}; `srtool doctor` names the packages that fit it"
        )
    if reason := load_provider(provider, Path(onnxruntime.__file__).parent / "capi"):
        return f"{name} does not load ({reason}); `srtool doctor` names what it needs"
    return ""


@cache
def load_provider(provider: Provider, folder: Path) -> str:
    """Load a provider's own library, after CUDA, cuDNN and TensorRT out of their pip packages.
    Why that fails, empty where it does not or there is no such file."""
    import onnxruntime

    prefix, suffix = ("", ".dll") if os.name == "nt" else ("lib", ".so")
    shared, own = (
        folder / f"{prefix}onnxruntime_providers_{part}{suffix}" for part in ("shared", provider)
    )
    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with redirect_stdout(StringIO()):  # it prints what it misses
            onnxruntime.preload_dlls()
    if provider == "tensorrt":
        with suppress(EngineError):  # a TensorRT of the system does as well
            load_library("tensorrt")
    if not own.is_file():
        return ""
    try:
        for library in (shared, own):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return in_a_line(error, 200)
    return ""


def engine_key(path: Path, facts: ModelFacts, cuda: Cuda) -> str:
    """Name of the folder for engines made of an .onnx file: another one for each file, version of
    ONNX Runtime and TensorRT, GPU, driver and precision."""
    import onnxruntime

    library = library_of("tensorrt")
    gpu = cuda.gpu
    parts = (
        sha256(path),
        onnxruntime.__version__,
        library.version if library else "",
        *map(str, gpu.compute_capability),
        gpu.name,
        gpu.driver or str(gpu.cuda),
        facts.precision,
    )
    return digest("\0".join(parts).encode()).hexdigest()[:32]


def _tensor(shape: Shape, facts: ModelFacts) -> tuple[int, int, int, int]:
    tiles, height, width = shape
    return (tiles, height, width, 3) if facts.io == "uint8" else (tiles, 3, height, width)


def _error(error: Exception) -> RuntimeError:
    text = in_a_line(error, None)
    found = OutOfMemory if is_shortage(text) else RuntimeError
    return found(text.rpartition(" : ")[2][:200])
