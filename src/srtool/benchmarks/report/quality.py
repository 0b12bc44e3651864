"""The tables of quality: metrics by data set, and parity with PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.scores import METRICS, Metric
from srtool.tables.table import (
    EMPTY,
    Cell,
    Table,
    best_of,
    count,
    date_text,
    figure,
    fixed,
    table_of,
)

if TYPE_CHECKING:
    from srtool.benchmarks.verify import Row, Verification
    from srtool.parity import Fidelity

# Between two machines the last bits of a sum differ.
ROUNDING = 1e-6


def merged(found: Sequence[tuple[str, Evaluation]]) -> Evaluation:
    """Evaluations of one protocol as one, by the names of their files. What two of them measured
    alike stands in it once; an engine whose figures differ is named with its file."""
    first = found[0][1]
    whole = Evaluation(protocol=first.protocol, made=max(item.made for _, item in found))
    for name, item in found:
        whole.unavailable |= item.unavailable
        whole.assets |= item.assets
        for dataset, engines in item.mean.items():
            whole.datasets.setdefault(dataset, item.datasets.get(dataset, {}))
            means = whole.mean.setdefault(dataset, {})
            counts = whole.counts.setdefault(dataset, {})
            for engine, figures in engines.items():
                known = means.get(engine, {})
                same = all(
                    _alike(known[metric], figures[metric]) for metric in known.keys() & figures
                )
                label = engine if same else f"{engine} ({name})"
                whole.engines.setdefault(label, item.engines.get(engine, {}))
                means[label] = known | figures if same else dict(figures)
                counts.setdefault(label, {}).update(item.counts.get(dataset, {}).get(engine, {}))
    measured = {name for engines in whole.mean.values() for row in engines.values() for name in row}
    for metric in measured & whole.unavailable.keys():
        del whole.unavailable[metric]
    return whole


def _alike(one: float | None, other: float | None) -> bool:
    """None: infinite."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=ROUNDING)


def quality_tables(found: Sequence[tuple[str, Evaluation]]) -> list[Table]:
    """One of all evaluations of a protocol."""
    by_protocol: dict[str, list[tuple[str, Evaluation]]] = {}
    for name, item in found:
        by_protocol.setdefault(json.dumps(item.protocol, sort_keys=True), []).append((name, item))
    return [
        quality_table(merged(items), caption=", ".join(name for name, _ in items))
        for items in by_protocol.values()
    ]


def quality_table(
    found: Evaluation,
    datasets: Sequence[str] = (),
    engines: Sequence[str] = (),
    metrics: Sequence[str] = (),
    paper: bool = False,
    caption: str = "",
) -> Table:
    """A block per data set, a row per engine, a column per metric; all of them where none is named.
    paper: also rows of what the paper printed, where it has the data set."""
    datasets = datasets or list(found.datasets)
    chosen = [
        metric
        for metric in METRICS.values()
        if (metric.name in metrics or not metrics) and metric.name not in found.unavailable
    ]
    remarks = [
        f"{METRICS[name].title} not measured: {why}"
        for name, why in found.unavailable.items()
        if name in METRICS and (name in metrics or not metrics)
    ]
    printed = paper_figures() if paper else {}
    if paper:
        remarks.append(f"{printed['source']}.")
    blocks = {}
    for dataset in datasets:
        rows = {
            engine: _engine_cells(found, dataset, engine, chosen)
            for engine in engines or found.mean.get(dataset, {})
        }
        for metric in chosen:
            measured = [cells for cells in rows.values() if metric.name in cells]
            best = best_of([cells[metric.name].text for cells in measured], metric.lower)
            for cells, is_best in zip(measured, best, strict=True):
                cells[metric.name] = replace(cells[metric.name], best=is_best)
        figures = printed.get("figures", {}).get(dataset, {})
        for at, method in enumerate(printed["columns"] if figures else ()):
            rows[f"paper: {method}"] = {
                metric.name: Cell(fixed(figures[metric.name][at], metric.digits))
                for metric in chosen
                if at < len(figures.get(metric.name, ()))
            }
        images = found.datasets.get(dataset, {}).get("images", 0)
        blocks[f"{dataset}, {count(images, 'image')}"] = rows.items()

    def of(metric: Metric) -> Callable[[tuple[str, dict[str, Cell]]], Cell | None]:
        return lambda row: row[1].get(metric.name)

    return table_of(
        caption,
        {
            "engine": lambda row: row[0],
            **{f"{it.title}\u00a0{'↓' if it.lower else '↑'}": of(it) for it in chosen},
        },
        blocks,
        remarks=remarks,
    )


