"""A TensorRT plan on this machine's GPU, or what was named to run instead of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from srtool.errors import EngineError, UsageError
from srtool.manifest import Manifest, PlanFacts, doubt_about, sidecar
from srtool.runtime.backends import Session, tensorrt
from srtool.runtime.engine import Backend, Engine, Precision, installed_backends, open_engine
from srtool.runtime.engine import open_session as open_onnx
from srtool.runtime.gpu.plan import NAMES, plan_facts, rebuild_command, this_machine, unrunnable

# As a fallback: the .onnx file that the plan was made of, on the GPU where that can be.
ONNXRUNTIME: Literal["onnxruntime"] = "onnxruntime"
ON_GPU: Literal["onnxruntime-cuda"] = "onnxruntime-cuda"


def plan_backend(manifest: Manifest) -> str:
    """The name under which a plan's fidelity stands in its manifest: "tensorrt fp16"."""
    assert manifest.plan is not None
    return f"{manifest.plan.recipe.flavour} {manifest.model.precision}"


def open_plan(
    path: Path,
    backend: Backend = "auto",
    precision: Precision = "auto",
    fallback: str | None = None,
) -> Engine:
    """Open a plan. fallback: see `open_engine`.

    EngineError where it cannot run here: with what stands in the way, and the command that builds
    it for this machine.
    """
    if backend != "auto":
        raise UsageError(f"{path}: a plan runs on TensorRT only; name an .onnx file for {backend}")
    try:
        manifest, plan = plan_facts(path)
        if precision not in ("auto", manifest.model.precision):
            raise UsageError(
                f"{path}: computes in {manifest.model.precision}, which was decided when it was "
                f"built; leave out --precision {precision}, or export it again"
            )
        here = this_machine()
        if reason := unrunnable(plan, here):
            instead = f", --fallback {ONNXRUNTIME} runs {plan.onnx} instead" if not fallback else ""
            raise EngineError(
                f"{path}: cannot run here: {reason}; "
                f"`{rebuild_command(path, plan, here)}` makes it again{instead}"
            )
        return _planned(path, manifest, plan)
    except EngineError as error:
        if fallback is None:
            raise
        return _second_choice(path, fallback, str(error))


def _planned(path: Path, manifest: Manifest, plan: PlanFacts) -> Engine:
    open_float = None
    companion = path.parent / manifest.companion if manifest.companion else None
    if companion and companion.is_file():
        open_float = partial(_open_companion, companion)
    ring = tensorrt.open_session(
        path, manifest.model, plan.recipe.flavour, plan.recipe.version_compatible
    )
    name = plan_backend(manifest)
    reason = f"{NAMES[plan.recipe.flavour]} {plan.version}, {ring.layout}"
    return Engine(path, manifest.model, name, reason, ring, open_float, doubt_about(manifest, name))


def _open_companion(path: Path) -> Session:
    """The float32 I/O variant of a plan: a plan as well, or an .onnx file."""
    if path.suffix == ".onnx":
        on_gpu = ON_GPU in installed_backends()
        return open_onnx(path, ON_GPU if on_gpu else "onnxruntime fp32")
    manifest, plan = plan_facts(path)
    if reason := unrunnable(plan, this_machine()):
        raise EngineError(f"{path}: cannot run here: {reason}")
    return tensorrt.open_session(path, manifest.model, plan.recipe.flavour)


def _second_choice(path: Path, fallback: str, error: str) -> Engine:
    """The fallback, with the reason for it, which the user gets to see on every run."""
    file = _recorded(path) if fallback == ONNXRUNTIME else Path(fallback)
    if file.suffix != ".onnx" or not file.is_file():
        raise EngineError(f"{error}; and the fallback {file} is not there, expected an .onnx file")
    engine = open_engine(file, ON_GPU if ON_GPU in installed_backends() else ONNXRUNTIME)
    engine.reason = f"second choice: {error}"
    return engine


def _recorded(path: Path) -> Path:
    """The .onnx file that a plan was made of, even where the plan itself is damaged or gone."""
    try:
        manifest = Manifest.model_validate_json(sidecar(path).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return path.with_suffix(".onnx")
    return path.parent / manifest.plan.onnx if manifest.plan else path.with_suffix(".onnx")
