"""Plan files: built where something changed, or given other weights; compared with PyTorch where
there is a GPU, written whole or not at all, each with its manifest."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from srtool.errors import EngineError, UsageError
from srtool.export import certify
from srtool.export.tensorrt.builder import (
    Blueprint,
    Report,
    flags_of,
    generation_of,
    plan_from_onnx,
    refitted,
)
from srtool.export.tensorrt.recipe import prepared, recipe_for_network
from srtool.files import locked, sha256, whole_file, write_whole
from srtool.manifest import (
    Manifest,
    ModelFacts,
    PlanFacts,
    PlanRecipe,
    read_manifest,
    sidecar,
    write_manifest,
)
from srtool.parity import Fidelity
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.engine_files import weight_files
from srtool.runtime.gpu.cuda import on_gpu
from srtool.runtime.gpu.machine import Machine, load_library
from srtool.runtime.onnx_files import facts_from_onnx
from srtool.runtime.plan_files import plan_backend, plan_facts, unrunnable
from srtool.version import __version__

if TYPE_CHECKING:
    from srtool.networks.network import Network

_WINDOWS = "win32 amd64"  # as `Machine.platform` says it there

Certify = Callable[[Engine], Fidelity]


@dataclass(frozen=True)
class WrittenPlan:
    """A plan and its manifest. built: False where the one on disk was up to date."""

    path: Path
    manifest: Manifest
    built: bool = True


@dataclass(frozen=True)
class Source:
    """The .onnx file that a plan is made of. opset: 0 where it is not ours."""

    path: Path
    facts: ModelFacts
    companion: Path | None
    opset: int


def source_from_onnx(path: Path) -> Source:
    """UsageError where there is no such file; EngineError where it takes no images."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected an .onnx file")
    manifest = read_manifest(path)
    if manifest is None:
        return Source(path, facts_from_onnx(path), None, 0)
    companion = path.parent / manifest.companion if manifest.companion else None
    return Source(path, manifest.model, companion, manifest.opset)


@dataclass(frozen=True)
class BuildOptions:
    """How plans are built, whatever their recipe.

    timing_cache: a file that keeps what builders measured; made where it is missing. certify: runs
    the plan on real images against PyTorch, where this machine can. force: keep a plan that fails
    that, and FP16 where it is the wrong choice. again: build even where nothing has changed. say:
    told where another build is waited for. report: told how far this one is.
    """

    timing_cache: Path | None = None
    certify: Certify | None = None
    force: bool = False
    again: bool = False
    say: Callable[[str], None] = lambda line: None
    report: Report = lambda share, phase: None


DEFAULTS = BuildOptions()


def export_plan(
    source: Source,
    out: Path,
    recipe: PlanRecipe,
    here: Machine,
    options: BuildOptions = DEFAULTS,
) -> WrittenPlan:
    """Build the plan of an .onnx file, unless `out` is just that plan already.

    UsageError where the recipe does not fit the GPU or the library; ExportError where the build or
    the comparison fails. Nothing is written then.
    """
    facts, timing_cache = source.facts, options.timing_cache
    library, targets = prepared(
        recipe, here, facts.precision, timing_cache is not None, options.force
    )
    generation = generation_of(library)
    recipe = recipe_for_network(recipe, facts, source.path.name)
    runs = not generation.cross_builds  # kernels are chosen by running them
    plan = PlanFacts(
        recipe=recipe,
        onnx=os.path.relpath(source.path, out.parent),
        onnx_sha256=sha256(source.path),
        version=library.version,
        cuda=library.cuda,
        compute=tuple(target.support.compute for target in targets),
        gpu=here.gpu if runs else "",
        driver=here.driver if runs else "",
        platform=_WINDOWS if recipe.platform else here.platform,
        flags=flags_of(generation, recipe, facts),
        seconds=0,
        key="",
        stripped=recipe.strip_weights,
    )
    weights = "".join(sha256(file) for file in weight_files(source.path))
    plan = plan.model_copy(update={"key": key_of(plan, facts.precision, weights)})
    with locked(out, options.say):
        if not options.again and (found := _up_to_date(out, plan.key)):
            return WrittenPlan(out, found, built=False)
        measured = None
        if timing_cache is not None:
            measured = timing_cache.read_bytes() if timing_cache.is_file() else b""
        module = load_library(recipe.flavour)
        blueprint = Blueprint(source.path, facts, recipe, targets)
        with on_gpu(here.number):
            made = plan_from_onnx(module, generation, blueprint, measured, options.report)
        plan = plan.model_copy(update={"seconds": round(made.seconds, 2)})
        manifest = _write(made.content, out, source, plan, here, options)
        if timing_cache is not None and made.timing_cache:
            write_whole(timing_cache, made.timing_cache)
    return WrittenPlan(out, manifest)


def rebuild(
    path: Path, here: Machine, gpus: tuple[str, ...] = (), options: BuildOptions = DEFAULTS
) -> WrittenPlan:
    """Build a plan again by the recipe in its manifest, even where the plan itself is damaged.

    gpus: instead of the recorded ones. EngineError where the manifest or the .onnx file is missing,
    or the latter has changed.
    """
    plan = recorded(path)
    source = path.parent / plan.onnx
    if not source.is_file():
        raise EngineError(
            f"{path}: was built from {source}, which is not there; copy it there, or export the "
            "network again"
        )
    if sha256(source) != plan.onnx_sha256:
        raise EngineError(
            f"{path}: was built from another {source.name} than the one that is there now; "
            f"`srtool export {source} -o {path}` builds a plan of that one"
        )
    recipe = plan.recipe.model_copy(update={"gpus": gpus}) if gpus else plan.recipe
    again = replace(options, again=True)
    return export_plan(source_from_onnx(source), path, recipe, here, again)


