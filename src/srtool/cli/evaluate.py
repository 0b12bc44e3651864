"""`srtool evaluate` and `srtool verify`: how good an engine is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srtool.cli import console
from srtool.cli.console import check_form, needing, say
from srtool.cli.options import (
    Backend,
    DeviceOption,
    Format,
    FormatOption,
    RunPrecision,
    shard_from_text,
)
from srtool.errors import UsageError

if TYPE_CHECKING:
    from srtool.benchmarks.evaluate import Progress
    from srtool.benchmarks.verify import Verification


def evaluate(
    datasets: Annotated[
        list[Path], typer.Argument(help="Folders of images, or with HR/ and optionally LRx4/.")
    ],
    engine: Annotated[
        list[str],
        typer.Option(
            help="An engine file, a folder of upscaled images, bicubic or bicubic-float, or a "
            "server's model (grpc://HOST:8001/MODEL, http://HOST:8000/MODEL); NAME=PATH "
            "names its column. May be repeated."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Of psnr, ssim, ssim_wang, niqe, ma, pi, lpips; with commas. "
            "(default: pi,psnr,ssim_wang,ssim,niqe)"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json and images.csv; continues what it holds."),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="I/N: only that part of the images, into a folder of its own below --out; the "
            "same command without it gathers all parts."
        ),
    ] = None,
    y_rounding: Annotated[
        Literal["nearest", "none"],
        typer.Option(help="PSNR and SSIM on whole levels of Y, or unrounded."),
    ] = "nearest",
    backend: Annotated[Backend, typer.Option(help="Of .onnx files.")] = "auto",
    precision: Annotated[
        RunPrecision, typer.Option(help="Of .onnx files; auto is never below faithful.")
    ] = "auto",
    device: DeviceOption = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Also what the paper printed, where it has the data set."),
    ] = False,
    form: FormatOption = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, not the table.")] = False,
) -> None:
    """Score engines on data sets: PI, PSNR, SSIM, NIQE, LPIPS."""
    with needing("bench"):
        from srtool.benchmarks import evaluate as evaluation
        from srtool.benchmarks import scores
        from srtool.benchmarks.report.quality import quality_table

    check_form(form, as_json)
    names = scores.metrics_from_text(metrics) if metrics is not None else scores.DEFAULT_METRICS
    if shard and out is None:
        raise UsageError("--shard: needs --out, the folder that all parts share")
    config = evaluation.Config(
        names,
        y_rounding,
        shard=shard_from_text(shard) if shard else None,
        backend=backend,
        precision=precision,
        device=device,
    )
    try:
        with evaluation_progress() as report:
            result = evaluation.evaluate(datasets, engine, config, out, report)
    except KeyboardInterrupt:
        say("interrupted; " + ("the same command continues" if out else "nothing is kept"))
        raise
    if as_json:
        console.answer(result.record.model_dump_json())
    else:
        table = quality_table(result.record, result.datasets, result.engines, names, paper)
        console.print_tables([table], form)
    missing = [name for name in names if name in result.record.unavailable]
    if result.failed or (metrics and missing):
        raise typer.Exit(1)


def verify(
    model: Annotated[Path, typer.Argument(help="The weights: .safetensors or .pth.")],
    engines: Annotated[
        list[Path],
        typer.Argument(
            help=".onnx files exported from them, or a server's models (grpc://HOST:8001/MODEL)."
        ),
    ],
    images: Annotated[
        Path, typer.Option(help="HR images, or a folder with HR/ and optionally LRx4/.")
    ],
    backend: Annotated[
        Literal["all", "auto", "onnxruntime", "openvino"],
        typer.Option(help="auto: the one that `infer` would choose."),
    ] = "all",
    device: DeviceOption = None,
    max_delta_psnr: Annotated[
        float, typer.Option(min=0, help="Gate: change of the mean PSNR-Y against HR, dB.")
    ] = 0.02,
    max_delta_pi: Annotated[float, typer.Option(min=0, help="Gate: change of PI.")] = 0.01,
    max_relative_niqe: Annotated[
        float, typer.Option(min=0, help="Gate where PI is not measured: relative change of NIQE.")
    ] = 0.02,
    min_psnr: Annotated[float, typer.Option(help="Gate: dB between engine and PyTorch.")] = 50.0,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Where fp16 fails: name what goes wrong and write NAME.mixed.onnx, which passes.",
        ),
    ] = False,
    form: FormatOption = "text",
    json: Annotated[Path | None, typer.Option(help="Also write all figures to a file.")] = None,
) -> None:
    """Compare engines with PyTorch FP32 on real images, and certify those within the gates."""
    with needing("bench,export,cpu"):
        from srtool.benchmarks import verify as verifying
    from srtool.files import write_whole
    from srtool.parity import Gates

    gates = Gates(
        max_delta_psnr=max_delta_psnr,
        max_delta_pi=max_delta_pi,
        max_relative_niqe=max_relative_niqe,
        min_psnr=min_psnr,
    )
    config = verifying.Config(backend, gates, bisect, device=device)
    with evaluation_progress() as report:
        found = verifying.verify(model, engines, images, config, report)
    _print_verification(found, form)
    if json:
        write_whole(json, found.model_dump_json(indent=1) + "\n")
    if not found.passed:
        raise typer.Exit(1)


@contextmanager
def evaluation_progress() -> Iterator[Callable[[Progress], None]]:
    """A progress bar over upscaled and scored images; problems are printed above it."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    columns = MofNCompleteColumn(), TimeRemainingColumn()
    with console.progress_bar("scoring", *columns, total=None) as show:

        def report(event: Progress) -> None:
            show(completed=event.done, total=event.total)
            if event.message:
                console.complain(event.message)

        yield report


def _print_verification(found: Verification, form: Format) -> None:
    """A row per engine and backend, and what bisection found."""
    from srtool.benchmarks.report.quality import verification_table

    console.print_tables([verification_table(found)], form)
    for mixed in found.mixed:
        if node := mixed.overflow:
            say(
                f"{mixed.source}: {node.node} ({node.operation} of {node.module}) is the first "
                "to leave the range of float16"
            )
        say(
            f"{mixed.source}: wrong in float16: {', '.join(mixed.blocks)}; {mixed.engine} keeps "
            f"{len(mixed.float32_nodes)} of {mixed.nodes} nodes in float32"
        )
