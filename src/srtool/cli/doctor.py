"""`srtool doctor`: what this machine can run, and what another GPU needs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srtool.cli import needing
from srtool.cli.progress import answer
from srtool.version import __version__

if TYPE_CHECKING:
    from srtool.export.tensorrt.gpus import Target


def doctor(
    gpu: Annotated[
        str | None,
        typer.Option(help='The recipe for a GPU: "GTX 1080 Ti", sm89, local.'),
    ] = None,
    engine: Annotated[
        Path | None, typer.Option(help="An .onnx file to estimate for, beside the presets.")
    ] = None,
) -> None:
    """Say what this machine can run, what is missing, and the pip command for it."""
    from rich.console import Console
    from rich.table import Table

    from srtool.export.tensorrt import doctor as findings
    from srtool.export.tensorrt.gpus import local_target, target_from_text
    from srtool.runtime.gpu.plan import this_machine

    here = this_machine()
    if gpu is not None:
        _print_recipe(target_from_text(gpu, here), engine)
        return
    answer(f"srtool {__version__}, Python {platform.python_version()}, {here.platform}")
    found = f"{here.gpu}, compute capability {here.compute}, driver {here.driver}"
    answer(f"GPU: {found if here.gpu else f'none: {here.no_gpu}'}")
    table = Table("library", "version", "for", "to install", box=None)
    for part in findings.parts(here):
        command = "" if part.found else part.command
        table.add_row(part.name, part.found or "missing", part.purpose, command)
    console = Console(highlight=False, markup=False)
    console = console if console.is_terminal else Console(highlight=False, markup=False, width=200)
    console.print(table)
    answer("This machine:")
    for line in findings.abilities(here):
        answer(f"  {line}")
    if here.gpu:
        _print_recipe(local_target(here), engine)
    else:
        answer('`srtool doctor --gpu "RTX 4090"` tells what a GPU needs.')


def _print_recipe(target: Target, engine: Path | None) -> None:
    from srtool.export.flops import GENERATORS, cost_from_file
    from srtool.export.tensorrt import doctor as findings

    networks = GENERATORS
    if engine is not None:
        with needing("export"):
            networks = {engine.name: cost_from_file(engine), **GENERATORS}
    answer(target.name)
    for subject, text in findings.advice(target).items():
        answer(f"  {subject:<10} {text}")
    found = findings.estimates(target, networks)
    if not found:
        answer("  estimate   name the product for one, such as RTX 4090")
        return
    answer("  estimate   by the roofline, not measured: no engine is faster, most are slower")
    for item in found:
        batch, side, _ = item.profile.opt
        tiles = f"{batch} tile{'s' if batch > 1 else ''} of {side}x{side}"
        answer(
            f"    {item.generator:<9} at most {item.megapixels:.2g} LR megapixels/s, about "
            f"{item.memory:.1f} GB for {tiles} at once (--shapes {item.profile})"
        )
