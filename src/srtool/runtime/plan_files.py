"""Opening TensorRT plans: on this machine's GPU, or what was named to run instead of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from srtool.errors import EngineError, UsageError
from srtool.files import open_as_one
from srtool.manifest import Manifest, ModelFacts, PlanFacts, sidecar, uncertified_reason
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.machine import NAMES, this_machine
from srtool.runtime.gpu.plan import plan_facts, rebuild_command, unrunnable
from srtool.runtime.onnx_files import (
    ON_GPU,
    companion_facts,
    float32_engine,
    open_onnx,
)
from srtool.runtime.request import RECORDED, Request
from srtool.runtime.session import Backend, Session


def plan_backend(plan: PlanFacts, facts: ModelFacts, device: int | None = None) -> TensorRt:
    """What runs a plan; its str() is the name under which the plan's fidelity stands."""
    recipe = plan.recipe
    return TensorRt(recipe.flavour, facts.precision, recipe.version_compatible, device or 0)


def open_plan(request: Request) -> Engine:
    """Open a plan, see `open_engine`. EngineError where it cannot run here: with what stands in
    the way, and the command that builds it for this machine."""
    path, fallback = request.path, request.fallback
    if request.backend != "auto":
        raise UsageError(
            f"{path}: a plan runs on TensorRT only; name an .onnx file for {request.backend}",
            path=path,
            parameter="backend",
        )
    try:
        manifest, plan = plan_facts(path)
        if request.precision not in ("auto", manifest.model.precision):
            raise UsageError(
                f"{path}: computes in {manifest.model.precision}, which was decided when it was "
                f"built; export it again for {request.precision}",
                path=path,
                parameter="precision",
                found=manifest.model.precision,
                expected=request.precision,
            )
        here = this_machine(request.device)
        if reason := unrunnable(plan, here):
            raise EngineError(
                f"{path}: cannot run here: {reason}; "
                f"`{rebuild_command(path, plan, here)}` makes it again",
                path=path,
                found=reason,
                remedy={} if fallback else {"fallback": RECORDED},
            )
        return _planned(path, manifest, plan, request.device)
    except EngineError as error:
        if fallback is None:
            raise
        return _second_choice(request, fallback, str(error))


def _planned(path: Path, manifest: Manifest, plan: PlanFacts, device: int | None) -> Engine:
    open_companion = None
    companion = path.parent / manifest.companion if manifest.companion else None
    if companion and companion.is_file():
        paths, opening = (companion, sidecar(companion)), partial(_open_companion, companion)
        open_companion = partial(open_as_one, paths, partial(opening, manifest, device))
    backend = plan_backend(plan, manifest.model, device)
    session = backend.open(path, manifest.model)
    reason = f"{NAMES[plan.recipe.flavour]} {plan.version}, {session.layout}"
    doubt = uncertified_reason(manifest, str(backend))
    info = EngineInfo(path, manifest.model, backend, reason, doubt)
    return Engine(info, session, open_companion, partial(float32_engine, path, backend))


def _open_companion(path: Path, engine: Manifest, device: int | None) -> Session:
    """The float32 I/O variant of a plan: a plan as well, or an .onnx file."""
    facts = companion_facts(path, engine.model)
    on_gpu = replace(ON_GPU, device=device or 0)
    backend: Backend = on_gpu if on_gpu.is_available() else OnnxRuntime()
    if path.suffix != ".onnx":
        manifest, plan = plan_facts(path)
        if reason := unrunnable(plan, this_machine(device)):
            raise EngineError(f"{path}: cannot run here: {reason}", path=path, found=reason)
        backend = plan_backend(plan, manifest.model, device)
    return backend.open(path, facts)


def _second_choice(request: Request, fallback: str, error: str) -> Engine:
    """The fallback, with the reason for it, which the user gets to see on every run."""
    file = _recorded(request.path) if fallback == RECORDED else Path(fallback)
    if file.suffix != ".onnx" or not file.is_file():
        raise EngineError(
            f"{error}; and the fallback {file} is not there, expected an .onnx file",
            path=request.path,
            parameter="fallback",
        )
    on_gpu = replace(ON_GPU, device=request.device or 0)
    missing = on_gpu.missing()
    backend = RECORDED if missing else ON_GPU.library
    engine = open_onnx(replace(request, path=file, backend=backend, fallback=None))
    slow = f"; and on the CPU: {missing}" if missing and this_machine(request.device).gpu else ""
    engine.info = replace(engine.info, reason=f"second choice: {error}{slow}")
    return engine


def _recorded(path: Path) -> Path:
    """The .onnx file that a plan was made of, even where the plan itself is damaged or gone."""
    try:
        manifest = Manifest.model_validate_json(sidecar(path).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return path.with_suffix(".onnx")
    return path.parent / manifest.plan.onnx if manifest.plan else path.with_suffix(".onnx")
