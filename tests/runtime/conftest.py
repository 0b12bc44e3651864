"""Engines that repeat pixels, so that what comes out is known exactly; GPUs that do not exist."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.manifest import ModelFacts
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.session import DirectSession

MakeEngine = Callable[..., Engine]


def neighbour(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


fake_cuda, fake_tensorrt = neighbour("fake_cuda"), neighbour("fake_tensorrt")
MakeOnnx = Callable[..., Path]


def repeated(batch: NDArray[Any], io: str) -> NDArray[Any]:
    first = 1 if io == "uint8" else 2
    return batch.repeat(4, first).repeat(4, first + 1)


@pytest.fixture
def nearest() -> MakeEngine:
    """An x4 engine of numpy. before: called with each batch; it may wait, check or raise."""

    def make(
        before: Callable[[NDArray[Any]], object] = lambda batch: None,
        companion: bool = True,
        **facts: Any,
    ) -> Engine:
        given = {"scale": 4, "io": "uint8", "precision": "fp32", "architecture": "test", "halo": 2}
        model = ModelFacts.model_validate({**given, **facts})

        def session_of(facts: ModelFacts) -> DirectSession:
            io = facts.io

            def run(batch: NDArray[Any]) -> NDArray[Any]:
                assert batch.dtype == (np.uint8 if io == "uint8" else np.float32)
                assert batch.shape[3 if io == "uint8" else 1] == 3
                assert batch.flags.c_contiguous
                before(batch)
                return repeated(batch, io)

            return DirectSession(facts, run)

        floats = model.model_copy(update={"io": "float32"})
        open_companion = (lambda: session_of(floats)) if companion else None
        info = EngineInfo(Path("x4.onnx"), model, OnnxRuntime())
        return Engine(info, session_of(model), open_companion)

    return make


@pytest.fixture
def nearest_onnx(tmp_path: Path) -> MakeOnnx:
    """A file of someone else that repeats pixels, without manifest or metadata.

    io: pixels in and out. sides, batch, channels: of the input, names for free ones. extra: nodes
    between the input `x` and `y`, which is upscaled.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def make(
        name: str = "foreign.onnx",
        io: str = "float32",
        scale: int = 4,
        sides: tuple[Any, Any] = ("h", "w"),
        channels: int = 3,
        extra: Any = None,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        bytewise = io == "uint8"
        kind = TensorProto.UINT8 if bytewise else TensorProto.FLOAT

        def shape(prefix: str) -> list[Any]:
            plane = [prefix + side if isinstance(side, str) else side for side in sides]
            return ["n", *plane, channels] if bytewise else ["n", channels, *plane]

        nodes = list(extra) if extra else [helper.make_node("Identity", ["x"], ["y"])]
        scales = np.array([1, 1, scale, scale], np.float32)
        resize = helper.make_node(
            "Resize",
            ["y", "", "scales"],
            ["z"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        if bytewise:
            nodes = [
                helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Transpose", ["wide"], ["x"], perm=[0, 3, 1, 2]),
                *nodes,
                resize,
                helper.make_node("Transpose", ["z"], ["back"], perm=[0, 2, 3, 1]),
                helper.make_node("Cast", ["back"], ["large"], to=TensorProto.UINT8),
            ]
        else:
            entry = helper.make_node("Identity", ["image"], ["x"])
            nodes = [entry, *nodes, resize, helper.make_node("Identity", ["z"], ["large"])]
        graph = helper.make_graph(
            nodes,
            "nearest",
            [helper.make_tensor_value_info("image", kind, shape(""))],
            [helper.make_tensor_value_info("large", kind, ["n", "a", "b", "c"])],
            [numpy_helper.from_array(scales, "scales")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def make_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give this machine a fake GPU, see `fake_cuda.FakeGpu`. library: what reaches it."""

    def make(library: str = "cuda-python", **facts: Any) -> Any:
        from srtool.runtime.gpu import cuda, devices

        gpu = fake_cuda.FakeGpu(**facts)
        driver = fake_cuda.DriverLibrary(gpu)
        for module in (cuda, devices):
            monkeypatch.setattr(module, "driver_library", lambda: driver)
        monkeypatch.setattr(devices, "driver_version", lambda: "580.65.06")
        present = "cuda.bindings" if library == "cuda-python" else "pycuda"
        monkeypatch.setattr(cuda, "_is_installed", lambda module: module == present)
        face = fake_cuda.cuda_python(gpu)
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", package("cuda.bindings", driver=face))
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", face)
        face = fake_cuda.pycuda(gpu)
        monkeypatch.setitem(sys.modules, "pycuda", package("pycuda", driver=face))
        monkeypatch.setitem(sys.modules, "pycuda.driver", face)
        monkeypatch.setitem(sys.modules, "pycuda.autoinit", None)  # ImportError for who tries
        return gpu

    return make


def package(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module


@pytest.fixture
def make_plan(
    tmp_path: Path, make_gpu: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A fake GPU with a fake TensorRT of a generation, and a plan for both with its manifest.

    `made = make("10.13", seed=3, capacity=..., library=..., io=..., profiles=...)` gives .path,
    .facts, .flavour, .gpu and .tensorrt.
    """

    def make(generation: str = "11", name: str = "x4.plan", **wanted: Any) -> Any:
        from types import SimpleNamespace

        from srtool.files import sha256
        from srtool.manifest import Manifest, PlanFacts, PlanRecipe, write_manifest
        from srtool.runtime import plan_files
        from srtool.runtime.gpu.machine import Library, Machine

        chosen = {key: wanted.pop(key) for key in ("library", "capacity", "seed") if key in wanted}
        gpu = wanted.pop("gpu", None) or make_gpu(**chosen)
        told = {key: wanted.pop(key) for key in ("halo", "multiple_of") if key in wanted}
        flavour = "tensorrt-rtx" if generation.startswith("rtx") else "tensorrt"
        module = fake_tensorrt.tensorrt(generation, gpu)
        version = fake_tensorrt.VERSIONS[generation]
        for place in ("tensorrt", "tensorrt_rtx_libs", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, place, module)
        path = fake_tensorrt.write_plan(tmp_path / name, generation, **wanted)
        facts = ModelFacts.model_validate(
            {
                "scale": wanted.get("scale", 4),
                "io": wanted.get("io", "uint8"),
                "precision": "fp16",
                "architecture": "test",
                "halo": 2,
                "weights_sha256": "w",
                **told,
            }
        )
        plan = PlanFacts(
            recipe=PlanRecipe(flavour=flavour),
            onnx="x4.onnx",
            onnx_sha256="",
            version=version,
            cuda=13,
            compute=("8.9",),
            gpu="",
            driver="",
            platform=Machine().platform,
            flags=(),
            seconds=1.0,
            key="",
        )
        manifest = Manifest(
            model=facts, sha256=sha256(path), opset=18, srtool="0", made="", plan=plan
        )
        write_manifest(path, manifest)
        here = Machine(
            gpu.name, "8.9", "580.65.06", gpu.capacity, libraries={
                flavour: Library(flavour, version, 13)
            }
        )  # fmt: skip
        monkeypatch.setattr(plan_files, "this_machine", lambda device=0: here)
        monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "cache"))
        return SimpleNamespace(
            path=path,
            facts=facts,
            flavour=flavour,
            gpu=gpu,
            tensorrt=module,
            manifest=manifest,
            here=here,
        )

    return make