def recorded(path: Path) -> PlanFacts:
    """What the manifest says of a plan that may be damaged or gone. EngineError where there is no
    manifest."""
    beside = sidecar(path)
    if not beside.is_file():
        raise EngineError(
            f"{path}: its manifest {beside.name} is missing, which has the recipe; export the "
            "network again"
        )
    try:
        plan = Manifest.model_validate_json(beside.read_text(encoding="utf-8")).plan
    except (ValidationError, UnicodeDecodeError):
        plan = None
    if plan is None:
        raise EngineError(f"{beside}: is not the manifest of a plan; export the network again")
    return plan


def refit(
    stripped: Path,
    source: Source,
    out: Path,
    here: Machine,
    certify: Certify | None = None,
    force: bool = False,
) -> WrittenPlan:
    """Write a plan with the weights of an .onnx file of the same architecture, in seconds.

    stripped: a plan that was built without weights; it is left as it is. Needs the GPU that it
    is for. UsageError where it has weights, or the file is of another network; EngineError where
    it does not run here; ExportError where the library refuses the weights or the result fails.
    """
    manifest, plan = plan_facts(stripped)
    check_refittable(stripped, plan, here)
    _check_same_network(stripped, manifest.model, source)
    plan = plan.model_copy(
        update={
            "recipe": plan.recipe.model_copy(update={"strip_weights": False}),
            "stripped": False,
            "onnx": os.path.relpath(source.path, out.parent),
            "onnx_sha256": sha256(source.path),
        }
    )
    start = time.perf_counter()
    module = load_library(plan.recipe.flavour)
    with on_gpu(here.number):
        content = refitted(module, stripped.read_bytes(), source.path)
    plan = plan.model_copy(
        update={
            "seconds": round(time.perf_counter() - start, 2),
            "key": key_of(plan, source.facts.precision),
        }
    )
    options = BuildOptions(certify=certify, force=force)
    with locked(out):
        return WrittenPlan(out, _write(content, out, source, plan, here, options))


def check_refittable(stripped: Path, plan: PlanFacts, here: Machine) -> None:
    """UsageError where a plan has weights, EngineError where it is not for this machine."""
    if not plan.stripped:
        raise UsageError(
            f"{stripped}: has its weights for good; expected a plan that was built without",
            path=stripped,
        )
    if reason := unrunnable(plan.model_copy(update={"stripped": False}), here):
        raise EngineError(f"{stripped}: cannot be refitted here: {reason}")


def _check_same_network(stripped: Path, plan: ModelFacts, source: Source) -> None:
    for name in ("architecture", "scale", "io", "precision"):
        expected, found = getattr(plan, name), getattr(source.facts, name)
        if expected != found:
            raise UsageError(
                f"{source.path}: its {name} is {found}, and {stripped} is a plan for {expected}; "
                "expected the same network with other weights"
            )


def _write(
    content: bytes,
    out: Path,
    source: Source,
    plan: PlanFacts,
    here: Machine,
    options: BuildOptions,
) -> Manifest:
    """Write a plan and its manifest, after comparing it with PyTorch where it runs here. options:
    of them `certify` and `force`."""
    with whole_file(out) as temporary:
        temporary.write_bytes(content)
        why_not = _not_certified(plan, here, options.certify)
        fidelity = {}
        if options.certify and not why_not:
            backend = plan_backend(plan, source.facts, here.number)
            info = EngineInfo(out, source.facts, backend)
            with Engine(info, backend.open(temporary, source.facts)) as engine:
                fidelity = {str(backend): options.certify(engine)}
            if not options.force:
                found = fidelity[str(backend)]
                certify.check(found, found.gates, out, "plan")
        manifest = Manifest(
            model=source.facts,
            sha256=sha256(temporary),
            opset=source.opset,
            srtool=__version__,
            made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            companion=source.companion and os.path.relpath(source.companion, out.parent),
            fidelity=fidelity,
            plan=plan.model_copy(update={"not_certified": why_not}),
        )
    write_manifest(out, manifest)
    return manifest


def _not_certified(plan: PlanFacts, here: Machine, certify: Certify | None) -> str:
    if not here.gpu:
        return "built without a GPU"
    if reason := unrunnable(plan, here):
        return f"built where it cannot run: {reason}"
    return "" if certify else "built from an .onnx file, without the network to compare with"


def certifier(network: Network, images: Path | None) -> Certify:
    """The comparison of a plan with PyTorch, for `export_plan`; images as in `onnx.export`."""
    samples = certify.samples_from_images(network, images)
    dataset = images.resolve().name if images else "shipped samples"
    return lambda engine: certify.fidelity(engine, samples, dataset)


def key_of(plan: PlanFacts, precision: str, weights: str = "") -> str:
    """Hash of all that decides what a plan is: two of one key are the same plan. weights: SHA-256
    of those outside the .onnx file."""
    described = plan.model_dump(
        mode="json", exclude={"seconds", "key", "onnx", "not_certified", "recipe"}
    )
    # `sm89` and `RTX 4090` are one class.
    asked = plan.recipe.model_dump(mode="json", exclude={"gpus"})
    text = json.dumps(
        {**described, "asked": asked, "precision": precision + weights}, sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _up_to_date(out: Path, key: str) -> Manifest | None:
    try:
        manifest = read_manifest(out) if out.is_file() else None
    except EngineError:  # one of the two is damaged
        return None
    return manifest if manifest and manifest.plan and manifest.plan.key == key else None
