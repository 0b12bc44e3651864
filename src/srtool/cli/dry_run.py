"""`srtool train --dry-run`: what a training takes, as measured here or counted for another GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtool.cli import console
from srtool.cli.console import print_tables, say
from srtool.errors import UsageError
from srtool.tables.table import table_of_texts

if TYPE_CHECKING:
    from srtool.export.tensorrt.gpus import Gpu
    from srtool.train.estimate import Cost, Estimate
    from srtool.train.loop import Run
    from srtool.train.recipe import Recipe

# Of a GPU's peak, what a training may reach: a rule of thumb. Published RRDB-23 engines reach 0.79
# in FP32 (GTX 1070 Ti) and 0.28 on tensor cores (A100), the training of `fast` on an H200 0.1.
PEAK_SHARES = {"fp32": (0.6, 0.3), "half": (0.3, 0.1)}
TENSOR_CORES = 7.0  # compute capability from which half precision is faster
ROOM = 0.9  # of its memory, beside what else is on it


def print_dry_run(recipe: Recipe, run: Run, name: str, gpu_class: str | None) -> None:
    """What a recipe takes, trained as `run` says. name: of the recipe, for the user. gpu_class: of
    another GPU, as in "GTX 1080 Ti"; UsageError where it is not known."""
    from srtool.export.tensorrt.gpus import GPUS, gpu_named
    from srtool.train.estimate import costs, estimates

    with console.status(f"{name}: measuring") as note:
        if not gpu_class:
            _print_estimates(estimates(recipe, run, note))
            return
        gpu = gpu_named(gpu_class)
        if gpu is None:
            known = ", ".join(gpu.name for gpu in GPUS)
            raise UsageError(f"--gpu-class {gpu_class}: no such GPU; expected one of {known}")
        _print_costs(costs(recipe, run), gpu, recipe.precision)


def _print_costs(found: list[Cost], gpu: Gpu, precision: str) -> None:
    """The table of `srtool train --dry-run --gpu-class`."""
    narrow = precision != "fp32" and float(gpu.compute) >= TENSOR_CORES
    shares = PEAK_SHARES["half" if narrow else "fp32"]
    peak = (gpu.fp16 if narrow else gpu.fp32) * 1e12
    rows = _cost_rows(found)
    rows += [
        (
            f"duration at {share:.0%} of the peak",
            *(_duration(it.steps * it.flops / peak / share) for it in found),
        )
        for share in shares
    ]
    print_tables([table_of_texts(("", *(item.stage for item in found)), rows)])
    total = sum(item.steps * item.flops for item in found)
    low, high = (_duration(total / peak / share) for share in shares)
    say(f"together {total:.3g} FLOP, {low} to {high} on one {gpu.name} at {peak / 1e12:g} TFLOP/s")
    needed = max(item.peak for item in found)
    if needed > ROOM * gpu.memory * 1e9:
        say(
            f"{needed / 1e9:.1f} GB do not fit into its {gpu.memory} GB: raise accumulate in the "
            "recipe, which divides what is kept for the backward passes"
        )


def _cost_rows(found: list[Cost]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for item in found for name in item.parameters)
    rows = [
        (
            f"parameters, {name.replace('_', ' ')}",
            *(f"{it.parameters.get(name, 0):,}" for it in found),
        )
        for name in names
    ]
    rows += [
        ("steps", *(f"{item.steps:,}" for item in found)),
        ("TFLOP a step", *(f"{item.flops / 1e12:.3g}" for item in found)),
        ("weights, gradients, moments", *(f"{item.lasting / 1e9:.2f} GB" for item in found)),
        ("kept for backward passes", *(f"{item.saved / 1e9:.2f} GB" for item in found)),
        ("most in a step, about", *(f"{item.peak / 1e9:.2f} GB" for item in found)),
    ]
    return rows


def _print_estimates(found: list[Estimate]) -> None:
    """The table of `srtool train --dry-run`."""
    rows = _cost_rows([item.cost for item in found])
    rows += [
        ("a step", *(f"{item.step_seconds:.3f} s" for item in found)),
        ("waiting for data", *(f"{item.waited:.1%}" for item in found)),
        ("duration", *(_duration(item.seconds) for item in found)),
        (
            f"peak memory on {found[0].device}",
            *(f"{item.memory / 1e9:.2f} GB" for item in found),
        ),
    ]
    print_tables([table_of_texts(("", *(item.cost.stage for item in found)), rows)])
    total = _duration(sum(item.seconds for item in found))
    say(f"together {total}, without validation; from 20 measured steps of each stage")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
