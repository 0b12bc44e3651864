"""Which plots a report has, and what each says in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report import plots
from srtool.benchmarks.report.drawing import Plot
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.standings import by_machine, common_place, fastest
from srtool.benchmarks.report.timings import AXES, sizes_of
from srtool.benchmarks.scores import METRICS
from srtool.benchmarks.speed.result import Measured
from srtool.tables.table import figure as digits
from srtool.tables.table import size_text

FEWEST = 3  # networks in a plot of quality against speed; fewer are a table
PLOTTED = ("psnr", "pi", "niqe")  # against speed: PSNR, and the first of the others there is


class Slugs:
    """Names for files and ids, none given twice."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def __call__(self, *words: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "plot"
        self._given[slug] += 1
        return slug if self._given[slug] == 1 else self(slug, str(self._given[slug]))


def plots_of_network(network: Measured, slugs: Slugs) -> Iterator[Plot]:
    """Of its speed, as far as there is something to show. Their figures stand in the tables of the
    network, for who cannot see them."""

    def plot(word: str, title: str, figure: Figure) -> Plot:
        alt = f"{network.network}: {title}; the figures are in the tables of this network."
        return Plot(slugs(network.network, word), title, alt, figure)

    places = sizes_of(network)
    place = common_place(network)
    if place is not None:
        batch = places[0][1]
        if len({size for size, many in places if many == batch}) > 1:  # else there is no line
            figure = plots.throughput_by_size(network, batch)
            yield plot("throughput", "Throughput by image size", figure)
        figure = plots.latency_distribution(network, *place)
        yield plot("latency", "Distribution of latency", figure)
        if plots.shares_of(network, *place):
            figure = plots.roofline_share(network, *place)
            yield plot("roofline", "Share of the roofline", figure)
    curves = sorted((curve for curve in network.scaling if curve.points), key=lambda it: it.axis)
    for axis, group in groupby(curves, key=lambda curve: curve.axis):
        figure = plots.scaling_curves(list(group), network)
        yield plot(f"scaling {axis}", f"Scaling with {AXES[axis][1]}", figure)


def quality_plots(sources: Sources, slugs: Slugs) -> Iterator[Plot]:
    """Quality against speed, one for each machine and data set: all networks that were timed on the
    one and evaluated on the other."""
    evaluations = [found for _, found in sources.evaluations]
    datasets = dict.fromkeys(name for found in evaluations for name in found.datasets)
    for benches in by_machine(bench for _, bench in sources.benches):
        networks = [network for bench in benches for network in bench.networks]
        for dataset in datasets:
            standings: dict[str, list[plots.Standing]] = {}
            for metric in PLOTTED:
                unit = ", dB (higher is better)" if metric == "psnr" else " (lower is better)"
                found = list(_standings(networks, evaluations, dataset, metric))
                if len(found) >= FEWEST and len(standings) < 2:
                    standings[METRICS[metric].title + unit] = found
            if standings:
                slug = slugs("quality against speed", dataset)
                yield _quality_plot(slug, standings, dataset, benches[0].machine.title)


def _quality_plot(
    slug: str, standings: dict[str, list[plots.Standing]], dataset: str, machine: str
) -> Plot:
    parts = [
        f"{it.name} {digits(it.quality, 4)} at {digits(it.fast)} ({it.engine}, {it.size})"
        for found in standings.values()
        for it in found
    ]
    return Plot(
        slug,
        "Quality against speed",
        f"{' and '.join(standings)} on {dataset}, and LR megapixels per second on {machine}: "
        f"{'; '.join(parts)}.",
        plots.quality_against_speed(standings, dataset, machine),
    )


def evaluated_as(network: Measured, evaluation: Evaluation) -> str | None:
    """The engine of an evaluation that has the same weights, by SHA-256 or else by name."""
    by_name = None
    for name, facts in evaluation.engines.items():
        model = (facts.get("manifest") or {}).get("model", {})
        sums = {facts.get("sha256"), model.get("weights_sha256")} - {None, ""}
        if network.sha256 in sums:
            return name
        names = {
            Path(text).stem for text in (name, facts.get("file"), model.get("weights")) if text
        }
        unknown = not network.sha256 or not sums
        if by_name is None and unknown and Path(network.network).stem in names:
            by_name = name
    return by_name


def _quality(
    network: Measured, evaluations: list[Evaluation], dataset: str, metric: str
) -> float | None:
    for evaluation in evaluations:
        engine = evaluated_as(network, evaluation)
        found = evaluation.mean.get(dataset, {}).get(engine or "", {}).get(metric)
        if found is not None:
            return found
    return None


def _standings(
    networks: list[Measured], evaluations: list[Evaluation], dataset: str, metric: str
) -> Iterator[plots.Standing]:
    for network in networks:
        quality, best = _quality(network, evaluations, dataset, metric), fastest(network)
        if quality is None or best is None:
            continue
        reference = network.candidate(network.reference)
        slow = reference.timing(*best.place) if reference else None
        yield plots.Standing(
            network.network,
            quality,
            best.timing.lr_megapixels_per_second,
            slow.lr_megapixels_per_second if slow else None,
            best.engine.name,
            size_text(*best.place),
        )
