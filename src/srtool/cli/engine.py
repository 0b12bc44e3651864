"""`srtool engine`: what a TensorRT plan is, and how it is made again; and what is said while one is
built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srtool.cli import console
from srtool.cli.console import answer, needing, say
from srtool.cli.options import DeviceOption
from srtool.errors import UsageError

if TYPE_CHECKING:
    from srtool.export.tensorrt.plans import WrittenPlan
    from srtool.manifest import Manifest, PlanFacts
    from srtool.runtime.gpu.machine import Machine

engine_app = typer.Typer(
    name="engine", help="TensorRT plans: explain, rebuild, refit.", no_args_is_help=True
)


@engine_app.command("explain")
def engine_explain(
    plan: Annotated[Path, typer.Argument(help="A .plan file with its manifest.")],
    device: DeviceOption = None,
) -> None:
    """Say what a plan is, whether it runs here, and what asks for a new one."""
    from srtool.runtime.gpu.machine import this_machine
    from srtool.runtime.plan_files import plan_facts

    manifest, facts = plan_facts(plan)
    _print_explanation(plan, manifest, facts, this_machine(device))


@engine_app.command("rebuild")
def engine_rebuild(
    plan: Annotated[Path, typer.Argument(help="A .plan file; its manifest has the recipe.")],
    gpu: Annotated[
        list[str] | None, typer.Option(help="Build for this one, not for the recorded one.")
    ] = None,
    device: DeviceOption = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that keeps what builds measured.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a plan that fails.")] = False,
) -> None:
    """Build a plan again, as its manifest says, from the .onnx file beside it."""
    with needing("export"):
        from srtool.export.tensorrt import plans
    from srtool.runtime.gpu.machine import this_machine

    with building_progress(plan.name) as report:
        options = plans.BuildOptions(timing_cache, force=force, say=say, report=report)
        written = plans.rebuild(plan, this_machine(device), tuple(gpu or ()), options)
    print_plan(written)


@engine_app.command("refit")
def engine_refit(
    plan: Annotated[Path, typer.Argument(help="A plan that was built with --strip-weights.")],
    model: Annotated[
        Path, typer.Argument(help="Weights of the same network, or an .onnx file of them.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The new plan (default: MODEL.plan).")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="HR photographs to certify with (default: shipped).")
    ] = None,
    device: DeviceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a plan that fails.")] = False,
) -> None:
    """Put other weights into a plan, in seconds. It stays as it is, a new one is written."""
    from srtool.export.tensorrt import plans
    from srtool.runtime.gpu.machine import this_machine
    from srtool.runtime.plan_files import plan_facts

    target = out or model.with_suffix(".plan")
    if target.suffix != ".plan" or target.absolute() == plan.absolute():
        raise UsageError(
            f"{target}: expected another file than {plan}, that ends in .plan; name -o"
        )
    if model.suffix == ".onnx":
        refuse_beside(model, {"images": images})
    manifest, facts = plan_facts(plan)
    here = this_machine(device)
    plans.check_refittable(plan, facts, here)
    certify = None
    source = model
    if model.suffix != ".onnx":
        with needing("export"):
            import onnxscript  # noqa: F401  # torch looks for it late

            from srtool.export import onnx
            from srtool.networks.loading import load_network
        network = load_network(model)
        source = target.with_suffix(".onnx")
        precision: Literal["fp32", "fp16"]
        precision = "fp32" if manifest.model.precision == "fp32" else "fp16"
        with console.status(f"{model.name}: {network.architecture} x{network.scale}") as report:
            config = onnx.ExportConfig(precision, manifest.model.io, images, force, device)
            onnx.export(network, source, config, report)
        certify = plans.certifier(network, images)
    written = plans.refit(plan, plans.source_from_onnx(source), target, here, certify, force)
    print_plan(written)


def refuse_beside(model: Path, given: dict[str, object]) -> None:
    """UsageError for options that are of weights: an .onnx file keeps its inputs and outputs, and a
    plan of it as it is is not compared with anything."""
    for parameter, value in given.items():
        if value is not None:
            raise UsageError(
                f"{model}: is an .onnx file, which is taken as it is; this is for weights",
                path=model,
                parameter=parameter,
                found=str(value),
            )


@contextmanager
def building_progress(name: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar over the phases of a build; nothing where there is no terminal."""
    from rich.progress import TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.fields[phase]}")
    with console.progress_bar(f"building {name}", *columns, total=1.0, phase="") as show:
        yield lambda share, phase: show(completed=share, phase=phase)


