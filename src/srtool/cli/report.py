"""`srtool report`: everything that was measured, on one page."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from srtool.cli import needing
from srtool.cli import progress as console


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Files of `srtool bench`, `srtool evaluate --out` and `srtool verify --json`, or "
            "folders that hold them."
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
        str | None,
        typer.Option(help="What upscales the pictures: a shipped network, or an engine file."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Its weights, that PyTorch upscales the pictures with.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, the first ones by name.")] = 4,
    plots: Annotated[
        Path | None, typer.Option(help="Also write the plots to this folder, as PNG and SVG.")
    ] = None,
) -> None:
    """Write results as one HTML file that needs no network: tables, plots and pictures."""
    with needing("bench"):
        from srtool.benchmarks.report.drawing import write_plots
        from srtool.benchmarks.report.page import page_from_sources, write_page
        from srtool.benchmarks.report.pictures import pictures_from_images
        from srtool.benchmarks.report.sources import sources_from_paths

    from srtool.models import engine_path

    sources = sources_from_paths(results)
    pictures = []
    if images or engine or model:
        with console.status("upscaling") as show, needing("cpu,export"):
            pictures = pictures_from_images(
                images, engine_path(engine) if engine else None, model, count, show
            )
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    page = page_from_sources(sources, pictures, made)
    if plots:
        written = write_plots(plots, page.plots)
        console.say(f"{plots}: {len(written)} files of {len(page.plots)} plots")
    size = write_page(out, page)
    console.answer(f"{out}  {size / 1e6:.1f} MB")
