"""Plans at the command line: `srtool export` with a plan, `srtool engine`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.manifest import read_manifest, sidecar, write_manifest
from srtool.runtime.gpu import machine as machine_module
from srtool.runtime.gpu.machine import Library, Machine, library_of

SMALL = ["--shapes", "16x16,32x32,32x32"]


Run = Callable[..., Any]  # of conftest


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Be on another machine."""
    return lambda machine: monkeypatch.setattr(
        machine_module, "this_machine", lambda device=0: machine
    )


@pytest.fixture
def nowhere(here: Callable[[Machine], None]) -> Machine:
    """A machine without a GPU, with TensorRT-RTX where it is installed."""
    library = library_of("tensorrt-rtx")
    if library is None:
        pytest.skip("TensorRT-RTX is not installed, or has no wheels here: 'srtool[rtx]'")
    machine = Machine(libraries={"tensorrt-rtx": library})
    here(machine)
    return machine


@pytest.fixture
def engines(compact_export: Path, tmp_path: Path) -> Path:
    """A copy of an exported network, x4.onnx."""
    shutil.copytree(compact_export, tmp_path / "engines")
    return Path("engines")


# Export


@pytest.mark.slow
def test_a_plan_is_written_beside_the_onnx_files(
    run: Run, nowhere: Machine, compact_weights: Path, hr_images: Path
) -> None:
    common = ["export", compact_weights, "-o", "new/x4.onnx", "--images", hr_images, *SMALL]
    first = run(*common, "--gpu", "RTX 4090")
    assert first.code == 0, first.err
    names = {"x4.onnx", "x4.fp16.onnx", "x4.float32.onnx", "x4.plan"}
    found = {path.name for path in Path("new").iterdir() if not path.name.startswith(".srtool-")}
    assert found == names | {f"{name}.json" for name in names}
    assert "--precision auto: fp16 for RTX 4090" in first.err
    assert "new/x4.plan" in first.out
    assert "not certified: built without a GPU" in first.out
    manifest = read_manifest(Path("new/x4.plan"))
    assert manifest is not None
    assert manifest.plan is not None
    assert (manifest.model.precision, manifest.plan.onnx) == ("fp16", "x4.fp16.onnx")
    again = run(*common, "--gpu", "sm89")
    assert again.code == 0
    assert "new/x4.plan: is up to date, and was not built again" in again.err


@pytest.mark.slow
def test_precisions_of_a_plan(
    run: Run, nowhere: Machine, compact_weights: Path, hr_images: Path
) -> None:
    common = ["--io", "float32", "--images", hr_images, "--gpu", "sm75", *SMALL]
    for precision, names in (
        ("fp32", {"x4.onnx", "x4.plan"}),
        ("both", {"x4.onnx", "x4.fp16.onnx", "x4.plan", "x4.fp16.plan"}),
    ):
        out = Path(precision, "x4.onnx")
        result = run("export", compact_weights, "-o", out, "--precision", precision, *common)
        assert result.code == 0, result.err
        found = {path.name for path in out.parent.iterdir() if not path.name.startswith(".")}
        assert {name for name in found if not name.endswith(".json")} == names
    half = read_manifest(Path("both/x4.fp16.plan"))
    assert half is not None
    assert half.model.precision == "fp16"


def test_a_network_that_overflows_gets_a_plan_in_fp32(
    run: Run, nowhere: Machine, overflowing_weights: Path, hr_images: Path
) -> None:
    common = ["--io", "float32", "--images", hr_images, "--gpu", "sm89", *SMALL]
    result = run("export", overflowing_weights, "-o", "x4.onnx", *common)
    assert result.code == 0, result.err
    assert "--precision auto: fp32 after all" in result.err
    manifest = read_manifest(Path("x4.plan"))
    assert manifest is not None
    assert manifest.model.precision == "fp32"
    result = run("export", overflowing_weights, "-o", "y.onnx", "--precision", "fp16", *common)
    assert result.code == 1
    assert not Path("y.plan").exists()