def print_plan(written: WrittenPlan) -> None:
    """One line about a plan that was built, or was up to date."""
    plan = written.manifest.plan
    assert plan is not None
    if not written.built:
        say(f"{written.path}: is up to date, and was not built again")
    size = f"{written.path.stat().st_size / 1e6:.1f} MB"
    took = f", built in {plan.seconds:.1f} s" if written.built else ""
    made, certified = _made_by(plan, written.manifest), _certification(written.manifest)
    answer(f"{written.path}  {size}  {made}{took}; {certified}")


def _made_by(plan: PlanFacts, manifest: Manifest) -> str:
    from srtool.runtime.gpu.machine import NAMES

    classes = ", ".join(f"sm{compute.replace('.', '')}" for compute in plan.compute)
    name = NAMES[plan.recipe.flavour]
    return f"{name} {plan.version} for {classes}, {manifest.model.precision}"


def _certification(manifest: Manifest) -> str:
    """Whether a plan is certified, in words."""
    assert manifest.plan is not None
    if manifest.fidelity:
        return ", ".join(f"{name} {found.grade}" for name, found in manifest.fidelity.items())
    return f"not certified: {manifest.plan.not_certified}"


def _print_explanation(path: Path, manifest: Manifest, plan: PlanFacts, here: Machine) -> None:
    """What a plan is, whether it runs here, and which fields ask for a new one."""
    from srtool.runtime.plan_files import rebuild_command, rebuild_reasons, unrunnable

    model, recipe = manifest.model, plan.recipe
    layout = "uint8 NHWC" if model.io == "uint8" else "float32 NCHW"
    options = [f"workspace {recipe.workspace} MiB"] if recipe.workspace else []
    options += [f"effort {recipe.opt_level}"] if recipe.opt_level is not None else []
    options += ["version-compatible"] if recipe.version_compatible else []
    options += ["hardware-compatible"] if recipe.hardware_compatible else []
    options += ["stripped of its weights"] if plan.stripped else []
    reason = unrunnable(plan, here)
    changes = rebuild_reasons(plan, here, path.parent)
    found = [f"{here.gpu} ({here.compute}), driver {here.driver}" if here.gpu else "no NVIDIA GPU"]
    found += [f"{library.flavour} {library.version}" for library in here.libraries.values()]
    rows = {
        "plan": f"{_made_by(plan, manifest)}; {path.stat().st_size / 1e6:.1f} MB",
        "asked for": f"--flavour {recipe.flavour} --gpu {', '.join(recipe.gpus)}",
        "network": f"{model.architecture} x{model.scale}, {model.weights or 'weights unknown'}",
        "input": f"{layout}, {'; '.join(map(str, recipe.profiles))} (min, opt, max)",
        "options": ", ".join(options) or "none",
        "flags": " ".join(plan.flags),
        "made of": f"{plan.onnx} ({plan.onnx_sha256[:12]}), in {plan.seconds:.1f} s",
        "made on": " ".join(filter(None, (plan.platform, plan.gpu, plan.driver))),
        "made by": f"srtool {manifest.srtool}, {manifest.made}",
        "certified": _certification(manifest),
        "key": plan.key[:12],
        "this machine": "; ".join(found),
        "runs here": f"no: {reason}" if reason else "yes",
        "up to date": "; ".join(f"no, {field}: {text}" for field, text in changes.items()) or "yes",
        "to rebuild": rebuild_command(path, plan, here),
    }
    answer(str(path))
    for title, text in rows.items():
        answer(f"  {title:<13} {text}")
