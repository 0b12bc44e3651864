"""The tables of `srtool evaluate` and `srtool assets`, drawn with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srtool.benchmarks.paper import paper_figures
from srtool.cli.progress import answer, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from srtool.benchmarks.evaluate import Result
    from srtool.benchmarks.evaluation import Evaluation
    from srtool.benchmarks.verify import Row, Verification
    from srtool.train.estimate import Estimate

WIDE = 200  # columns, where the output is no terminal


def print_assets() -> None:
    """Each asset, whether it is installed, and what for."""
    from rich.table import Table

    from srtool.assets import ASSETS, cache_folder, state

    table = Table("name", "file", "size", "state", "for", box=None)
    for asset in ASSETS:
        table.add_row(asset.name, asset.file, asset.size, state(asset), asset.purpose)
    _console().print(table)
    say(f"in {cache_folder()}; `srtool assets fetch NAME` downloads one")


def print_evaluation(result: Result, metrics: tuple[str, ...]) -> None:
    """The layout of the paper's Table 1: a block per data set, a row per metric, a column per
    engine, and the paper's own columns beside them where it has the data set."""
    found, datasets, engines = result.record, result.datasets, result.engines
    paper = paper_figures()
    columns = paper["columns"] if paper["figures"].keys() & set(datasets) else []
    console = _console()
    table = _table(found, datasets, engines, metrics, paper, columns)
    natural = console.measure(table, options=console.options.update(width=1000)).maximum
    if columns and natural > console.width:
        console.print(_table(found, datasets, engines, metrics, paper, []))
        answer("")
        console.print(_table(found, datasets, [], metrics, paper, columns))
    else:
        console.print(table)
    _print_remarks(found, datasets, engines, metrics)


# Columns of changes against HR: title, name in Fidelity.deltas, digits.
_DELTAS = (
    ("dSSIM", "ssim", 5),
    ("dNIQE", "niqe", 4),
    ("dPI", "pi", 4),
    ("dLPIPS", "lpips", 5),
)


def print_parity(found: Verification) -> None:
    """A row per engine and backend, each change as engine minus PyTorch, and the verdict."""
    from rich.table import Table

    from srtool.benchmarks.scores import METRICS

    known = {name for row in found.rows if row.fidelity for name in row.fidelity.deltas}
    deltas = [column for column in _DELTAS if column[1] in known]
    titles = ["max", "mean", "> 1", "PSNR", "dPSNR-Y", *(title for title, _, _ in deltas)]
    table = Table("engine", "backend", box=None, padding=(0, 1))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("worst tile")
    table.add_column("verdict")
    for row in found.rows:
        cells = _figures(row, deltas) if row.fidelity else [""] * (len(titles) + 1)
        verdict = "; ".join(row.missed) or "passes"
        table.add_row(row.engine, row.backend, *cells, verdict)
    console = _console()
    console.print(
        f"Against PyTorch FP32 ({found.model}) on {found.dataset} ({found.images} images), "
        "in levels of 0..255:"
    )
    console.print(table)
    for name, why in found.unavailable.items():
        gate = "; the gate is on NIQE" if name == "pi" and "niqe" not in found.unavailable else ""
        say(f"{METRICS[name].title} not measured: {why}{gate}")
    for mended in found.mixed:
        if mended.overflow:
            node = mended.overflow
            say(
                f"{mended.source}: {node.node} ({node.operation} of {node.module}) is the first "
                "to leave the range of float16"
            )
        say(
            f"{mended.source}: wrong in float16: {', '.join(mended.blocks)}; {mended.engine} keeps "
            f"{len(mended.float32_nodes)} of {mended.nodes} nodes in float32"
        )


