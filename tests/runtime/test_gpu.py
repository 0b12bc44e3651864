"""On a real GPU, where there is one: CUDA, and every engine that can be built here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.manifest import Flavour, PlanRecipe, Profile
from srtool.runtime.gpu import cuda as cuda_module
from srtool.runtime.gpu.cuda import Cuda, find_gpu, open_cuda
from srtool.runtime.gpu.machine import this_machine
from srtool.runtime.opening import open_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        find_gpu() is None, reason="needs an NVIDIA GPU, its driver and cuda-python"
    ),
]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture(params=["PyCUDA", "cuda-python"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    if request.param == "cuda-python":
        installed = cuda_module._is_installed
        monkeypatch.setattr(cuda_module, "_is_installed", lambda x: x != "pycuda" and installed(x))
    try:
        found = open_cuda()
    except EngineError as error:
        pytest.skip(str(error))
    if found.library != request.param:
        pytest.skip(f"{request.param} is not installed")
    return found


def test_up_and_down(cuda: Cuda) -> None:
    random = np.random.default_rng(0)
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()
        buffer, given, made = cuda.allocate(1 << 24), cuda.pinned(1 << 24), cuda.pinned(1 << 24)
        given[:] = random.integers(0, 256, given.size)
        cuda.upload(buffer, given, stream)
        cuda.download(made, buffer, stream)
        cuda.record(event, stream)
        cuda.synchronize(event)
        assert np.array_equal(given, made)
        cuda.release(buffer)
        cuda.unpin(given)
        cuda.unpin(made)
        cuda.destroy(stream=stream, event=event)


def test_graphs_and_time(cuda: Cuda) -> None:
    with cuda.current():
        stream, start, end = cuda.stream(), cuda.event(), cuda.event()
        buffer, given, made = cuda.allocate(1 << 20), cuda.pinned(1 << 20), cuda.pinned(1 << 20)

        def enqueue() -> None:
            cuda.upload(buffer, given, stream)
            cuda.download(made, buffer, stream)

        graph = cuda.capture(stream, enqueue)
        for level in (7, 9):
            given[:] = level
            cuda.record(start, stream)
            cuda.launch(graph, stream)
            cuda.record(end, stream)
            cuda.synchronize(end)
            assert (made == level).all()
            assert 0 < cuda.seconds(start, end) < 1
        cuda.destroy(graph=graph)


def test_too_much_memory(cuda: Cuda) -> None:
    with cuda.current():
        free = cuda.free_memory()
        with pytest.raises(cuda_module.OutOfMemory):
            cuda.allocate(2 * cuda.gpu.memory)
        assert abs(cuda.free_memory() - free) < 1 << 28


def test_one_context_with_torch(cuda: Cuda) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA here")
    tensor = torch.arange(1000, device="cuda")
    with cuda.current():
        cuda.release(cuda.allocate(1000))
        assert int(tensor.sum()) == 499500
    assert int((tensor + 1).sum()) == 500500


PROFILE = Profile(min=(1, 16, 16), opt=(4, 64, 96), max=(4, 128, 128))


@pytest.mark.parametrize("flavour", get_args(Flavour))
def test_plans(nearest_onnx: Any, tmp_path: Path, flavour: Flavour) -> None:
    from srtool.export.tensorrt.plans import export_plan, source_from_onnx

    here = this_machine()
    if flavour not in here.libraries:
        pytest.skip(f"{flavour} is not installed")
    recipe = PlanRecipe(flavour=flavour, profiles=(PROFILE,))
    path = tmp_path / "x4.plan"
    try:
        export_plan(source_from_onnx(nearest_onnx(io="uint8")), path, recipe, here)
        engine = open_engine(path)
    except (EngineError, UsageError) as error:
        pytest.skip(str(error))
    with engine:
        for number, sides in enumerate([(300, 500), (64, 96), (20, 33), (700, 64)]):
            image = noise(*sides, number)
            assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))
        many = [noise(64, 96, number) for number in range(60)]
        made: list[NDArray[Any]] = []
        for image in many:
            engine.submit(image, lambda found: made.append(np.array(found)))
        engine.flush()
        assert all(np.array_equal(x, enlarged(image)) for x, image in zip(made, many, strict=True))
        assert engine.busy > 0


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_onnxruntime(nearest_onnx: Any, backend: Any) -> None:
    try:
        engine = open_engine(nearest_onnx(io="uint8"), backend)
    except EngineError as error:
        pytest.skip(str(error))
    with engine:
        for number, sides in enumerate([(300, 500), (256, 256), (20, 33)]):
            image = noise(*sides, number)
            assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))
