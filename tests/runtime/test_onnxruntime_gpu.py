"""ONNX Runtime on a fake GPU: the CPU provider does the work, when the stream gets to it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.files import sha256
from srtool.manifest import Manifest, ModelFacts, write_manifest
from srtool.runtime import onnx_files
from srtool.runtime.backends import onnxruntime_gpu as backend
from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu
from srtool.runtime.gpu.cuda import open_cuda
from srtool.runtime.gpu.machine import Library
from srtool.runtime.onnx_files import installed_backends, open_on
from srtool.runtime.opening import open_engine

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"

ON_GPU = OnnxRuntimeGpu("cuda")


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


class Sessions:
    """What stands for onnxruntime.InferenceSession. made: all of them. taken: the provider that
    is really used, empty for the one asked for. error: what running ends with, for how often.
    batches: how many tiles went in together."""

    def __init__(self, gpu: Any) -> None:
        self.gpu, self.made, self.taken = gpu, list[Any](), ""
        self.error, self.times, self.number = "", 0, 0
        self.batches: list[int] = []
        self.real = onnxruntime.InferenceSession

    def __call__(self, path: str, options: Any, providers: list[Any]) -> Any:
        if providers == [CPU]:
            return self.real(path, options, providers=providers)
        session = FakeSession(self, self.real(path, options, providers=[CPU]), providers)
        self.made.append(session)
        return session


class FakeSession:
    def __init__(self, owner: Sessions, real: Any, providers: list[Any]) -> None:
        self.owner, self.real, self.providers = owner, real, providers
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs
        self.options = providers[0][1]

    def get_providers(self) -> list[str]:
        return [self.owner.taken or self.providers[0][0], CPU]

    def io_binding(self) -> Any:
        return Binding(self.owner.number)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        key = "disable_synchronize_execution_providers"
        assert options.get_run_config_entry(key) == "1"
        if self.owner.times:
            self.owner.times -= 1
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {self.owner.error}")

        self.owner.batches.append(binding.given[4][0])

        def work() -> None:
            bound = self.real.io_binding()
            bound.bind_input(*binding.given)
            bound.bind_output(*binding.made)
            self.real.run_with_iobinding(bound)

        self.owner.gpu.kernel(int(self.options["user_compute_stream"]), "onnxruntime", work)


class Binding:
    def __init__(self, number: int) -> None:
        self.number = number

    def bind_input(self, name: str, device: str, number: int, *rest: Any) -> None:
        assert (device, number) == ("cuda", self.number)
        self.given = name, "cpu", 0, *rest

    def bind_output(self, name: str, device: str, number: int, *rest: Any) -> None:
        assert (device, number) == ("cuda", self.number)
        self.made = name, "cpu", 0, *rest


@pytest.fixture
def sessions(make_gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sessions:
    found = Sessions(make_gpu(capacity=1 << 30))
    providers = [TENSORRT, CUDA, CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", found)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "cache"))
    small = backend.Profile(min=(1, 1, 1), opt=(2, 16, 24), max=(8, 64, 64))
    monkeypatch.setattr(backend, "_PROFILES", {"cuda": small, "tensorrt": small})
    return found


@pytest.fixture
def network(nearest_onnx: Any) -> Any:
    """An .onnx file and its manifest. io: of its pixels."""

    def make(
        name: str = "x4.onnx", io: str = "uint8", precision: str = "fp32", **more: Any
    ) -> Path:
        path: Path = nearest_onnx(name, io=io)
        facts = ModelFacts.model_validate(
            {"scale": 4, "io": io, "precision": precision, "architecture": "", "halo": 2, **more}
        )
        manifest = Manifest(model=facts, sha256=sha256(path), opset=18, srtool="0", made="")
        write_manifest(path, manifest)
        return path

    return make


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("backend_name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_pixels(sessions: Sessions, network: Any, backend_name: Any, io: str) -> None:
    with open_engine(network(io=io), backend_name) as engine:
        for number, sides in enumerate([(40, 61), (16, 24), (5, 9)]):
            image = noise(*sides, number)
            assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))
    assert sessions.gpu.used == 0
    assert sessions.gpu.log.count("onnxruntime") > 3


@pytest.mark.parametrize("backend_name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_one_image_at_once(sessions: Sessions, network: Any, backend_name: Any) -> None:
    images = np.stack([noise(16, 24, number) for number in range(3)])
    with open_engine(network(batch=1, multiple_of=8), backend_name) as engine:
        assert np.array_equal(engine.upscale_batch(images), np.stack(list(map(enlarged, images))))
        assert np.array_equal(engine.upscale(noise(40, 61)), enlarged(noise(40, 61)))
    assert set(sessions.batches) == {1}


def test_each_lane_has_a_session_on_its_own_stream(sessions: Sessions, network: Any) -> None:
    engine = open_engine(network(), "onnxruntime-cuda")
    streams = {session.options["user_compute_stream"] for session in sessions.made}
    assert len(streams) == len(sessions.made) == 2
    assert {session.providers[0][0] for session in sessions.made} == {CUDA}
    assert sessions.made[0].options["use_tf32"] == "0"
    engine.close()


def test_the_tensorrt_provider_keeps_its_engines(sessions: Sessions, network: Any) -> None:
    open_engine(network(), "onnxruntime-tensorrt").close()
    options = sessions.made[0].options
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.parent.name == "onnxruntime-tensorrt"
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_fp16_enable"] == "0"
    assert options["trt_profile_opt_shapes"] == "image:2x16x24x3"
    assert options["trt_profile_max_shapes"] == "image:8x64x64x3"
    assert sessions.made[0].providers[1][0] == CUDA  # for what TensorRT cannot do
    open_engine(network("y.onnx", io="float32"), "onnxruntime-tensorrt").close()
    options = sessions.made[-1].options
    assert options["trt_fp16_enable"] == "0"
    assert options["trt_profile_min_shapes"] == "image:1x3x1x1"


def test_what_an_engine_is_kept_for(
    sessions: Sessions, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = network()
    facts = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="", halo=2)
    cuda: Any = open_cuda()
    keys = [backend.engine_key(path, facts, cuda)]
    assert backend.engine_key(path, facts, cuda) == keys[0]
    keys.append(backend.engine_key(path, facts.model_copy(update={"precision": "fp16"}), cuda))
    gpu = cuda.gpu
    for changes in ({"name": "Other"}, {"compute_capability": (9, 0)}, {"driver": "590.1"}):
        cuda.gpu = replace(gpu, **changes)
        keys.append(backend.engine_key(path, facts, cuda))
    cuda.gpu = gpu
    for version in ("10.13.3.9", "11.4.0.106"):
        library = Library("tensorrt", version)
        monkeypatch.setattr(backend, "library_of", lambda flavour, found=library: found)
        keys.append(backend.engine_key(path, facts, cuda))
    monkeypatch.setattr(onnxruntime, "__version__", "0.1")
    keys.append(backend.engine_key(path, facts, cuda))
    path.write_bytes(path.read_bytes() + b"\0")
    keys.append(backend.engine_key(path, facts, cuda))
    assert len(set(keys)) == len(keys) == 9


def test_a_provider_that_is_missing(
    sessions: Sessions, network: Any, monkeypatch: pytest.MonkeyPatch, complains: Any
) -> None:
    path = network()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with complains(EngineError, path, TENSORRT, "--force-reinstall --no-deps onnxruntime-gpu"):
        open_engine(path, "onnxruntime-tensorrt")
    assert sessions.gpu.used == 0


def test_a_provider_that_does_not_load(sessions: Sessions, network: Any, complains: Any) -> None:
    """ONNX Runtime would take another one instead and say nothing."""
    sessions.taken = CPU
    path = network()
    with complains(EngineError, path, CUDA, "does not load", "cuDNN"):
        open_engine(path, "onnxruntime-cuda")


def broken(folder: Path, provider: str) -> Path:
    """What an install leaves behind that has a provider and not what it needs."""
    capi = folder / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    prefix, suffix = ("", ".dll") if os.name == "nt" else ("lib", ".so")
    for part in ("shared", provider):
        (capi / f"{prefix}onnxruntime_providers_{part}{suffix}").write_bytes(b"no library")
    return folder / "onnxruntime" / "__init__.py"


def test_a_provider_without_its_libraries_is_not_there(
    sessions: Sessions,
    network: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complains: Any,
) -> None:
    """The default state after a plain install: never the end of an automatic choice."""
    monkeypatch.setattr(onnxruntime, "__file__", str(broken(tmp_path, "cuda")))
    path = network()
    assert ON_GPU not in installed_backends()
    assert CUDA in ON_GPU.missing()
    with open_engine(path) as engine:
        assert not engine.backend.on_gpu
    with complains(EngineError, path, CUDA, "does not load", "srtool doctor"):
        open_engine(path, "onnxruntime-cuda")


def test_a_driver_that_is_older_than_its_cuda(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.gpu.driver = 12080
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    assert "the driver serves CUDA 12.8" in ON_GPU.missing()
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.9")
    assert ON_GPU.missing() == ""


def test_tensorrt_would_narrow_float16_files(
    sessions: Sessions, network: Any, complains: Any
) -> None:
    with complains(EngineError, "fp16", "float32", "onnxruntime-cuda"):
        open_engine(network(precision="fp16"), "onnxruntime-tensorrt")
    assert sessions.gpu.used == 0


def test_another_gpu(sessions: Sessions, network: Any, complains: Any) -> None:
    sessions.gpu.count = 2
    with open_engine(network(), "onnxruntime-cuda", device=1) as engine:
        assert sessions.gpu.opened == 1
        assert {session.options["device_id"] for session in sessions.made} == {"1"}
        sessions.number = 1
        image = noise(16, 24)
        assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))
    with complains(EngineError, "number 2"):
        open_engine(network(), "onnxruntime-cuda", device=2)


def test_running_out_of_memory(sessions: Sessions, network: Any) -> None:
    engine = open_engine(network(), "onnxruntime-cuda")
    sessions.times = 1
    sessions.error = "BFCArena::AllocateRawInternal Available memory of 12 is smaller than 34"
    image = noise(40, 61)
    assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))
    (note,) = engine.notes()
    assert "2 tiles of 24x16" in note
    assert "1 tile of 24x16" in note
    engine.close()


def test_another_failure(sessions: Sessions, network: Any) -> None:
    engine = open_engine(network(), "onnxruntime-cuda")
    sessions.times, sessions.error = 99, "Non-zero status code returned while running Conv node"
    with pytest.raises(RuntimeError, match="Non-zero status"):
        engine.upscale_batch(noise(40, 61)[None])
    assert engine.notes() == []


def test_no_model(sessions: Sessions, tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "x4.onnx"
    path.write_bytes(b"nothing")
    facts = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="", halo=2)
    with complains(EngineError, path, "Fake GPU"):
        OnnxRuntimeGpu("cuda").open(path, facts)


# The choice


def test_it_is_among_the_backends_where_there_is_a_gpu(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ON_GPU in installed_backends()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    assert ON_GPU not in installed_backends()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(backend, "find_gpu", lambda device: None)
    assert ON_GPU not in installed_backends()


def test_by_name_without_a_manifest(sessions: Sessions, nearest_onnx: Any) -> None:
    engine = open_on(nearest_onnx(io="uint8"), ON_GPU)
    image = noise(16, 24)
    assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))


def test_auto_takes_it_where_it_is_the_fastest(
    sessions: Sessions, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"onnxruntime fp32": 3.0, "openvino fp32": 2.0, "onnxruntime-cuda": 0.5}
    monkeypatch.setattr(onnx_files, "installed_backends", lambda device: list(onnx_files.BACKENDS))
    monkeypatch.setattr(onnx_files, "_seconds", lambda path, facts, backend: seconds[str(backend)])
    with open_engine(network()) as engine:
        assert engine.backend == ON_GPU
        assert engine.reason == "4.00x as fast as the alternative on a trial tile"
    monkeypatch.undo()


def test_the_trial_gives_its_memory_back(sessions: Sessions, network: Any) -> None:
    facts = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="", halo=2)
    assert onnx_files._seconds(network(), facts, ON_GPU) < float("inf")
    assert sessions.gpu.used == 0
