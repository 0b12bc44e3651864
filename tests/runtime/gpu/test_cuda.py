"""The few functions of CUDA, alike through both libraries, in one context that others share."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError
from srtool.runtime.gpu import cuda as module
from srtool.runtime.gpu import devices
from srtool.runtime.gpu.cuda import CudaError, OutOfMemory, find_gpu, open_cuda
from srtool.runtime.gpu.devices import driver_library

LIBRARIES = ["cuda-python", "PyCUDA"]


@pytest.fixture(params=LIBRARIES)
def gpu(request: pytest.FixtureRequest, make_gpu: Callable[..., Any]) -> Any:
    return make_gpu(request.param, capacity=1000)


def test_what_it_is(gpu: Any) -> None:
    found = find_gpu()
    assert found is not None
    assert (found.name, found.compute_capability) == ("Fake GPU", (8, 9))
    assert (found.memory, found.cuda, found.driver) == (1000, (13, 0), "580.65.06")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_library_that_is_installed(make_gpu: Any, library: str) -> None:
    make_gpu(library)
    assert open_cuda().library == library


def test_pycuda_comes_first(make_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_gpu()
    monkeypatch.setattr(module, "_is_installed", lambda name: True)
    assert open_cuda().library == "PyCUDA"
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)  # built for something else
    assert open_cuda().library == "cuda-python"


def test_up_and_down_again(gpu: Any) -> None:
    cuda = open_cuda()
    random = np.random.default_rng(0)
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()
        buffer, given, made = cuda.allocate(100), cuda.pinned(100), cuda.pinned(100)
        assert cuda.free_memory() == 900
        given[:] = random.integers(0, 256, 100)
        cuda.upload(buffer, given, stream)
        cuda.download(made[:60], buffer, stream)
        cuda.record(event, stream)
        assert gpu.log == []  # nothing has happened yet
        cuda.synchronize(event)
        assert gpu.log == ["upload", "download"]
        assert np.array_equal(made[:60], given[:60])
        assert (made[60:] == 0xA5).all()
        assert cuda.is_over(event)
        cuda.release(buffer)
        cuda.unpin(given)
        cuda.unpin(made)
        cuda.destroy(stream=stream, event=event)
        assert cuda.free_memory() == 1000
    assert gpu.host == {}


def test_the_gpu_tells_the_time(gpu: Any) -> None:
    cuda = open_cuda()
    with cuda.current():
        stream, start, end = cuda.stream(), cuda.event(), cuda.event()
        cuda.record(start, stream)
        gpu.kernel(cuda.handle(stream), "kernel", lambda: None)
        cuda.record(end, stream)
        cuda.synchronize(end)
        assert cuda.seconds(start, end) == pytest.approx(0.001)


def test_graphs(gpu: Any) -> None:
    cuda = open_cuda()
    count = []
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()

        def enqueue() -> None:
            gpu.kernel(cuda.handle(stream), "kernel", lambda: count.append(1))

        graph = cuda.capture(stream, enqueue)
        for _ in range(3):
            cuda.launch(graph, stream)
        cuda.record(event, stream)
        assert count == []
        cuda.synchronize(event)
        assert len(count) == 3
        cuda.destroy(graph=graph)
    assert gpu.graphs == {}


def test_a_capture_that_fails_leaves_the_stream_usable(gpu: Any) -> None:
    cuda = open_cuda()
    count = []
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()

        def fail() -> None:
            raise CudaError("cannot be captured")

        with pytest.raises(CudaError, match="cannot be captured"):
            cuda.capture(stream, fail)
        gpu.kernel(cuda.handle(stream), "kernel", lambda: count.append(1))
        cuda.record(event, stream)
        cuda.synchronize(event)
    assert count == [1]


def test_too_little_memory_is_an_error_of_its_own(gpu: Any) -> None:
    cuda = open_cuda()
    with cuda.current():
        buffer = cuda.allocate(600)
        with pytest.raises(OutOfMemory) as caught:
            cuda.allocate(500)
        assert "\n" not in str(caught.value)
        cuda.release(buffer)
        cuda.release(cuda.allocate(1000))


def test_other_errors_are_one_line(gpu: Any) -> None:
    cuda = open_cuda()
    with cuda.current():
        stream, event = cuda.stream(), cuda.event()
        cuda.record(event, stream)
        gpu.pending_error = 700
        with pytest.raises(CudaError) as caught:
            cuda.synchronize(event)
    assert not isinstance(caught.value, OutOfMemory)
    assert "700" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_left_current(gpu: Any) -> None:
    cuda = open_cuda()
    assert gpu.contexts == []
    with cuda.current(), cuda.current():
        assert len(gpu.contexts) == 2
    with pytest.raises(ZeroDivisionError), cuda.current():
        1 / 0  # noqa: B018
    assert gpu.contexts == []
    with pytest.raises(CudaError):
        cuda.allocate(1)


def test_the_context_of_torch_is_shared(gpu: Any) -> None:
    gpu.contexts.append(0xC0DE)  # the primary one
    with open_cuda().current():
        assert set(gpu.contexts) == {0xC0DE}


def test_a_second_context_is_refused(gpu: Any, complains: Any) -> None:
    gpu.contexts.append(0xBAD)
    with complains(EngineError, "pycuda.autoinit", "primary"):
        open_cuda()


def test_no_driver(make_gpu: Any, monkeypatch: pytest.MonkeyPatch, complains: Any) -> None:
    make_gpu()
    monkeypatch.setattr(devices, "driver_library", lambda: None)
    assert find_gpu() is None
    with complains(EngineError, "driver"):
        open_cuda()


def test_no_library(make_gpu: Any, monkeypatch: pytest.MonkeyPatch, complains: Any) -> None:
    make_gpu()
    monkeypatch.setattr(module, "_is_installed", lambda name: False)
    with complains(EngineError, "pip install cuda-python"):
        open_cuda()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_that_does_not_reach_the_gpu(
    make_gpu: Any, monkeypatch: pytest.MonkeyPatch, complains: Any, library: str
) -> None:
    make_gpu(library)
    face: Any = sys.modules["cuda.bindings.driver"]
    monkeypatch.setattr(face, "cuInit", lambda flags: (100,))

    def fail() -> None:
        raise sys.modules["pycuda.driver"].Error("no device")

    monkeypatch.setattr(sys.modules["pycuda.driver"], "init", fail)
    with complains(EngineError, library, "Fake GPU"):
        open_cuda()


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_of_several(make_gpu: Any, complains: Any, library: str) -> None:
    gpu = make_gpu(library)
    gpu.count = 3
    assert open_cuda(2).gpu.number == gpu.opened == 2
    with complains(EngineError, "number 3", "2 (Fake GPU)"):
        open_cuda(3)


def test_the_real_library_has_these_functions() -> None:
    """cuda-python installs without a driver, so that at least the names can be looked up."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    text = inspect.getsource(module.CudaPython)
    names = set(re.findall(r'"(cu[A-Z]\w+)"', text)) | set(re.findall(r"_driver\.(cu\w+)", text))
    assert len(names) > 20
    assert [name for name in names if not hasattr(driver, name)] == []


def test_without_a_driver_it_says_so() -> None:
    if driver_library() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    code = (
        "from srtool.runtime.gpu.cuda import find_gpu\nimport sys\n"
        "print(find_gpu(), 'cuda.bindings.driver' in sys.modules, 'pycuda' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False False\n"
