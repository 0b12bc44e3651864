"""What the user sees of plans: the bar while one is built, the line when it is, what it says of
itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from srtool.cli.progress import answer, say

if TYPE_CHECKING:
    from srtool.export.tensorrt.plans import WrittenPlan
    from srtool.manifest import Manifest, PlanFacts
    from srtool.runtime.gpu.machine import Machine


@contextmanager
def building_progress(name: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar over the phases of a build; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    phase = TextColumn("{task.fields[phase]}")
    columns = (f"building {name}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), phase)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=1.0, phase="")
        yield lambda share, name: bar.update(task, completed=share, phase=name)


def print_plan(written: WrittenPlan) -> None:
    """One line about a plan that was built, or was up to date."""
    plan = written.manifest.plan
    assert plan is not None
    if not written.built:
        say(f"{written.path}: is up to date, and was not built again")
    size = f"{written.path.stat().st_size / 1e6:.1f} MB"
    took = f", built in {plan.seconds:.1f} s" if written.built else ""
    answer(f"{written.path}  {size}  {made_by(plan, written.manifest)}{took}; {_grades(written)}")


def made_by(plan: PlanFacts, manifest: Manifest) -> str:
    from srtool.runtime.gpu.machine import NAMES

    classes = ", ".join(f"sm{compute.replace('.', '')}" for compute in plan.compute)
    name = NAMES[plan.recipe.flavour]
    return f"{name} {plan.version} for {classes}, {manifest.model.precision}"


def _grades(written: WrittenPlan) -> str:
    return certification(written.manifest)


def certification(manifest: Manifest) -> str:
    """Whether a plan is certified, in words."""
    assert manifest.plan is not None
    if manifest.fidelity:
        return ", ".join(f"{name} {found.grade}" for name, found in manifest.fidelity.items())
    return f"not certified: {manifest.plan.not_certified}"


def print_explanation(path: Path, manifest: Manifest, plan: PlanFacts, here: Machine) -> None:
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
        "plan": f"{made_by(plan, manifest)}; {path.stat().st_size / 1e6:.1f} MB",
        "asked for": f"--flavour {recipe.flavour} --gpu {', '.join(recipe.gpus)}",
        "network": f"{model.architecture} x{model.scale}, {model.weights or 'weights unknown'}",
        "input": f"{layout}, {'; '.join(map(str, recipe.profiles))} (min, opt, max)",
        "options": ", ".join(options) or "none",
        "flags": " ".join(plan.flags),
        "made of": f"{plan.onnx} ({plan.onnx_sha256[:12]}), in {plan.seconds:.1f} s",
        "made on": " ".join(filter(None, (plan.platform, plan.gpu, plan.driver))),
        "made by": f"srtool {manifest.srtool}, {manifest.made}",
        "certified": certification(manifest),
        "key": plan.key[:12],
        "this machine": "; ".join(found),
        "runs here": f"no: {reason}" if reason else "yes",
        "up to date": "; ".join(f"no, {field}: {text}" for field, text in changes.items()) or "yes",
        "to rebuild": rebuild_command(path, plan, here),
    }
    answer(str(path))
    for title, text in rows.items():
        answer(f"  {title:<13} {text}")
