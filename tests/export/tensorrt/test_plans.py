"""Plan files, built by the real TensorRT-RTX, which needs no GPU for it: whole or absent, with
their manifests, and built again only where something has changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError, ExportError, UsageError
from srtool.export.certify import fidelity, samples_from_images
from srtool.export.tensorrt import plans
from srtool.export.tensorrt.plans import (
    BuildOptions,
    WrittenPlan,
    export_plan,
    locked,
    rebuild,
    source_from_onnx,
)
from srtool.files import sha256
from srtool.manifest import DEFAULT_PROFILE, PlanRecipe, Profile, read_manifest, sidecar
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.gpu.machine import Library, Machine, library_of
from srtool.runtime.session import DirectSession

SMALL = Profile(min=(1, 16, 16), opt=(1, 32, 32), max=(2, 32, 32))
Build = Callable[..., WrittenPlan]


@pytest.fixture(scope="module")
def library() -> Library:
    found = library_of("tensorrt-rtx")
    if found is None:
        pytest.skip("TensorRT-RTX is not installed, or has no wheels here: 'srtool[rtx]'")
    return found


@pytest.fixture
def nowhere(library: Library) -> Machine:
    """A machine without a GPU."""
    return Machine(libraries={"tensorrt-rtx": library})


@pytest.fixture
def folder(generator_export: Any, tmp_path: Path) -> Path:
    """A copy of the tiny generator's .onnx files."""
    return Path(shutil.copytree(generator_export.folder, tmp_path / "engines"))


@pytest.fixture
def build(folder: Path, nowhere: Machine) -> Build:
    def plan(name: str = "x4.fp16.onnx", out: str = "x4.plan", **options: Any) -> WrittenPlan:
        how = {key: options.pop(key) for key in list(options) if key not in PlanRecipe.model_fields}
        recipe = {"flavour": "tensorrt-rtx", "gpus": ("sm89",), "profiles": (SMALL,), **options}
        here = how.pop("here", nowhere)
        source = source_from_onnx(folder / name)
        known = PlanRecipe.model_validate(recipe)
        return export_plan(source, folder / out, known, here, BuildOptions(**how))

    return plan


def plans_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if ".plan" in path.name} - {
        ".srtool-x4.plan.lock"
    }


# Without a GPU


@pytest.mark.parametrize("name", ["x4.onnx", "x4.fp16.onnx", "x4.float32.onnx"])
def test_a_plan_and_its_manifest(build: Build, folder: Path, library: Library, name: str) -> None:
    written = build(name, profiles=(SMALL, DEFAULT_PROFILE))
    assert written.built
    assert plans_in(folder) == {"x4.plan", "x4.plan.json"}
    assert (folder / "x4.plan").stat().st_size > 10_000
    assert read_manifest(folder / "x4.plan") == written.manifest
    source = read_manifest(folder / name)
    assert source is not None
    assert written.manifest.model == source.model
    assert written.manifest.companion == source.companion
    plan = written.manifest.plan
    assert plan is not None
    assert (plan.onnx, plan.onnx_sha256) == (name, sha256(folder / name))
    assert (plan.version, plan.cuda, plan.compute) == (library.version, library.cuda, ("8.9",))
    assert (plan.gpu, plan.driver, plan.flags) == ("", "", ("-TF32",))
    assert plan.not_certified == "built without a GPU"
    assert plan.recipe.profiles == (SMALL, DEFAULT_PROFILE)
    assert plan.seconds > 0
    content = sidecar(folder / "x4.plan").read_text()
    assert [word for word in (str(folder), sys.prefix, "/tmp") if word in content] == []


@pytest.mark.parametrize("classes", ["sm75", "sm80,sm86", "sm120,sm121", "RTX 5090"])
def test_every_class_is_built_for(build: Build, classes: str) -> None:
    plan = build(gpus=tuple(classes.split(","))).manifest.plan
    assert plan is not None
    expected = {"sm75": ("7.5",), "sm80,sm86": ("8.0", "8.6"), "sm120,sm121": ("12.0", "12.1")}
    assert plan.compute == expected.get(classes, ("12.0",))


def test_a_plan_is_built_where_something_changed(build: Build, folder: Path) -> None:
    first = build()
    content = (folder / "x4.plan").read_bytes()
    again = build()
    assert (again.built, again.manifest) == (False, first.manifest)
    assert not build(gpus=("RTX 4090",)).built  # the same class by another name
    for change in (
        {"gpus": ("sm86",)},
        {"profiles": (DEFAULT_PROFILE,)},
        {"opt_level": 2},
        {"workspace": 512},
        {"name": "x4.onnx"},
    ):
        changed = build(**change)
        assert changed.built, change
        assert changed.manifest.plan != first.manifest.plan
    (folder / "x4.plan").write_bytes(content[:-1])
    assert build(name="x4.onnx").built
    sidecar(folder / "x4.plan").write_text("{}")
    assert build(name="x4.onnx").built
    sidecar(folder / "x4.plan").unlink()
    assert build(name="x4.onnx").built


