"""`srtool report`: everything that was measured, on one page."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from srtool.cli import console
from srtool.cli.console import needing
from srtool.cli.options import DeviceOption
from srtool.errors import UsageError


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Photographs, or folders of them, to see before and after; files of `srtool "
            "bench`, `srtool evaluate --out` and `srtool verify --json`, or folders of these."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file.")] = Path("report.html"),
    images: Annotated[
        Path | None,
        typer.Option(
            help="Pictures of these: HR images, or a folder with HR/ and optionally LRx4/. "
            "(default: photographs that srtool ships)"
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="What upscales the pictures: a shipped network, or an engine file. May be "
            "repeated. (default for photographs: the shipped x4 network)"
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Its weights, that PyTorch upscales the pictures with.")
    ] = None,
    device: DeviceOption = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, the first ones by name.")] = 4,
    plots: Annotated[
        Path | None, typer.Option(help="Also write the plots to this folder, as PNG and SVG.")
    ] = None,
) -> None:
    """Write results, or one's own photographs before and after, as one HTML file."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{out}: the report is an HTML file; expected a name that ends in .html",
            path=out,
            parameter="out",
            found=out.suffix,
            expected=".html",
        )
    with needing("bench"):
        from srtool.benchmarks.report.drawing import write_plots
        from srtool.benchmarks.report.page import page_from_sources, write_page
        from srtool.benchmarks.report.pictures import (
            pictures_from_images,
            pictures_from_photographs,
        )
        from srtool.benchmarks.report.sources import (
            results_and_photographs,
            sources_from_paths,
        )

    from srtool.models import engine_path

    files, photographs = results_and_photographs(results)
    sources = sources_from_paths(files)
    engines = [engine_path(name) for name in engine or ()]
    pictures, left_out = [], list[str]()
    if photographs:
        with console.status("upscaling") as show, needing("cpu"):
            pictures += pictures_from_photographs(
                photographs, engines or [engine_path()], count, show, device, left_out.append
            )
    if images or model or (engines and not photographs):
        with console.status("upscaling") as show, needing("cpu,export"):
            pictures += pictures_from_images(images, engines, model, count, show, device)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    page = page_from_sources(sources, pictures, made)
    if plots:
        written = write_plots(plots, page.plots)
        console.say(f"{plots}: {len(written)} files of {len(page.plots)} plots")
    size = write_page(out, page)
    console.answer(f"{out}  {size / 1e6:.1f} MB")
    for why in left_out:
        console.complain(f"left out: {why}")
    if left_out:
        raise typer.Exit(1)
