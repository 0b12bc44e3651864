"""Whether a plan runs on a machine: told by its manifest, the driver and the packages alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srtool.errors import EngineError
from srtool.files import sha256
from srtool.manifest import (
    Manifest,
    ModelFacts,
    PlanFacts,
    PlanRecipe,
    Profile,
    sidecar,
    uncertified_reason,
    write_manifest,
)
from srtool.runtime.gpu import machine as machine_module
from srtool.runtime.gpu.machine import Library, Machine, library_of, load_library, this_machine
from srtool.runtime.plan_files import plan_facts, rebuild_command, rebuild_reasons, unrunnable

MODEL = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="test", halo=4)
RTX_4090 = Machine("NVIDIA GeForce RTX 4090", "8.9", "580.65.06", 24 << 30, "linux x86_64")


def plan_of(flavour: Any = "tensorrt", version: str = "10.9.0", **changes: Any) -> PlanFacts:
    own = set(PlanRecipe.model_fields) - set(PlanFacts.model_fields)
    recipe = {name: changes.pop(name) for name in own if name in changes}
    facts: dict[str, Any] = {
        "recipe": PlanRecipe(flavour=flavour, **recipe),
        "onnx": "x4.onnx",
        "onnx_sha256": "0" * 64,
        "version": version,
        "cuda": 12,
        "compute": ("8.9",),
        "gpu": RTX_4090.gpu,
        "driver": RTX_4090.driver,
        "platform": "linux x86_64",
        "flags": ("-TF32",),
        "seconds": 1.0,
        "key": "key",
    }
    return PlanFacts(**{**facts, **changes})


def machine(base: Machine = RTX_4090, **versions: str) -> Machine:
    libraries = {
        name.replace("_", "-"): Library(name.replace("_", "-"), version, 12)  # type: ignore[arg-type]
        for name, version in versions.items()
    }
    values = {**vars(base), "libraries": libraries}
    return Machine(**values)


@pytest.mark.parametrize(
    ("plan", "here"),
    [
        (plan_of(), machine(tensorrt="10.9.0")),
        (plan_of(version_compatible=True), machine(tensorrt="10.13.0")),
        (plan_of(version_compatible=True), machine(tensorrt="11.1.0")),
        (plan_of(version="8.6.1", version_compatible=True), machine(tensorrt="10.0.1")),
        (plan_of(hardware_compatible=True, compute=("8.0",)), machine(tensorrt="10.9.0")),
        (
            plan_of("tensorrt-rtx", "1.7.1.116", compute=("7.5", "8.9"), platform="win32 amd64"),
            machine(tensorrt_rtx="1.7.1.116"),
        ),
        (plan_of(driver="550.1", gpu="another"), machine(tensorrt="10.9.0")),
    ],
)
def test_plans_that_run(plan: PlanFacts, here: Machine) -> None:
    assert unrunnable(plan, here) is None


@pytest.mark.parametrize(
    ("plan", "here", "words"),
    [
        (plan_of(), machine(Machine(), tensorrt="10.9.0"), ["no NVIDIA GPU"]),
        (plan_of(), RTX_4090, ["TensorRT is not installed", "pip install 'srtool[gpu]'"]),
        (
            plan_of("tensorrt-rtx", "1.7.1.116"),
            machine(tensorrt="10.9.0"),
            ["TensorRT-RTX is not installed", "srtool[rtx]"],
        ),
        (
            plan_of(compute=("8.6",)),
            machine(tensorrt="10.9.0"),
            ["capability 8.6", "RTX 4090 has 8.9"],
        ),
        (plan_of(), machine(tensorrt="10.13.0"), ["10.9.0", "10.13.0 is installed"]),
        (plan_of(version_compatible=True), machine(tensorrt="10.8.0"), ["10.8.0 is installed"]),
        (
            plan_of(version="8.6.1", version_compatible=True),
            machine(tensorrt="11.1.0"),
            ["8.6.1", "11.1.0"],
        ),
        (plan_of(platform="win32 amd64"), machine(tensorrt="10.9.0"), ["win32", "linux x86_64"]),
        (
            plan_of(compute=("7.5",), hardware_compatible=True),
            machine(Machine("T4", "7.5", "550.1"), tensorrt="10.9.0"),
            ["7.5"],
        ),
        (
            plan_of(),
            machine(Machine("RTX 4090", "8.9", "470.1", 0, "linux x86_64"), tensorrt="10.9.0"),
            ["driver is 470.1", "525", "CUDA 12"],
        ),
        (plan_of(stripped=True), machine(tensorrt="10.9.0"), ["no weights", "engine refit"]),
    ],
)
def test_plans_that_do_not_run(plan: PlanFacts, here: Machine, words: list[str]) -> None:
    reason = unrunnable(plan, here)
    assert reason is not None
    assert [word for word in words if word not in reason] == []


def test_what_asks_for_a_new_plan(tmp_path: Path) -> None:
    source = tmp_path / "x4.onnx"
    source.write_bytes(b"onnx")
    plan = plan_of(onnx_sha256=sha256(source))
    assert rebuild_reasons(plan, machine(tensorrt="10.9.0"), tmp_path) == {}
    source.write_bytes(b"another")
    other = Machine("NVIDIA GeForce RTX 3090", "8.6", "590.1")
    found = rebuild_reasons(plan, machine(other, tensorrt="10.13.0"), tmp_path)
    assert found.keys() == {"version", "compute", "gpu", "driver", "onnx"}
    # One that was built for named classes is not of any machine.
    named = plan_of("tensorrt-rtx", "1.7", gpus=("sm89",), gpu="", driver="")
    assert rebuild_reasons(named, machine(other, tensorrt_rtx="1.7"), tmp_path / "none") == {}


def test_the_command_that_rebuilds() -> None:
    path, here = Path("x4.plan"), machine(tensorrt="10.9.0")
    assert rebuild_command(path, plan_of(), here) == "srtool engine rebuild x4.plan"
    named = plan_of("tensorrt-rtx", gpus=("sm86",), compute=("8.6",))
    assert rebuild_command(path, named, here) == "srtool engine rebuild x4.plan --gpu local"
    assert rebuild_command(path, named, Machine()) == "srtool engine rebuild x4.plan"


# Files


def written(path: Path, plan: PlanFacts | None) -> Path:
    path.write_bytes(b"plan")
    manifest = Manifest(model=MODEL, sha256=sha256(path), opset=18, srtool="0", made="", plan=plan)
    write_manifest(path, manifest)
    return path


def test_facts_of_a_plan(tmp_path: Path) -> None:
    plan = plan_of(profiles=(Profile(min=(1, 8, 8), opt=(2, 16, 16), max=(4, 32, 32)),))
    path = written(tmp_path / "x4.plan", plan)
    manifest, found = plan_facts(path)
    assert (manifest.model, found) == (MODEL, plan)
    assert str(found.recipe.profiles[0]) == "1x8x8,2x16x16,4x32x32"


def test_plans_without_facts(tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "x4.plan"
    with complains(EngineError, path, "no such plan", "srtool export"):
        plan_facts(path)
    path.write_bytes(b"plan")
    with complains(EngineError, path, "x4.plan.json is missing"):
        plan_facts(path)
    written(path, plan_of()).write_bytes(b"damaged")
    with complains(EngineError, path, "damaged", f"srtool engine rebuild {path}"):
        plan_facts(path)
    with complains(EngineError, path, "not that of a TensorRT plan"):
        plan_facts(written(path, None))
    sidecar(path).write_text("{}")
    with complains(EngineError, sidecar(path), "no manifest"):
        plan_facts(path)


@pytest.mark.parametrize(
    "shapes",
    [
        {"min": (1, 16, 16), "opt": (1, 8, 16), "max": (1, 32, 32)},
        {"min": (0, 16, 16), "opt": (1, 16, 16), "max": (1, 32, 32)},
        {"min": (1, 16, 16), "opt": (2, 16, 16), "max": (1, 32, 32)},
    ],
)
def test_profiles_that_do_not_grow(shapes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="min <= opt <= max"):
        Profile.model_validate(shapes)


def test_why_a_plan_is_not_certified(tmp_path: Path) -> None:
    plan = plan_of(not_certified="built without a GPU")
    manifest, _ = plan_facts(written(tmp_path / "x4.plan", plan))
    doubt = uncertified_reason(manifest, "tensorrt fp16")
    assert doubt.startswith("built without a GPU; `srtool verify`")


# This machine


def test_the_gpu_that_cuda_names(make_gpu: Any, complains: Any) -> None:
    gpu = make_gpu(capacity=24 << 30)
    gpu.count, gpu.capability = 2, (10, 3)
    here = this_machine(1)
    assert (here.gpu, here.compute, here.driver) == ("Fake GPU", "10.3", "580.65.06")
    assert (here.memory, here.cuda) == (24 << 30, (13, 0))
    with complains(EngineError, "number 2", "expected one of 0"):
        this_machine(2)


@pytest.mark.parametrize(
    ("state", "visible", "words"),
    [
        ({"broken": 803}, None, ["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "nvidia-smi"]),
        ({"broken": 999}, None, ["CUDA error 999"]),
        ({"broken": 100}, None, ["finds no GPU"]),
        ({"broken": 100}, "7", ["finds no GPU", "CUDA_VISIBLE_DEVICES=7"]),
        ({"count": 0}, "", ["finds no GPU", "CUDA_VISIBLE_DEVICES="]),
    ],
)
def test_why_there_is_no_gpu(
    make_gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    state: dict[str, int],
    visible: str | None,
    words: list[str],
) -> None:
    vars(make_gpu()).update(state)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    here = this_machine()
    assert here.gpu == ""
    assert all(word in here.no_gpu for word in words)
    assert unrunnable(plan_of(), here) == here.no_gpu


def test_libraries_are_found_by_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Any
) -> None:
    if library_of("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with complains(EngineError, "TensorRT is not installed", "srtool[gpu]"):
        load_library("tensorrt")
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.1.6'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert library_of("tensorrt") == Library("tensorrt", "8.6.1.6", 0)
    package = tmp_path / "tensorrt_cu12_bindings-10.9.0.34.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: tensorrt-cu12-bindings\nVersion: 10.9.0.34\n")
    assert library_of("tensorrt") == Library("tensorrt", "10.9.0.34", 12)
    sys.modules.pop("tensorrt", None)  # for good, where monkeypatch would put it back
    (tmp_path / "tensorrt.py").write_text("import ctypes; ctypes.CDLL('libnvinfer.so.none')\n")
    with complains(EngineError, "does not load", "libnvinfer"):
        load_library("tensorrt")
    sys.modules.pop("tensorrt", None)  # for good, where monkeypatch would put it back


def test_libraries_for_8_6_are_loaded_out_of_their_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, library in (("cudnn", "libcudnn.so.8"), ("cublas", "libcublas.so.12")):
        folder = tmp_path / "nvidia" / package / "lib"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / library).touch()
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.1'\n")
    package_info = tmp_path / "tensorrt-8.6.1.dist-info"
    package_info.mkdir()
    (package_info / "METADATA").write_text("Name: tensorrt\nVersion: 8.6.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("nvidia", "tensorrt")]:
        monkeypatch.delitem(sys.modules, name)
    loaded: list[str] = []
    monkeypatch.setattr(
        machine_module.ctypes, "CDLL", lambda name, mode: loaded.append(Path(name).name)
    )
    assert load_library("tensorrt").__version__ == "8.6.1"
    assert {"libcublas.so.12", "libcudnn.so.8"} <= set(loaded)
    sys.modules.pop("tensorrt", None)


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from srtool.runtime.gpu import machine; machine.this_machine();"
        "print([m for m in sys.modules if m in ('torch', 'tensorrt', 'numpy', 'onnx')"
        " or m.startswith('tensorrt_rtx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
