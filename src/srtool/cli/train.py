"""`srtool train`: a recipe and photographs -> weights; `srtool train prepare`: one packed file."""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srtool.cli import console
from srtool.cli.console import needing
from srtool.cli.options import WithDefault
from srtool.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import TaskID

    from srtool.train.loop import Progress
    from srtool.train.recipe import Recipe

LOG_EVERY = 60.0  # seconds

train_app = typer.Typer(
    name="train",
    cls=WithDefault,
    help="Train a generator, or prepare the photographs for it.",
    no_args_is_help=True,
)


@train_app.command("run", hidden=True)
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    data: Annotated[
        Path,
        typer.Option(help="Training photographs: a folder (searched whole) or a packed file."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of checkpoints and TensorBoard logs.")
    ] = Path("runs/train"),
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder to validate on: images, or HR/ and optionally LRx4/."),
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Weights to start from, of the recipe's generator.")
    ] = None,
    stage: Annotated[
        int | None, typer.Option(min=1, max=2, help="Run this stage alone (default: all).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
    show_batch: Annotated[
        Path | None,
        typer.Option(help="Train nothing: write a PNG of a batch and its augmentations."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Train nothing: print sizes, memory and time from 20 steps."
        ),
    ] = False,
    gpu_class: Annotated[
        str | None,
        typer.Option(help='With --dry-run: time and memory on another GPU, "GTX 1080 Ti".'),
    ] = None,
) -> None:
    """Train a generator. The same command again continues where it stopped.

    `srtool train prepare DIR` writes photographs into one packed file first, which starts at
    once and needs no memory; see `srtool train prepare -h`.
    """
    with needing("train"):
        from srtool.train import loop
        from srtool.train.recipe import recipe_from_file

    checked = recipe_from_file(recipe)
    if show_batch and dry_run:
        raise UsageError("--show-batch: is one thing, and --dry-run another; leave out one")
    if show_batch:
        _show_batch(checked, data, show_batch)
        return
    run = loop.Run(data, out, validation, start_from, stage, device, _metrics(validation))
    if gpu_class and not dry_run:
        raise UsageError("--gpu-class: is for --dry-run; training takes the GPU that is here")
    if dry_run:
        from srtool.cli.dry_run import print_dry_run

        print_dry_run(checked, run, recipe, gpu_class)
        return
    with training_progress() as report:
        try:
            weights = loop.train(checked, run, report)
        except KeyboardInterrupt:
            console.say(f"interrupted; the same command continues from {out}")
            raise
    if os.environ.get("RANK", "0") == "0":  # the first of several processes speaks for all
        console.answer(str(weights))


@train_app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(help="Photographs, or HR/ and LRx4/ with pairs.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("train.h5"),
    side: Annotated[int, typer.Option(min=4, help="Sub-images of this side, HR pixels.")] = 480,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an old file.")] = False,
) -> None:
    """Pack photographs for training: LR images are made, large images cut, once for all runs."""
    with needing("train"):
        from srtool.train.data.packed import Progress as Packing
        from srtool.train.data.packed import pack

    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    columns = MofNCompleteColumn(), TimeRemainingColumn()
    with console.progress_bar("packing", *columns, transient=False, total=None) as show:

        def report(packing: Packing) -> None:
            show(completed=packing.done, total=packing.count)

        packed = pack(folder, out, side, overwrite, report)
    console.say(f"{len(packed.photographs)} photographs, {len(packed.pairs)} sub-images")
    console.answer(str(out))


@train_app.command()
def interpolate(
    first: Annotated[Path, typer.Argument(help="Weights, of stage 1 for example.")],
    second: Annotated[Path, typer.Argument(help="Weights of the same network, of stage 2.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The .safetensors file to write.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="How far from the first to the second.")
    ] = 0.5,
) -> None:
    """Write a network between two: a little less texture than stage 2, a little more PSNR."""
    with needing("train"):
        from srtool.networks.loading import interpolated, load_network, save_generator

    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: weights are written as .safetensors; choose such a name")
    networks = load_network(first), load_network(second)
    facts = {
        "interpolated": share,
        "first": {"file": first.name, **networks[0].facts},
        "second": {"file": second.name, **networks[1].facts},
    }
    save_generator(out, interpolated(*networks, share), facts)
    console.answer(str(out))


@contextmanager
def training_progress() -> Iterator[Callable[[Progress], None]]:
    """A progress bar over the steps of a stage; a line for each validation and each warning. A log
    gets a line a minute: the step, its rates and losses, and how long it will take."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    terminal = Console(stderr=True, highlight=False, soft_wrap=True, quiet=console.is_quiet())
    text = TextColumn("loss {task.fields[loss]:.4f}  lr {task.fields[rate]:.1e}")
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    bar = Bar(*columns, console=terminal)
    tasks: dict[str, TaskID] = {}
    spent = waited = 0.0
    said, steps = time.monotonic(), 0  # since then, of this stage

    def report(done: Progress) -> None:
        nonlocal spent, waited, said, steps
        loss = done.losses.get("total", math.nan)  # none while discriminators warm up
        if not tasks:  # nothing is drawn before the first step: bad input is one line
            bar.start()
        if done.stage not in tasks:
            tasks[done.stage] = bar.add_task(
                done.stage, total=done.steps, loss=loss, rate=done.learning_rate
            )
            said, steps = time.monotonic(), -1  # this one began earlier
        bar.update(tasks[done.stage], completed=done.step, loss=loss, rate=done.learning_rate)
        steps += 1
        if not terminal.is_terminal and (passed := time.monotonic() - said) > LOG_EVERY:
            left = datetime.timedelta(seconds=round((done.steps - done.step) * passed / steps))
            losses = ", ".join(f"{name} {value:.4g}" for name, value in done.losses.items())
            terminal.print(
                f"{done.stage} step {done.step} of {done.steps}: {steps / passed:.3g} steps/s, "
                f"{left} left, learning rate {done.learning_rate:.2e}, {losses}"
            )
            said, steps = time.monotonic(), 0
        spent, waited = spent + done.seconds, waited + done.waited
        if done.validation is None:
            return
        scores = {"PSNR-Y": done.validation.psnr_y, **done.validation.scores}
        figures = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        terminal.print(
            f"{done.stage} step {done.step}: {figures}, loss {loss:.4f}, "
            f"{waited / spent:.1%} of the time waiting for data"
        )
        for warning in warnings_of(done.validation):
            terminal.print(f"warning: {warning}", style="yellow", markup=False)

    try:
        from srtool.train.validation import warnings_of

        yield report
    finally:
        if tasks:
            bar.stop()


def _show_batch(recipe: Recipe, data: Path, path: Path) -> None:
    from srtool.train.data.augment import Mixture
    from srtool.train.data.patches import Patches, batches_of_every_kind, save_batches

    stage = recipe.stage2 or recipe.stage1
    assert stage is not None  # the recipe has one of them
    patches = Patches(data, stage.patch, 4, recipe.seed)
    if stage.augment is None:
        console.say("this recipe does not augment; shown is what augment: {} would do")
    batches = batches_of_every_kind(patches, stage.augment or Mixture())
    save_batches(path, batches)
    console.say("rows: " + ", ".join(name for name, *_ in batches))
    console.answer(str(path))


def _metrics(validation: Path | None) -> dict[str, Callable[[NDArray[np.uint8]], float]]:
    """NIQE of an upscaled image, where its parameters are installed."""
    if validation is None:
        return {}
    from srtool import assets
    from srtool.errors import AssetError, ImageError
    from srtool.images.colour import luma

    try:
        from srtool.benchmarks.metrics.niqe import load_niqe, niqe

        model = load_niqe(assets.asset_path("niqe"))
    except (AssetError, ModuleNotFoundError) as error:
        console.say(f"validation without NIQE: {error}")
        return {}

    def of_image(image: Any) -> float:
        try:
            return niqe(luma(image[4:-4, 4:-4]), model)
        except ImageError:  # too small or too flat: not a number
            return float("nan")

    return {"niqe": of_image}
