"""New weights for a plan that was built without any: seconds, where a build takes minutes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from srtool.errors import EngineError, ExportError, UsageError
from srtool.export.tensorrt.builder import last_line
from srtool.export.tensorrt.plans import (
    BuildOptions,
    Certify,
    Source,
    WrittenPlan,
    key_of,
    write_plan,
)
from srtool.files import locked
from srtool.manifest import ModelFacts, PlanFacts, sha256
from srtool.runtime.gpu.cuda import on_gpu
from srtool.runtime.gpu.machine import Machine, load_library, log_of
from srtool.runtime.plan_files import plan_facts, unrunnable


def refit(
    stripped: Path,
    source: Source,
    out: Path,
    here: Machine,
    certify: Certify | None = None,
    force: bool = False,
) -> WrittenPlan:
    """Write a plan with the weights of an .onnx file of the same architecture.

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
        return WrittenPlan(out, write_plan(content, out, source, plan, here, options))


def check_refittable(stripped: Path, plan: PlanFacts, here: Machine) -> None:
    """UsageError where a plan has weights, EngineError where it is not for this machine."""
    if not plan.stripped:
        raise UsageError(
            f"{stripped}: has its weights for good; expected a plan that was built without",
            path=stripped,
        )
    if reason := unrunnable(plan.model_copy(update={"stripped": False}), here):
        raise EngineError(f"{stripped}: cannot be refitted here: {reason}")


def refitted(module: Any, stripped: bytes, source: Path) -> bytes:
    """The content of a plan without weights, with those of an .onnx file put in. ExportError where
    the library refuses either."""
    log = log_of(module)
    log.lines.clear()
    runtime = module.Runtime(log)
    engine = runtime.deserialize_cuda_engine(stripped)
    if engine is None:
        raise ExportError(f"{source}: the plan does not open ({last_line(log.lines)})")
    refitter = module.Refitter(engine, log)
    parser = module.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(source.read_bytes(), str(source)):
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise ExportError(f"{source}: its weights do not fit the plan ({last_line(errors)})")
    if missing := refitter.get_missing_weights():
        raise ExportError(f"{source}: has not all weights of the plan: {', '.join(missing[:3])}")
    if not refitter.refit_cuda_engine():
        raise ExportError(f"{source}: its weights do not fit the plan ({last_line(log.lines)})")
    config = engine.create_serialization_config()
    config.clear_flag(module.SerializationFlag.EXCLUDE_WEIGHTS)
    return bytes(engine.serialize_with_config(config))


def _check_same_network(stripped: Path, plan: ModelFacts, source: Source) -> None:
    for name in ("architecture", "scale", "io", "precision"):
        expected, found = getattr(plan, name), getattr(source.facts, name)
        if expected != found:
            raise UsageError(
                f"{source.path}: its {name} is {found}, and {stripped} is a plan for {expected}; "
                "expected the same network with other weights"
            )
