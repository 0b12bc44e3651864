"""`srtool train`: a recipe and photographs -> weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srtool import console
from srtool.commands import needing


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    data: Annotated[Path, typer.Option(help="Folder of training photographs (searched whole).")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of checkpoints and TensorBoard logs.")
    ] = Path("runs/train"),
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder to validate on: images, or HR/ and optionally LRx4/."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
) -> None:
    """Train a generator (stage 1: L1). The same command again continues where it stopped."""
    with needing("train"):
        from srtool.train import trainer
        from srtool.train.recipe import recipe_from_file

    checked = recipe_from_file(recipe)
    with console.training_progress() as report:
        try:
            weights = trainer.train(checked, data, out, validation, report, device)
        except KeyboardInterrupt:
            console.say(f"interrupted; the same command continues from {out / trainer.STATE}")
            raise
    typer.echo(str(weights))