def _engine_cells(
    found: Evaluation, dataset: str, engine: str, metrics: Sequence[Metric]
) -> dict[str, Cell]:
    """Means by metric, with the number of their images where some are left out."""
    images = found.datasets.get(dataset, {}).get("images", 0)
    means = found.mean.get(dataset, {}).get(engine, {})
    counts = found.counts.get(dataset, {}).get(engine, {})
    cells = {}
    for metric in metrics:
        if metric.name in means:
            value, of = means[metric.name], counts.get(metric.name, images)
            text = "∞" if value is None else fixed(value, metric.digits)
            cells[metric.name] = Cell(text, note="" if of == images else f"of {of}")
    return cells


def verification_table(found: Verification, name: str = "") -> Table:
    """A row per engine and backend, each change as engine minus PyTorch, and the verdict."""
    known = {name for row in found.rows if row.fidelity for name in row.fidelity.deltas}
    gates = found.gates
    niqe = "" if "pi" in known else f", NIQE within {100 * gates.max_relative_niqe:g} % of its own"
    remarks = [
        f"Against PyTorch FP32 ({found.model}); differences in levels of 0..255, Δ is the engine's "
        "mean against HR minus PyTorch's. To pass: PSNR between both ≥ "
        f"{gates.min_psnr:g} dB, ΔPSNR-Y within ±{gates.max_delta_psnr:g} dB, ΔPI within "
        f"±{gates.max_delta_pi:g}{niqe}."
    ]
    for metric, why in found.unavailable.items():
        gate = "; the gate is on NIQE" if metric == "pi" and "niqe" in known else ""
        remarks.append(f"{METRICS[metric].title} not measured: {why}{gate}")

    def of(text: Callable[[Fidelity], Cell | str]) -> Callable[[Row], Cell | str | None]:
        return lambda row: text(row.fidelity) if row.fidelity else None

    def change(metric: Metric) -> Callable[[Row], Cell | str | None]:
        return of(lambda it: fixed(it.deltas.get(metric.name), metric.digits, signed=True))

    caption = f"{found.dataset}, {count(found.images, 'image')}, {date_text(found.made)}"
    return table_of(
        f"{name}: {caption}" if name else caption,
        {
            "engine": lambda row: PurePath(row.engine).name,
            "backend": lambda row: row.backend,
            "verdict": lambda row: "; ".join(row.missed) or f"passes, {row.fidelity.grade}",
            "most levels": of(lambda it: str(it.max_difference)),
            "mean": of(lambda it: fixed(it.mean_difference, 5)),
            "over 1 level": of(lambda it: f"{100 * it.share_over_1:.3f} %"),
            "PSNR between, dB": of(
                lambda it: "equal" if it.psnr_between is None else fixed(it.psnr_between, 2)
            ),
            "ΔPSNR-Y, dB": of(lambda it: fixed(it.delta_psnr, 4, signed=True)),
            **{f"Δ{it.title}": change(it) for it in METRICS.values() if it.name in known},
            "worst tile, dB": of(_worst),
        },
        {"": found.rows},
        words=3,
        remarks=remarks,
    )


def _worst(found: Fidelity) -> Cell:
    tile = found.worst_tile
    if tile is None:
        return Cell(EMPTY)
    return Cell(figure(tile.psnr), note=f"{tile.image} at {tile.left},{tile.top}")


def paper_figures() -> dict[str, Any]:
    """The paper's Table 1: "columns", and "figures" by data set and metric."""
    text = (resources.files("srtool.benchmarks") / "paper.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures
