"""Which plots a report has, and what each says in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report import plots
from srtool.benchmarks.report.drawing import Plot
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.standings import by_machine, common_place, fastest
from srtool.benchmarks.report.timings import AXES, sizes_of
from srtool.benchmarks.scores import METRICS
from srtool.benchmarks.speed.result import Measured, Place
from srtool.tables.table import figure, percent, size_text

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
    """Of its speed, as far as there is something to show."""
    places = sizes_of(network)
    place = common_place(network)
    if place is not None:
        batch = places[0][1]
        if len({size for size, many in places if many == batch}) > 1:  # else there is no line
            yield Plot(
                slugs(network.network, "throughput"),
                "Throughput by image size",
                _throughput_alt(network, batch),
                plots.throughput_by_size(network, batch),
            )
        yield Plot(
            slugs(network.network, "latency"),
            "Distribution of latency",
            _latency_alt(network, place),
            plots.latency_distribution(network, *place),
        )
        if plots.shares_of(network, *place):
            yield Plot(
                slugs(network.network, "roofline"),
                "Share of the roofline",
                _roofline_alt(network, place),
                plots.roofline_share(network, *place),
            )
    curves = sorted((curve for curve in network.scaling if curve.points), key=lambda it: it.axis)
    for axis, group in groupby(curves, key=lambda curve: curve.axis):
        found = list(group)
        costs = "; ".join(
            f"{curve.candidate} {figure(min(point.cost for point in curve.points))} to "
            f"{figure(max(point.cost for point in curve.points))}"
            for curve in found
        )
        yield Plot(
            slugs(network.network, "scaling", axis),
            f"Scaling with {AXES[axis][1]}",
            f"{network.network}: seconds per LR megapixel over {AXES[axis][1]}: {costs}.",
            plots.scaling_curves(found, network),
        )


def _throughput_alt(network: Measured, batch: int) -> str:
    parts = []
    for candidate in network.candidates:
        timings = [timing for timing in candidate.timings if timing.batch == batch]
        if timings:
            rates = [timing.lr_megapixels_per_second for timing in timings]
            parts.append(f"{candidate.name} {figure(min(rates))} to {figure(max(rates))}")
    sizes = [size_text(size) for size, many in sizes_of(network) if many == batch]
    over = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"{network.network}: LR megapixels per second at {over}: {'; '.join(parts)}."


def _latency_alt(network: Measured, place: Place) -> str:
    timed = [(candidate, candidate.timing(*place)) for candidate in network.candidates]
    parts = [
        f"{candidate.name} {figure(1e3 * timing.p50)} ({figure(1e3 * timing.p99)})"
        for candidate, timing in timed
        if timing is not None
    ]
    return (
        f"{network.network}: milliseconds of a run at {size_text(*place)}, median and 99 %: "
        f"{'; '.join(parts)}."
    )


def _roofline_alt(network: Measured, place: Place) -> str:
    parts = [
        f"{candidate.name} {percent(timing.peak_share)} and {percent(timing.bandwidth_share)}"
        for candidate, timing in plots.shares_of(network, *place)
    ]
    return (
        f"{network.network}: share of the measured matrix peak and bandwidth at "
        f"{size_text(*place)}: {'; '.join(parts)}."
    )


def quality_plots(sources: Sources, slugs: Slugs) -> Iterator[Plot]:
    """Quality against speed, one for each machine and data set: all networks that were timed on the
    one and evaluated on the other."""
    evaluations = [found for _, found in sources.evaluations]
    datasets = dict.fromkeys(name for found in evaluations for name in found.datasets)
    for benches in by_machine(bench for _, bench in sources.benches):
        networks = [network for bench in benches for network in bench.networks]
        for dataset in datasets:
            standings = {}
            for metric in _metrics(networks, evaluations, dataset):
                unit = ", dB (higher is better)" if metric == "psnr" else " (lower is better)"
                found = list(_standings(networks, evaluations, dataset, metric))
                if len(found) >= FEWEST:
                    standings[METRICS[metric].title + unit] = found
            if standings:
                slug = slugs("quality against speed", dataset)
                yield _quality_plot(slug, standings, dataset, benches[0].machine.title)


def _quality_plot(
    slug: str, standings: dict[str, list[plots.Standing]], dataset: str, machine: str
) -> Plot:
    parts = [
        f"{it.name} {figure(it.quality, 4)} at {figure(it.fast)} ({it.engine}, {it.size})"
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


def _metrics(networks: list[Measured], evaluations: list[Evaluation], dataset: str) -> list[str]:
    known = [
        metric
        for metric in PLOTTED
        if any(_quality(it, evaluations, dataset, metric) is not None for it in networks)
    ]
    return known[:2]


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
