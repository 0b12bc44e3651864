"""TensorRT plans: whether one runs on a machine, which its manifest tells before TensorRT, CUDA or
an image is touched; what opens it there, or runs instead; and what would make it again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from srtool.errors import ChangedFileError, EngineError, UsageError
from srtool.files import sha256
from srtool.manifest import (
    Manifest,
    ModelFacts,
    PlanFacts,
    read_manifest,
    sidecar,
    uncertified_reason,
)
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.machine import INSTALL, NAMES, OLDEST_DRIVER, Machine, this_machine
from srtool.runtime.onnx_files import (
    ON_GPU,
    Request,
    companion_opener,
    float32_engine,
    open_onnx,
)
from srtool.runtime.session import Backend, Session

PLAN = ".plan"
# As a fallback: the .onnx file that the plan was made of, on the GPU where that can be.
RECORDED: Literal["onnxruntime"] = "onnxruntime"


def plan_backend(plan: PlanFacts, facts: ModelFacts, device: int | None = None) -> TensorRt:
    """What runs a plan; its str() is the name under which the plan's fidelity stands."""
    recipe = plan.recipe
    return TensorRt(recipe.flavour, facts.precision, recipe.version_compatible, device or 0)


def plan_facts(path: Path) -> tuple[Manifest, PlanFacts]:
    """What the manifest of a plan says. EngineError where there is no such file or no manifest,
    or where either was changed since."""
    if not path.is_file():
        raise EngineError(f"{path}: no such plan; `srtool export model.pth` writes one")
    try:
        manifest = read_manifest(path)
    except ChangedFileError as error:
        raise ChangedFileError(
            f"{path}: is damaged, or another file than its manifest describes (SHA-256 "
            f"{error.found[:12]}...); `srtool engine rebuild {path}` makes it again",
            path=path,
            found=error.found,
            expected=error.expected,
        ) from None
    if manifest is None:
        raise EngineError(
            f"{path}: its manifest {sidecar(path).name} is missing, without which nobody knows "
            "what the plan computes and where it runs; copy it beside the plan, or export the "
            "network again"
        )
    if manifest.plan is None:
        raise EngineError(f"{path}: its manifest is not that of a TensorRT plan")
    return manifest, manifest.plan


def unrunnable(plan: PlanFacts, here: Machine) -> str | None:
    """Why a plan cannot run on a machine, in words; None where it can."""
    name, library = NAMES[plan.recipe.flavour], here.libraries.get(plan.recipe.flavour)
    if plan.stripped:
        return "it has no weights yet; `srtool engine refit` puts them in"
    if not here.gpu:
        return here.no_gpu
    if not _serves(plan, here.compute):
        made = " and ".join(plan.compute)
        return f"it is for compute capability {made}, and the {here.gpu} has {here.compute}"
    bound = plan.recipe.flavour == "tensorrt" or plan.recipe.platform
    if bound and plan.platform != here.platform:
        return f"it is for {plan.platform}, and this is {here.platform}"
    if library is None:
        return f"{name} is not installed; {INSTALL[plan.recipe.flavour]}"
    if not _reads(plan, library.version):
        return f"it is of {name} {plan.version}, and {library.version} is installed"
    oldest = OLDEST_DRIVER.get(library.cuda or plan.cuda, 0)
    if _numbers(here.driver)[:1] < (oldest,):
        return (
            f"the driver is {here.driver}, and {name} {library.version} needs {oldest} or newer "
            f"(CUDA {library.cuda or plan.cuda})"
        )
    return None


def _serves(plan: PlanFacts, compute: str) -> bool:
    """Hardware-compatible plans of TensorRT run on Ampere and everything newer."""
    if plan.recipe.flavour == "tensorrt" and plan.recipe.hardware_compatible:
        return _numbers(compute) >= (8, 0)
    return compute in plan.compute


def _reads(plan: PlanFacts, version: str) -> bool:
    """A plan is read by the very build that made it. Version-compatible ones by later ones, and
    across major versions by 10 of 8 and by 11 of 10 (TensorRT's support matrix)."""
    if version == plan.version or not plan.recipe.version_compatible:
        return version == plan.version
    made, runs = _numbers(plan.version), _numbers(version)
    same = made[0] == runs[0] and runs >= made
    return same or (made[0], runs[0]) in {(8, 10), (10, 11)}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def rebuild_command(path: Path, plan: PlanFacts, here: Machine) -> str:
    """What makes a plan again so that it runs on a machine."""
    named = plan.recipe.gpus != ("local",)
    elsewhere = bool(here.compute) and not _serves(plan, here.compute)
    return f"srtool engine rebuild {path}" + (" --gpu local" if named and elsewhere else "")


def rebuild_reasons(plan: PlanFacts, here: Machine, folder: Path) -> dict[str, str]:
    """What has changed since a plan was built, by field: all that an export would rebuild it for.

    folder: where the plan lies, and the .onnx file that it was made of.
    """
    found: dict[str, str] = {}
    library = here.libraries.get(plan.recipe.flavour)
    if library and library.version != plan.version:
        found["version"] = f"made by {plan.version}, installed is {library.version}"
    local = plan.recipe.gpus == ("local",)
    if local and here.compute and (here.compute,) != plan.compute:
        found["compute"] = f"made for {' and '.join(plan.compute)}, this GPU has {here.compute}"
    if local and here.gpu and plan.gpu and here.gpu != plan.gpu:
        found["gpu"] = f"made on {plan.gpu}, this is {here.gpu}"
    if here.driver and plan.driver and here.driver != plan.driver:
        found["driver"] = f"made with {plan.driver}, installed is {here.driver}"
    source = folder / plan.onnx
    if source.is_file() and sha256(source) != plan.onnx_sha256:
        found["onnx"] = f"{plan.onnx} has changed"
    return found


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
    open_companion = companion_opener(path, manifest, partial(_open_companion, device))
    backend = plan_backend(plan, manifest.model, device)
    session = backend.open(path, manifest.model)
    reason = f"{NAMES[plan.recipe.flavour]} {plan.version}, {session.layout}"
    doubt = uncertified_reason(manifest, str(backend))
    info = EngineInfo(path, manifest.model, backend, reason, doubt)
    return Engine(info, session, open_companion, partial(float32_engine, path, backend))


def _open_companion(device: int | None, path: Path, facts: ModelFacts) -> Session:
    """The float32 I/O variant of a plan: a plan as well, or an .onnx file."""
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
    engine.reason = f"second choice: {error}{slow}"
    return engine


def _recorded(path: Path) -> Path:
    """The .onnx file that a plan was made of, even where the plan itself is damaged or gone."""
    try:
        manifest = Manifest.model_validate_json(sidecar(path).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return path.with_suffix(".onnx")
    return path.parent / manifest.plan.onnx if manifest.plan else path.with_suffix(".onnx")