def _figures(row: Row, deltas: list[tuple[str, str, int]]) -> list[str]:
    found = row.fidelity
    assert found is not None
    between = "equal" if found.psnr_between is None else f"{found.psnr_between:.2f} dB"
    tile = found.worst_tile
    return [
        str(found.max_difference),
        f"{found.mean_difference:.5f}",
        f"{100 * found.share_over_1:.3f} %",
        between,
        "" if found.delta_psnr is None else f"{found.delta_psnr:+.4f}",
        *(
            f"{found.deltas[name]:+.{digits}f}" if name in found.deltas else ""
            for _, name, digits in deltas
        ),
        f"{tile.image} at {tile.left},{tile.top}: {tile.psnr:.1f} dB" if tile else "",
    ]


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _table(
    found: Evaluation,
    datasets: list[str],
    engines: list[str],
    metrics: tuple[str, ...],
    paper: dict[str, Any],
    columns: list[str],
) -> Table:
    from rich.table import Table

    from srtool.benchmarks.scores import METRICS

    table = Table(box=None, padding=(0, 1))
    table.add_column("data set")
    table.add_column("metric")
    for engine in engines:
        table.add_column(engine, justify="right", overflow="fold", max_width=16)
    for column in columns:
        table.add_column(f"paper:\n{column}", justify="right", no_wrap=True)
    for dataset in datasets:
        images = found.datasets[dataset]["images"]
        title = f"{dataset} ({images})"
        for metric in (metric for metric in METRICS.values() if metric.name in metrics):
            cells = [
                _cell(found, dataset, engine, metric.name, metric.digits, images)
                for engine in engines
            ]
            figures = paper["figures"].get(dataset, {}).get(metric.name, [])
            if not figures and not engines:
                continue
            printed = [f"{figure:.{metric.digits}f}" for figure in figures[: len(columns)]]
            table.add_row(title, metric.title, *cells, *printed)
            title = ""
        table.add_section()
    return table


def _cell(
    found: Evaluation, dataset: str, engine: str, metric: str, digits: int, images: int
) -> str:
    """A mean, with the number of its images where some are left out."""
    means = found.mean.get(dataset, {}).get(engine, {})
    if metric in found.unavailable:
        return "n/a"
    if metric not in means:
        return "none"
    value, count = means[metric], found.counts[dataset][engine][metric]
    text = "inf" if value is None else f"{value:.{digits}f}"
    return text if count == images else f"{text} ({count})"


def _print_remarks(
    found: Evaluation, datasets: list[str], engines: list[str], metrics: tuple[str, ...]
) -> None:
    from srtool.benchmarks.scores import METRICS

    for metric in metrics:
        if metric in found.unavailable:
            say(f"{METRICS[metric].title} not measured: {found.unavailable[metric]}")
    names = [name for name in METRICS if name in metrics and name not in found.unavailable]
    for dataset in datasets:
        images = found.datasets[dataset]["images"]
        for engine in engines:
            over = {name: found.counts[dataset][engine].get(name, 0) for name in names}
            for count in sorted({count for count in over.values() if count < images}):
                titles = ", ".join(METRICS[name].title for name in names if over[name] == count)
                say(f"{dataset} by {engine}: {titles} over {count} of {images} images")


def print_estimates(found: list[Estimate]) -> None:
    """The table of `srtool train --dry-run`."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(item.stage for item in found), box=None)
    for name in dict.fromkeys(name for item in found for name in item.parameters):
        counts = [f"{item.parameters.get(name, 0):,}" for item in found]
        table.add_row(f"parameters, {name.replace('_', ' ')}", *counts)
    table.add_row("steps", *(f"{item.steps:,}" for item in found))
    table.add_row("a step", *(f"{item.step_seconds:.3f} s" for item in found))
    table.add_row("waiting for data", *(f"{item.waited:.1%}" for item in found))
    table.add_row("duration", *(_duration(item.seconds) for item in found))
    table.add_row(
        f"peak memory on {found[0].device}", *(f"{item.memory / 1e9:.2f} GB" for item in found)
    )
    Console().print(table)
    total = _duration(sum(item.seconds for item in found))
    say(f"together {total}, without validation; from 20 measured steps of each stage")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