def test_the_plan_of_an_onnx_file(run: Run, nowhere: Machine, engines: Path) -> None:
    result = run("export", "engines/x4.onnx", "--gpu", "sm120", *SMALL)
    assert result.code == 0, result.err
    assert "engines/x4.plan" in result.out
    assert "TensorRT-RTX" in result.out
    assert run("export", "engines/x4.onnx", "--gpu", "sm86", "-o", "other.plan", *SMALL).code == 0
    assert Path("other.plan.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--flavour", "tensorrt-rtx", "--gpu", "sm90"], ["sm75, sm80, sm86", "Hopper"]),
        (["--flavour", "tensorrt", "--gpu", "sm89"], ["not installed", "pip install"]),
        (["--gpu", "GTX 1080 Ti"], ["tensorrt==8.6.1.post1"]),
        (["--gpu", "RTX 4900"], ["RTX 4090"]),
        (["--gpu", "local"], ["no NVIDIA GPU"]),
        (["--flavour", "none", "--gpu", "sm89"], ["(--flavour)"]),
        (["--shapes", "8x8,8x8,8x8"], ["--gpu sm89"]),
        (["--gpu", "sm89", "--shapes", "8x8"], ["MIN,OPT,MAX"]),
        (["--gpu", "sm89", "--timing-cache", "cache"], ["--timing-cache"]),
        (["--gpu", "sm89", "--strip-weights"], ["--strip-weights"]),
        (["--gpu", "sm89", "--version-compatible"], ["--version-compatible"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("model", ["none.pth", "engines/x4.onnx"])
def test_a_plan_that_cannot_be_is_told_before_anything_is_done(
    run: Run, nowhere: Machine, engines: Path, model: str, arguments: list[str], words: list[str]
) -> None:
    if library_of("tensorrt"):
        pytest.skip("TensorRT is installed")
    result = run("export", model, *arguments)
    assert result.code == 2
    assert [word for word in words if word not in result.complaint] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engines/x4.onnx"], ["exported already", "--gpu sm89"]),
        (["none.onnx", "--gpu", "sm89"], ["none.onnx", "no such file"]),
        (["engines/x4.onnx", "--gpu", "sm89", "-o", "x4.onnx"], ["x4.onnx", ".plan"]),
        (["engines/x4.onnx", "--gpu", "sm89", "--precision", "fp16"], ["fp16", "fp32"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_onnx_files_that_give_no_plan(
    run: Run, nowhere: Machine, engines: Path, arguments: list[str], words: list[str]
) -> None:
    result = run("export", *arguments)
    assert result.code == 2
    assert [word for word in words if word not in result.complaint] == []


def test_pascal_gets_fp32_and_hears_why(
    run: Run, here: Callable[[Machine], None], tmp_path: Path
) -> None:
    old = Library("tensorrt", "8.6.1", 12)
    name = "NVIDIA GeForce GTX 1080 Ti"
    here(Machine(name, "6.1", "580.65.06", libraries={"tensorrt": old}))
    result = run("export", "none.pth")
    assert "--precision auto: fp32 for NVIDIA GeForce GTX 1080 Ti" in result.err
    assert "1/64" in result.err
    result = run("export", "none.pth", "--precision", "fp16")
    assert "--force" in result.complaint
    assert "1/64" in result.complaint
    assert "none.pth" in run("export", "none.pth", "--precision", "fp16", "--force").complaint


# Explain, rebuild, refit


@pytest.fixture
def built(run: Run, nowhere: Machine, engines: Path) -> Path:
    result = run("export", "engines/x4.onnx", "--gpu", "RTX 4090", "--workspace", "800", *SMALL)
    assert result.code == 0, result.err
    return engines / "x4.plan"


def test_explain(run: Run, built: Path, nowhere: Machine, here: Callable[[Machine], None]) -> None:
    result = run("engine", "explain", built)
    assert (result.code, result.err) == (0, "")
    for text in (
        "for sm89, fp32",
        "--gpu RTX 4090",
        "uint8 NHWC, 1x16x16,1x32x32,1x32x32",
        "workspace 800 MiB",
        "not certified: built without a GPU",
        "no: this machine has no NVIDIA GPU",
    ):
        assert text in result.out
    assert "up to date    yes" in result.out

    (library,) = nowhere.libraries.values()
    gpu = ("NVIDIA GeForce RTX 4090", "8.9", "580.65.06", 24 << 30)
    here(Machine(*gpu, libraries={"tensorrt-rtx": library}))
    assert "runs here     yes" in run("engine", "explain", built).out
    newer = Library("tensorrt-rtx", "1.99.0.1", 13)
    here(Machine(*gpu, libraries={"tensorrt-rtx": newer}))
    Path("engines/x4.onnx").write_bytes(b"another")
    out = run("engine", "explain", built).out
    assert "no: it is of TensorRT-RTX" in out
    assert "no, version: made by" in out
    assert "onnx: x4.onnx has changed" in out
    assert f"srtool engine rebuild {built}" in out


def test_rebuild(run: Run, built: Path) -> None:
    before = read_manifest(built)
    result = run("engine", "rebuild", built)
    assert result.code == 0, result.err
    assert f"{built}  " in result.out
    assert "built in" in result.out
    after = read_manifest(built)
    assert before is not None
    assert after is not None
    assert before.plan is not None
    assert after.plan is not None
    assert after.plan.recipe == before.plan.recipe
    assert run("engine", "rebuild", built, "--gpu", "sm75").code == 0
    assert "for sm75" in run("engine", "explain", built).out


def test_plans_that_are_damaged_or_alone(run: Run, built: Path) -> None:
    content = built.read_bytes()
    built.write_bytes(content[:1000])
    assert "damaged" in run("engine", "explain", built).complaint
    assert run("engine", "rebuild", built).code == 0
    assert run("engine", "explain", built).code == 0
    sidecar(built).write_text("not JSON")
    assert "no manifest" in run("engine", "explain", built).complaint
    assert "not the manifest of a plan" in run("engine", "rebuild", built).complaint
    sidecar(built).unlink()
    assert "x4.plan.json is missing" in run("engine", "explain", built).complaint
    assert "x4.plan.json is missing" in run("engine", "rebuild", built).complaint
    assert "no such plan" in run("engine", "explain", "none.plan").complaint
    assert "is missing" in run("engine", "rebuild", "none.plan").complaint
    assert "not that of a TensorRT plan" in run("engine", "explain", "engines/x4.onnx").complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engines/x4.onnx"], ["has its weights", "without"]),
        (["engines/x4.onnx", "-o", "engines/x4.plan"], ["expected another file", "-o"]),
        (["engines/x4.onnx", "-o", "new.onnx"], ["new.onnx", ".plan"]),
        (["engines/x4.onnx", "--images", "HR"], ["engines/x4.onnx", "--images"]),
    ],
)
def test_what_is_not_refitted(
    run: Run, built: Path, arguments: list[str], words: list[str]
) -> None:
    arguments = arguments if "-o" in arguments else [*arguments, "-o", "new.plan"]
    result = run("engine", "refit", built, *arguments)
    assert result.code == 2
    assert [word for word in words if word not in result.complaint] == []


@pytest.mark.slow
def test_refit_with_weights(
    run: Run,
    built: Path,
    nowhere: Machine,
    here: Callable[[Machine], None],
    compact_weights: Path,
    hr_images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything but TensorRT's own part, which takes a GPU."""
    from srtool.export.tensorrt import plans
    from srtool.runtime.backends.onnxruntime import OnnxRuntime
    from srtool.runtime.backends.tensorrt import TensorRt

    manifest = read_manifest(built)
    assert manifest is not None
    assert manifest.plan is not None
    stripped = manifest.plan.model_copy(update={"stripped": True})
    write_manifest(built, manifest.model_copy(update={"plan": stripped}))
    command = ["engine", "refit", built, compact_weights, "-o", "new/x4.plan"]
    assert "no NVIDIA GPU" in run(*command).complaint
    here(Machine("NVIDIA L4", "8.9", "580.65.06", libraries=nowhere.libraries))
    monkeypatch.setattr(plans, "refitted", lambda module, content, source: b"refitted")
    monkeypatch.setattr(
        TensorRt,
        "open",
        lambda self, path, facts: OnnxRuntime().open(Path("new/x4.onnx"), facts),
    )
    result = run(*command, "--images", hr_images)
    assert result.code == 0, result.err
    assert "tensorrt-rtx fp32 exact" in result.out
    assert Path("new/x4.plan").read_bytes() == b"refitted"
    assert "new/x4.plan" in run("engine", "explain", "new/x4.plan").out


# Where nothing is installed

ABSENT = (
    "torch", "torchvision", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx",
    "tensorrt_rtx_libs", "tensorrt_rtx_bindings", "cuda", "pycuda",
)  # fmt: skip
BLOCK = (
    f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); sys.argv[0] = 'srtool'\n"
    "from srtool.cli.main import main; main()"
)


def bare(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process in which those modules cannot be imported, and no driver's program is found."""
    command = [sys.executable, "-W", "error", "-c", BLOCK, *arguments]
    environment = {"PATH": str(folder), "COLUMNS": "200", "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["doctor"], ["export", "--help"], ["engine", "--help"]], ids=" ".join
)
def test_it_works_without_driver_and_tensorrt(tmp_path: Path, arguments: list[str]) -> None:
    done = bare(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--flavour", "tensorrt-rtx"], ["TensorRT-RTX", "pip install 'srtool[rtx]'"]),
        (["--flavour", "tensorrt-rtx", "--gpu", "sm89"], ["pip install 'srtool[rtx]'"]),
        (["--flavour", "tensorrt"], ["TensorRT", "pip install 'srtool[gpu]'"]),
        (["--gpu", "RTX 3060"], ["pip install 'srtool[rtx]'"]),
        ([], ["pip install 'srtool[cpu,export]'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_export_without_them_is_one_line(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "x4.pth").write_bytes(b"weights")
    done = bare("export", "x4.pth", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("srtool: ")
    assert [word for word in words if word not in line] == []
