"""`srtool doctor`: what this machine can run, and what another GPU needs."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtool.cli.console import answer, needing, print_tables, say
from srtool.cli.options import DeviceOption
from srtool.errors import UsageError
from srtool.version import __version__

if TYPE_CHECKING:
    from srtool.export.tensorrt.gpus import Target
    from srtool.runtime.gpu.machine import Machine


def doctor(
    gpu: Annotated[
        str | None,
        typer.Option(help='The recipe for a GPU: "GTX 1080 Ti", sm89, local.'),
    ] = None,
    device: DeviceOption = None,
    engine: Annotated[
        Path | None, typer.Option(help="An .onnx file to estimate for, beside the presets.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="With --gpu: a folder for the recipe, with constraints for pip."),
    ] = None,
) -> None:
    """Say what this machine can run, what is missing, and the pip command for it."""
    from srtool.export.tensorrt import doctor as findings
    from srtool.export.tensorrt.gpus import local_target, target_from_text
    from srtool.export.tensorrt.installing import conflicts
    from srtool.runtime.gpu.machine import this_machine
    from srtool.tables.table import table_of_texts

    here = this_machine(device)
    if gpu is not None:
        target = target_from_text(gpu, here)
        _print_recipe(target, here, engine)
        for path in findings.write_recipe(write, target, here) if write else ():
            say(f"-> {path}")
        return
    if write is not None:
        raise UsageError("--write: the recipe for which GPU? name it with --gpu, or --gpu local")
    answer(f"srtool {__version__}, Python {platform.python_version()}, {here.platform}")
    found = f"{here.gpu}, compute capability {here.compute}, driver {here.driver}"
    answer(f"GPU: {found if here.gpu else f'none: {here.no_gpu}'}")
    rows = [
        (part.name, part.found or "missing", part.purpose, "" if part.found else part.command)
        for part in findings.parts(here)
    ]
    print_tables([table_of_texts(("library", "version", "for", "to install"), rows, words=4)])
    for line in [*conflicts(), *_unusable(here)]:
        answer(f"mend: {line}")
    answer("This machine:")
    for line in findings.abilities(here):
        answer(f"  {line}")
    if here.gpu:
        _print_recipe(local_target(here), here, engine)
    else:
        answer('`srtool doctor --gpu "RTX 4090"` tells what a GPU needs.')


def _unusable(here: Machine) -> list[str]:
    """What is installed for the GPU and does not work."""
    from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu

    if not here.gpu or not find_spec("onnxruntime"):
        return []
    missing = OnnxRuntimeGpu("cuda", here.number).missing()
    return [missing] if missing else []


def _print_recipe(target: Target, here: Machine, engine: Path | None) -> None:
    from srtool.export.flops import GENERATORS, cost_from_file, published_for
    from srtool.export.tensorrt import doctor as findings

    networks = GENERATORS
    if engine is not None:
        with needing("export"):
            networks = {engine.name: cost_from_file(engine), **GENERATORS}
    answer(target.name)
    for subject, text in findings.advice(target, here).items():
        answer(f"  {subject:<10} {text}")
    for item in published_for(target.support.compute):
        software = " ".join(part for part in (item.software, item.precision) if part)
        answer(
            f"  published  {item.gpu}: RRDB-23 at {item.speed:g} LR megapixels/s by {software} "
            f"({item.source})"
        )
    found = findings.estimates(target, networks)
    if not found:
        answer("  estimate   name the product for one, such as RTX 4090")
        return
    answer("  estimate   by the roofline, not measured: no engine is faster, most are slower")
    for estimate in found:
        batch, side, _ = estimate.profile.opt
        tiles = f"{batch} tile{'s' if batch > 1 else ''} of {side}x{side}"
        answer(
            f"    {estimate.generator:<9} at most {estimate.megapixels:.2g} LR megapixels/s, about "
            f"{estimate.memory:.1f} GB for {tiles} at once (--shapes {estimate.profile})"
        )
