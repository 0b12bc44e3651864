"""`srtool doctor`: what this machine does, and the recipe for a GPU that is elsewhere."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.export.flops import GENERATORS
from srtool.export.tensorrt.doctor import abilities, advice, estimates, parts
from srtool.export.tensorrt.gpus import SUPPORT, Target, target_from_text
from srtool.export.tensorrt.installing import constraints_text, readme_text
from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu
from srtool.runtime.gpu import machine as machine_module
from srtool.runtime.gpu.machine import Library, Machine

RTX = {"tensorrt-rtx": Library("tensorrt-rtx", "1.7.1.116", 13)}
BOTH = {**RTX, "tensorrt": Library("tensorrt", "10.9.0", 12)}
ADA = Machine("NVIDIA GeForce RTX 4090", "8.9", "580.65.06")

Run = Callable[..., tuple[Any, str, str]]


@pytest.fixture
def run(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    """That of conftest, on a machine."""

    def command(*arguments: object, here: Machine | None = None) -> tuple[Any, str, str]:
        if here is not None:
            monkeypatch.setattr(machine_module, "this_machine", lambda device=0: here)
        found = run(*arguments)
        return found.code, found.out, found.err

    return command


def with_libraries(machine: Machine, libraries: Any) -> Machine:
    return Machine(machine.gpu, machine.compute, machine.driver, libraries=libraries)


def test_this_machine(run: Run) -> None:
    code, out, err = run("doctor", here=Machine(libraries=RTX))  # type: ignore[arg-type]
    assert (code, err) == (0, "")
    assert "GPU: none" in out
    assert re.search(r"ONNX Runtime +\d", out)
    assert re.search(r"TensorRT +missing .* pip install 'srtool\[gpu\]'", out)
    assert re.search(r"TensorRT-RTX +1\.7\.1\.116", out)
    assert "runs .onnx files on OpenVINO and ONNX Runtime" in out
    assert "builds plans of TensorRT-RTX for sm75, sm80, sm86, sm89, sm120, sm121" in out
    assert "runs no plan: no NVIDIA GPU" in out


def test_a_machine_with_a_gpu(run: Run) -> None:
    code, out, _ = run("doctor", here=with_libraries(ADA, BOTH))
    assert code == 0
    assert "GPU: NVIDIA GeForce RTX 4090, compute capability 8.9, driver 580.65.06" in out
    assert "of TensorRT for sm89" in out.replace("plans of ", "of ")
    assert "estimate" in out  # the recipe for it follows


@pytest.mark.parametrize(
    ("here", "line"),
    [
        (Machine(), "builds no plan"),
        (Machine(), "runs no plan: no NVIDIA GPU, or no driver for it"),
        (with_libraries(ADA, {}), "runs no plan: see what is missing above"),
        (with_libraries(Machine("H100", "9.0", "580.1"), RTX), "runs no plan: see what is missing"),
    ],
)
def test_abilities(here: Machine, line: str) -> None:
    assert any(found.startswith(line) for found in abilities(here)), abilities(here)


def test_what_is_missing_has_its_command() -> None:
    here = Machine("NVIDIA GeForce GTX 1080 Ti", "6.1", "580.1")
    found = {part.name: part for part in parts(here)}
    for name in ("TensorRT", "CUDA for Python", "ONNX Runtime"):  # one command brings all
        assert name not in found or "'tensorrt==8.6.1.post1'" in found[name].command
    assert found["TensorRT-RTX"].command == "pip install 'srtool[rtx]'"
    assert all(part.command.startswith("pip install '") for part in found.values())


@pytest.mark.parametrize(
    ("gpu", "driver", "extra"),
    [
        ("8.9", "580.65.06", "gpu"),
        ("8.9", "591.1", "gpu"),
        ("8.9", "570.10", "gpu-cu12"),
        ("8.9", "525.60.13", "gpu-cu12"),
        ("8.9", "", "gpu"),  # nobody can tell
        ("10.3", "580.1", "gpu"),
        ("", "", "cpu"),
    ],
)
def test_the_extra_that_fits_the_driver(gpu: str, driver: str, extra: str) -> None:
    here = Machine("a GPU", gpu, driver) if gpu else Machine()
    found = {part.name: part.command for part in parts(here)}
    assert found["ONNX Runtime"] == f"pip install 'srtool[{extra}]'"
    if gpu:
        assert found["TensorRT"] == found["CUDA for Python"] == found["ONNX Runtime"]


def test_a_driver_that_is_too_old() -> None:
    found = {part.name: part for part in parts(Machine("a GPU", "8.9", "470.1"))}
    assert found["TensorRT"].command.startswith("update the driver to R580")


@pytest.mark.parametrize(
    ("installed", "said"),
    [(("onnxruntime",), False), (("onnxruntime-gpu",), False),
     (("onnxruntime", "onnxruntime-gpu"), True)],
)  # fmt: skip
def test_both_onnxruntimes(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: tuple[str, ...],
    said: bool,
) -> None:
    for name in installed:
        package = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Name: {name}\nVersion: 1.31.1\n")
    find = importlib.metadata.distributions
    monkeypatch.setattr(
        "srtool.export.tensorrt.installing.metadata.distributions",
        lambda **names: find(path=[str(tmp_path)], **names),
    )
    _, out, _ = run("doctor", here=Machine())
    command = "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1"
    assert (command in out) == said


def test_a_provider_that_does_not_load_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "CUDAExecutionProvider does not load (libcudnn.so.9)"
    monkeypatch.setattr(OnnxRuntimeGpu, "missing", lambda self: missing)
    assert missing in run("doctor", here=ADA)[1]
    assert missing not in run("doctor", here=Machine())[1]


def test_the_recipe_is_written(run: Run, tmp_path: Path) -> None:
    code, _, _ = run("doctor", "--gpu", "GTX 1080 Ti", "--write", tmp_path / "recipe")
    assert code == 0
    constraints = (tmp_path / "recipe" / "constraints.txt").read_text().splitlines()
    assert "tensorrt==8.6.1.post1" in constraints
    assert "nvidia-cudnn-cu12==8.9.7.29" in constraints
    steps = (tmp_path / "recipe" / "README.md").read_text()
    assert "pip install -c constraints.txt path/to/srtool tensorrt nvidia-cudnn-cu12" in steps
    assert "srtool export x4.onnx --flavour tensorrt --precision fp32" in steps
    code, _, err = run("doctor", "--write", tmp_path)
    assert code == 2
    assert "--gpu" in err


def test_the_recipe_for_windows() -> None:
    """TensorRT 8.6.1 has no bindings there."""
    target = target_from_text("GTX 1080 Ti", Machine())
    assert "tensorrt" not in constraints_text(target, "win32")
    steps = readme_text(target, advice(target, Machine()), "win32")
    assert "--backend onnxruntime-cuda" in steps
    assert "py -3.11 -m venv gpu" in steps
    assert "--flavour tensorrt" not in steps.partition("2. An environment")[2]


def test_the_recipe_for_a_gtx_1080_ti(run: Run) -> None:
    code, out, err = run("doctor", "--gpu", "GTX 1080 Ti")
    assert (code, err) == (0, "")
    lines = dict(line.strip().split(maxsplit=1) for line in out.splitlines() if " " in line.strip())
    assert "6.1" in lines["GPU"]
    assert "11 GB" in lines["GPU"]
    assert "FP32" in lines["precision"]
    assert "1/64" in lines["precision"]
    assert "8.6.1" in lines["TensorRT"]
    assert "12.9" in lines["CUDA"]
    assert "525 to 580" in lines["driver"]
    assert "cu126" in lines["PyTorch"]
    assert "3.10 or 3.11" in lines["Python"]
    assert "'tensorrt==8.6.1.post1'" in lines["install"]
    assert "--flavour tensorrt --precision fp32" in lines["build"]
    assert "not measured" in lines["estimate"]
    assert "at most 0.32 LR megapixels/s" in lines["RRDB-23"]  # 11.3 TFLOP/s over 36 MFLOP
    assert "GB for" in lines["full"]


@pytest.mark.parametrize("gpu", [support.sm for support in SUPPORT])
def test_every_class_has_a_recipe(run: Run, gpu: str) -> None:
    code, out, _ = run("doctor", "--gpu", gpu)
    assert code == 0
    assert f"({gpu})" in out
    assert "pip install" in out
    assert "name the product" in out


@pytest.mark.parametrize(
    ("text", "words"), [("RTX 4900", ["RTX 4090"]), ("sm1", ["no such"]), ("local", ["no NVIDIA"])]
)
def test_gpus_that_do_not_exist(run: Run, text: str, words: list[str]) -> None:
    code, out, err = run("doctor", "--gpu", text, here=Machine())
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert [word for word in (text, "(--gpu)", *words) if word not in line] == []


def test_an_engine_is_counted(run: Run, compact_export: Path) -> None:
    code, out, _ = run("doctor", "--gpu", "L4", "--engine", compact_export / "x4.onnx")
    assert code == 0
    assert "x4.onnx" in out


@pytest.mark.parametrize("content", [None, b"I am a text, honestly." * 20, b""])
def test_what_is_no_engine(run: Run, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x4.onnx"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run("doctor", "--gpu", "L4", "--engine", path)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"srtool: {path}: ")


def test_estimates_fit_the_memory() -> None:
    for name in ("GTX 1060 6GB", "GTX 1080 Ti", "H200"):
        target = target_from_text(name, Machine())
        assert target.gpu is not None
        for found in estimates(target):
            assert found.memory < 0.8 * target.gpu.memory
            assert found.megapixels > 0
    assert [item.generator for item in estimates(target)] == list(GENERATORS)
    assert estimates(Target(target.support, "sm90")) == []


def test_advice_depends_on_the_class() -> None:
    def of(name: str) -> dict[str, str]:
        return advice(target_from_text(name, Machine()), Machine())

    assert "'tensorrt-cu12==10.4.0' 'onnxruntime-gpu==1.20.2'" in of("V100")["install"]
    assert "or" not in of("H100")
    assert of("RTX 4090")["or build"].startswith("srtool export model.pth --flavour tensorrt-rtx")
    assert of("RTX 4090")["precision"].startswith("FP16")
