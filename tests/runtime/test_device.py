"""`--device N` and `device=N`: which GPU an engine runs on, of two that do not exist."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer.main

import srtool
from srtool.benchmarks.speed.machine import only_gpu
from srtool.cli.main import app
from srtool.errors import EngineError
from srtool.manifest import write_manifest
from srtool.runtime.gpu import devices

Run = Callable[..., Any]  # of conftest

# Every command that runs, builds or explains an engine, as it is called in `folder`.
COMMANDS = {
    "infer": "infer photographs --engine x4.plan",
    "serve": "serve --engine x4.plan",
    "evaluate": "evaluate photographs --engine x4.plan --metrics psnr",
    "verify": "verify compact.pth x4.plan --images photographs",
    "report": "report photographs --engine x4.plan",
    "export": "export compact.onnx --flavour tensorrt",
    "engine explain": "engine explain x4.plan",
    "engine rebuild": "engine rebuild x4.plan",
    "engine refit": "engine refit x4.plan compact.onnx",
    "bench run": "bench x4.plan --baselines none --sizes 32x32 --files 0",
    "doctor": "doctor",
}
RUNNING = ("infer", "serve", "evaluate", "verify", "report")  # the others run nothing, or elsewhere


@pytest.fixture
def plan(
    make_plan: Any, compact_weights: Path, compact_export: Path, photographs: Path, tmp_path: Path
) -> Any:
    """A plan for a machine with two GPUs, in a folder with all that the commands take."""
    made = make_plan(seed=1)
    made.gpu.count = 2
    facts = made.facts.model_copy(update={"weights": "compact.pth"})
    write_manifest(made.path, made.manifest.model_copy(update={"model": facts}))
    (tmp_path / "compact.pth").write_bytes(compact_weights.read_bytes())
    for suffix in (".onnx", ".onnx.json"):
        (tmp_path / f"compact{suffix}").write_bytes((compact_export / f"x4{suffix}").read_bytes())
    return made


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_library", lambda: None)


def with_device(found: dict[str, Any], prefix: str = "") -> set[str]:
    """Names of the commands that have the option."""
    names = set()
    for name, command in found.items():
        names |= with_device(getattr(command, "commands", {}), f"{name} ")
        if any(option.name == "device" for option in command.params):
            names.add(prefix + name)
    return names


def test_the_table_has_every_command() -> None:
    found: Any = typer.main.get_command(app)
    assert with_device(found.commands) == {*COMMANDS, "train run"}  # train's is PyTorch's own


@pytest.mark.parametrize("command", COMMANDS)
def test_a_number_that_does_not_exist(run: Run, plan: Any, command: str) -> None:
    result = run(*COMMANDS[command].split(), "--device", 2)
    assert result.code == 2
    assert "--device" in result.complaint
    assert "Fake GPU" in result.complaint  # what there is
    assert plan.gpu.opened == -1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_machine_without_a_gpu(run: Run, plan: Any, no_gpu: None, command: str) -> None:
    result = run(*COMMANDS[command].split(), "--device", 0)
    assert result.code == 2
    assert "--device" in result.complaint


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("command", RUNNING)
def test_the_command_runs_on_it(
    run: Run, plan: Any, monkeypatch: pytest.MonkeyPatch, command: str, device: int
) -> None:
    monkeypatch.setattr("srtool.serving.server.serve", lambda *rest: None)
    result = run(*COMMANDS[command].split(), "--device", device)
    assert result.code == (1 if command == "verify" else 0), result.err  # it is another network
    assert plan.gpu.opened == device


@pytest.mark.parametrize(
    ("command", "builder"),
    [("export", "export_plan"), ("engine rebuild", "rebuild")],
)
def test_the_plan_is_built_on_it(
    run: Run, plan: Any, monkeypatch: pytest.MonkeyPatch, command: str, builder: str
) -> None:
    numbers: list[int] = []

    def stopped(*arguments: Any, **rest: Any) -> None:
        (here,) = (it for it in arguments if hasattr(it, "no_gpu"))
        numbers.append(here.number)
        raise EngineError("as far as this goes")

    monkeypatch.setattr(f"srtool.export.tensorrt.plans.{builder}", stopped)
    run(*COMMANDS[command].split(), "--device", 1)
    assert numbers == [1]


def test_what_a_bench_starts_sees_it_alone(
    run: Run, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def stopped(*arguments: Any) -> None:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        raise EngineError("as far as this goes")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("srtool.benchmarks.speed.bench._bench", stopped)
    run(*COMMANDS["bench run"].split(), "--device", 1)
    assert [name[-2:] for name in seen] == ["01"]  # the end of its UUID
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("visible", "name"), [(None, "1"), ("3, 5", "5"), ("GPU-a,GPU-b", "GPU-b")]
)
def test_a_driver_that_knows_no_uuids(
    make_gpu: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str
) -> None:
    make_gpu().count = 2
    monkeypatch.setattr(devices, "_uuid", lambda *rest: "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with only_gpu(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == name
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_a_cluster_is_asked_for_none(run: Run, plan: Any) -> None:
    result = run("infer", "photographs", "--cluster", "local", "--device", 1)
    assert result.code == 2
    assert "--device" in result.complaint


# In Python


def calls(path: Path, photographs: Path) -> dict[str, Callable[[int], object]]:
    image = np.zeros((16, 16, 3), np.uint8)
    weights = path.with_name("compact.pth")
    return {
        "open_engine": lambda device: srtool.open_engine(path, device=device).close(),
        "upscale": lambda device: srtool.upscale(image, path, device=device),
        "upscale_folder": lambda device: list(
            srtool.upscale_folder(photographs, path.with_name("out"), path, device=device)
        ),
        "evaluate": lambda device: srtool.evaluate(
            [photographs], [path], configs().evaluate(("psnr",), workers=1, device=device)
        ),
        "verify": lambda device: srtool.verify(
            weights, [path], photographs, configs().verify(workers=1, device=device)
        ),
    }


def configs() -> SimpleNamespace:
    from srtool.benchmarks import evaluate, verify

    return SimpleNamespace(evaluate=evaluate.Config, verify=verify.Config)


NAMES = ("open_engine", "upscale", "upscale_folder", "evaluate", "verify")


@pytest.mark.parametrize("name", NAMES)
def test_a_call_runs_on_it(plan: Any, photographs: Path, name: str) -> None:
    calls(plan.path, photographs)[name](1)
    assert plan.gpu.opened == 1


@pytest.mark.parametrize("name", [*NAMES, "doctor", "export"])
def test_a_call_for_one_that_is_not_there(
    plan: Any, photographs: Path, compact_weights: Path, name: str
) -> None:
    known: dict[str, Callable[[int], object]] = {
        **calls(plan.path, photographs),
        "doctor": lambda device: srtool.doctor(device),
        "export": lambda device: srtool.export(compact_weights, plan.path, device=device),
    }
    with pytest.raises(EngineError) as caught:
        known[name](2)
    assert (caught.value.parameter, caught.value.found) == ("device", "2")


def test_libraries_build_on_the_gpu_that_is_current(make_gpu: Any) -> None:
    from srtool.runtime.gpu.cuda import on_gpu

    gpu = make_gpu()
    gpu.count = 2
    with on_gpu(0):
        assert gpu.opened == -1  # a builder's own choice, without cuda-python
    with on_gpu(1):
        assert (gpu.opened, len(gpu.contexts)) == (1, 1)
    assert not gpu.contexts
