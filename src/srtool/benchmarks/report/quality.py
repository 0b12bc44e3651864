"""The tables of quality: metrics in the layout of the paper's Table 1, and parity with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.paper import paper_figures
from srtool.benchmarks.report.tables import EMPTY, Cell, Group, Table, date_text, figure, fixed
from srtool.benchmarks.scores import METRICS, Metric

if TYPE_CHECKING:
    from srtool.benchmarks.verify import Row, Verification

LOWER_IS_BETTER = {"pi", "niqe", "lpips"}


def quality_table(name: str, found: Evaluation) -> Table:
    """A block per data set, a row per metric, a column per engine, and the paper's own columns
    where it has one of the data sets. name: of the file."""
    paper = paper_figures()
    engines = _engines(found)
    theirs = paper["columns"] if paper["figures"].keys() & found.datasets.keys() else []
    groups = []
    for dataset, facts in found.datasets.items():
        rows = [
            _row(found, dataset, metric, engines, paper, theirs)
            for metric in METRICS.values()
            if _is_known(found, dataset, metric.name, paper)
        ]
        groups.append(Group(f"{dataset}, {_count(facts.get('images', 0), 'image')}", tuple(rows)))
    spans = (("", 1), ("measured here", len(engines)), ("printed in the paper", len(theirs)))
    remarks = [
        "Best of those measured here, and best of those printed, in bold. "
        "↑ higher is better, ↓ lower is better."
    ]
    if theirs:
        remarks.append(f"{paper['source']}.")
    return Table(
        f"{name}, {date_text(found.made)}",
        ("metric", *engines, *theirs),
        tuple(groups),
        spans=spans if theirs else (),
        remarks=tuple(remarks),
    )


def _engines(found: Evaluation) -> list[str]:
    named = [name for engines in found.mean.values() for name in engines]
    return list(dict.fromkeys([*found.engines, *named]))


def _is_known(found: Evaluation, dataset: str, metric: str, paper: dict[str, Any]) -> bool:
    measured = any(metric in means for means in found.mean.get(dataset, {}).values())
    return measured or metric in paper["figures"].get(dataset, {})


def _row(
    found: Evaluation,
    dataset: str,
    metric: Metric,
    engines: list[str],
    paper: dict[str, Any],
    theirs: list[str],
) -> tuple[Cell, ...]:
    images = found.datasets[dataset].get("images", 0)
    texts, notes = [], []
    for engine in engines:
        means = found.mean.get(dataset, {}).get(engine, {})
        count = found.counts.get(dataset, {}).get(engine, {}).get(metric.name, images)
        text = EMPTY if metric.name not in found.unavailable else "n/a"
        if metric.name in means:
            value = means[metric.name]
            text = "∞" if value is None else fixed(value, metric.digits)
        texts.append(text)
        notes.append("" if count == images else f"of {count}")
    printed = paper["figures"].get(dataset, {}).get(metric.name, [])
    figures = [fixed(value, metric.digits) for value in printed] or [EMPTY] * len(theirs)
    lower = metric.name in LOWER_IS_BETTER
    cells = [
        Cell(text, best, note)
        for text, best, note in zip(texts, best_of(texts, lower), notes, strict=True)
    ]
    cells += [
        Cell(text, best)
        for text, best in zip(figures[: len(theirs)], best_of(figures, lower), strict=False)
    ]
    return Cell(f"{_unbroken(metric.title)}\u00a0{'↓' if lower else '↑'}"), *cells


def _unbroken(title: str) -> str:
    return title.replace("-", "\u2011")


def best_of(texts: Sequence[str], lower: bool) -> list[bool]:
    """Which of the figures, as printed, are the best; none where there is nothing to compare."""
    values = [_value(text) for text in texts]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [False] * len(texts)
    best = min(known) if lower else max(known)
    return [value == best for value in values]


def _value(text: str) -> float | None:
    if text == "∞":
        return math.inf
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return None


# Changes against HR: title, name in Fidelity.deltas, digits.
_DELTAS = (
    ("ΔSSIM", "ssim", 5),
    ("ΔNIQE", "niqe", 4),
    ("ΔPI", "pi", 4),
    ("ΔLPIPS", "lpips", 5),
)


def parity_table(name: str, found: Verification) -> Table:
    """A row per engine and backend, each change as engine minus PyTorch, and the verdict."""
    columns = (
        "engine",
        "backend",
        "verdict",
        "max",
        "mean",
        "over 1 level",
        "PSNR, dB",
        "ΔPSNR-Y, dB",
        *(title for title, _, _ in _DELTAS),
        "worst tile, dB",
    )
    gates = found.gates
    remarks = (
        f"Against PyTorch FP32 ({found.model}). Differences in levels of 0..255; Δ is the engine's "
        "mean against HR minus PyTorch's. The worst tile has 32×32 LR pixels. To pass: PSNR "
        f"between both ≥ {gates.min_psnr:g} dB, ΔPSNR-Y within ±{gates.max_delta_psnr:g} dB, "
        f"ΔPI within ±{gates.max_delta_pi:g} where it is available.",
    )
    rows = tuple(_parity_row(row) for row in found.rows)
    images = _count(found.images, "image")
    table = Table(
        f"{name}: {found.dataset}, {images}, {date_text(found.made)}",
        columns,
        (Group("", rows),),
        words=3,
        remarks=remarks,
    )
    return table.without_empty_columns()


def _parity_row(row: Row) -> tuple[Cell, ...]:
    verdict = Cell("passes" if not row.missed else "; ".join(row.missed))
    start = Cell(PurePath(row.engine).name), Cell(row.backend), verdict
    found = row.fidelity
    if found is None:
        return *start, *[Cell(EMPTY)] * (6 + len(_DELTAS))
    tile = found.worst_tile
    return (
        *start,
        Cell(str(found.max_difference)),
        Cell(fixed(found.mean_difference, 5)),
        Cell(f"{100 * found.share_over_1:.3f} %"),
        Cell("equal" if found.psnr_between is None else fixed(found.psnr_between, 2)),
        Cell(fixed(found.delta_psnr, 4, signed=True)),
        *(Cell(fixed(found.deltas.get(name), digits, signed=True)) for _, name, digits in _DELTAS),
        Cell(figure(tile.psnr), note=f"{tile.image} at {tile.left},{tile.top}")
        if tile
        else Cell(EMPTY),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