def test_plans_elsewhere_find_their_files(build: Build, folder: Path) -> None:
    manifest = build(out="plans/x4.plan").manifest
    assert manifest.plan is not None
    assert manifest.plan.onnx == str(Path("..", "x4.fp16.onnx"))
    assert manifest.companion == str(Path("..", "x4.float32.onnx"))


@pytest.mark.parametrize("workspace", [1])
def test_what_fails_leaves_the_old_plan(
    build: Build, folder: Path, complains: Any, workspace: int
) -> None:
    build()
    before = {name: (folder / name).read_bytes() for name in plans_in(folder)}
    # Not even one kernel fits.
    shape = Profile(min=(64, 512, 512), opt=(64, 512, 512), max=(64, 512, 512))
    with complains(ExportError, "x4.fp16.onnx", "TensorRT-RTX built no plan"):
        build(workspace=workspace, profiles=(shape,), opt_level=0)
    assert {name: (folder / name).read_bytes() for name in plans_in(folder)} == before


def test_an_interrupt_leaves_nothing(build: Build, folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(share: float, phase: str) -> None:
        if phase == "Optimizing graph":
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            build(report=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert plans_in(folder) == set()


def test_progress_is_told(build: Build) -> None:
    told: list[float] = []
    build(report=lambda share, phase: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": ("sm90",)}, ["sm90", "sm75, sm80"]),
        ({"gpus": ("local",)}, ["no NVIDIA GPU"]),
        ({"strip_weights": True}, ["--strip-weights"]),
        ({"timing_cache": Path("cache")}, ["--timing-cache"]),
        ({"name": "none.onnx"}, ["none.onnx", "no such file"]),
    ],
)
def test_what_cannot_be_built(
    build: Build, folder: Path, complains: Any, options: dict[str, Any], words: list[str]
) -> None:
    with complains(UsageError, *words):
        build(**options)
    assert plans_in(folder) == set()


def test_sides_that_the_network_does_not_take(
    build: Build, folder: Path, complains: Any, nowhere: Machine
) -> None:
    source = source_from_onnx(folder / "x4.onnx")
    facts = source.facts.model_copy(update={"multiple_of": 8})
    shape = Profile(min=(1, 16, 20), opt=(1, 32, 32), max=(1, 32, 32))
    recipe = PlanRecipe(flavour="tensorrt-rtx", gpus=("sm89",), profiles=(shape,))
    with complains(UsageError, "1x16x20", "(--shapes)", "multiples of 8"):
        export_plan(plans.Source(source.path, facts, None, 18), folder / "x4.plan", recipe, nowhere)


# Two at a time


def test_a_second_process_waits(build: Build, folder: Path) -> None:
    said: list[str] = []
    with locked(folder / "x4.plan"):
        thread = threading.Thread(target=lambda: build(say=said.append))
        thread.start()
        for _ in range(200):
            thread.join(0.05)
            if said:
                break
        assert said == [f"another process writes {folder / 'x4.plan'}; waiting for it"]
        assert not (folder / "x4.plan").exists()
    thread.join(120)
    assert (folder / "x4.plan").exists()


def test_a_process_that_died_keeps_nobody_waiting(build: Build, folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from srtool.export.tensorrt.plans import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(folder / "x4.plan")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        process.kill()
    said: list[str] = []
    assert build(say=said.append).built
    assert said == []


# Again


def test_rebuild_repeats_the_recipe(build: Build, folder: Path, nowhere: Machine) -> None:
    options = {"gpus": ("RTX 3090",), "opt_level": 1, "workspace": 900}
    first = build(**options)
    again = rebuild(folder / "x4.plan", nowhere)
    assert again.built
    assert first.manifest.plan is not None
    assert again.manifest.plan is not None
    assert again.manifest.plan.recipe == first.manifest.plan.recipe
    assert again.manifest.plan.key == first.manifest.plan.key
    other = rebuild(folder / "x4.plan", nowhere, gpus=("sm120",)).manifest.plan
    assert other is not None
    assert other.compute == ("12.0",)
    (folder / "x4.plan").write_bytes(b"damaged")
    assert rebuild(folder / "x4.plan", nowhere).built
    (folder / "x4.plan").unlink()
    assert rebuild(folder / "x4.plan", nowhere).built


def test_what_cannot_be_rebuilt(
    build: Build, folder: Path, nowhere: Machine, complains: Any
) -> None:
    path = folder / "x4.plan"
    build()
    with complains(UsageError, "TensorRT-RTX is not installed", "srtool[rtx]"):
        rebuild(path, Machine())
    (folder / "x4.fp16.onnx").rename(folder / "gone.onnx")
    with complains(EngineError, path, "x4.fp16.onnx", "not there"):
        rebuild(path, nowhere)
    shutil.copy(folder / "x4.onnx", folder / "x4.fp16.onnx")
    with complains(EngineError, path, "another x4.fp16.onnx", "srtool export"):
        rebuild(path, nowhere)
    sidecar(path).write_text("{}")
    with complains(EngineError, sidecar(path), "not the manifest of a plan"):
        rebuild(path, nowhere)
    sidecar(path).unlink()
    with complains(EngineError, path, "x4.plan.json is missing"):
        rebuild(path, nowhere)


# With a GPU, played by ONNX Runtime


@pytest.fixture
def ada(library: Library) -> Machine:
    return Machine(
        "NVIDIA GeForce RTX 4090", "8.9", "580.65.06", libraries={"tensorrt-rtx": library}
    )


@pytest.fixture
def played(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Opens the .onnx file where a plan is asked for; the list holds what was asked, and a damage
    that is put on the output when something is in front."""
    asked: list[Any] = []

    def open_plan(self: TensorRt, path: Path, facts: Any) -> Any:
        assert path.read_bytes()
        session = OnnxRuntime().open(folder / "x4.fp16.onnx", facts)
        damage = asked.pop() if asked else 0
        asked.append((facts, self.library, self.host_code))
        return DirectSession(
            facts, lambda batch: (session.run(batch) // (1 + damage)).astype(np.uint8)
        )

    monkeypatch.setattr(TensorRt, "open", open_plan)
    return asked


@pytest.fixture
def certify(generator_export: Any, hr_images: Path) -> Any:
    samples = samples_from_images(generator_export.network, hr_images)
    return lambda engine: fidelity(engine, samples, "HR")


def test_a_plan_is_compared_with_pytorch(
    build: Build, ada: Machine, played: list[Any], certify: Any
) -> None:
    manifest = build(here=ada, certify=certify).manifest
    assert manifest.plan is not None
    assert manifest.plan.not_certified == ""
    assert manifest.fidelity.keys() == {"tensorrt-rtx fp16"}
    assert manifest.fidelity["tensorrt-rtx fp16"].grade == "faithful"
    assert played == [(manifest.model, "tensorrt-rtx", False)]


def test_a_plan_that_fails_is_not_kept(
    build: Build, ada: Machine, played: list[Any], certify: Any, folder: Path, complains: Any
) -> None:
    played.append(1)
    with complains(ExportError, "x4.plan", "dB between", "--force"):
        build(here=ada, certify=certify)
    assert plans_in(folder) == set()
    played[:] = [1]
    manifest = build(here=ada, certify=certify, force=True).manifest
    assert manifest.fidelity["tensorrt-rtx fp16"].grade == "lossy"


def test_why_a_plan_was_not_compared(build: Build, ada: Machine, certify: Any) -> None:
    alone = build(here=ada).manifest.plan
    other = build(here=ada, certify=certify, gpus=("sm75",)).manifest.plan
    assert alone is not None
    assert other is not None
    assert "without the network" in alone.not_certified
    assert "cannot run" in other.not_certified
    assert "7.5" in other.not_certified


def test_half_precision_on_pascal_takes_force(build: Build, complains: Any) -> None:
    old = Library("tensorrt", "8.6.1", 12)
    here = Machine("NVIDIA GeForce GTX 1080 Ti", "6.1", "580.1", libraries={"tensorrt": old})
    with complains(UsageError, "fp16", "1/64", "--force"):
        build(here=here, flavour="tensorrt", gpus=("local",))
    with complains(EngineError, "TensorRT is not installed"):  # that is, one step further
        build(here=here, flavour="tensorrt", gpus=("local",), force=True)
    with complains(EngineError, "TensorRT is not installed"):
        build("x4.onnx", here=here, flavour="tensorrt", gpus=("local",))


def test_other_weights_for_a_stripped_plan(
    build: Build,
    folder: Path,
    ada: Machine,
    nowhere: Machine,
    monkeypatch: pytest.MonkeyPatch,
    complains: Any,
) -> None:
    source = source_from_onnx(folder / "x4.fp16.onnx")
    stripped, out = folder / "x4.plan", folder / "new.plan"
    with complains(UsageError, stripped, "has its weights", "without"):
        build()
        plans.refit(stripped, source, out, ada)
    # Real ones are made on a GPU only.
    manifest = read_manifest(stripped)
    assert manifest is not None
    assert manifest.plan is not None
    recipe = manifest.plan.recipe.model_copy(update={"strip_weights": True})
    plan = manifest.plan.model_copy(update={"stripped": True, "recipe": recipe})
    plans.write_manifest(stripped, manifest.model_copy(update={"plan": plan}))
    monkeypatch.setattr(
        plans, "refitted", lambda module, content, path: content + path.read_bytes()
    )
    with complains(EngineError, stripped, "cannot be refitted here", "no NVIDIA GPU"):
        plans.refit(stripped, source, out, nowhere)
    with complains(UsageError, "x4.onnx", "its precision is fp32", "fp16"):
        plans.refit(stripped, source_from_onnx(folder / "x4.onnx"), out, ada)
    assert not out.exists()
    written = plans.refit(stripped, source, out, ada)
    found = written.manifest.plan
    assert found is not None
    assert not found.stripped
    assert not found.recipe.strip_weights
    assert out.read_bytes() == stripped.read_bytes() + source.path.read_bytes()
    assert found.key == build().manifest.plan.key  # type: ignore[union-attr]
