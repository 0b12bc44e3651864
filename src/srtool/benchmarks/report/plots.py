"""The plots of the report: which there are, what each says in words, and how it is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Plot,
    Slugs,
    drawn,
    label_ends,
)
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.standings import (
    Fastest,
    by_machine,
    by_speed,
    common_place,
    evaluated_as,
    fastest,
    places_of,
)
from srtool.benchmarks.report.timings import AXES
from srtool.benchmarks.scores import METRICS
from srtool.benchmarks.speed.result import Measured, Place, Scaling, Timing
from srtool.tables.table import figure as digits
from srtool.tables.table import size_text

ROW = 0.34  # inches of a row of a horizontal plot
LONGEST = 36  # letters of a name; the tables have the whole of it
WIDE_RANGE = 8  # largest over smallest, beyond which an axis is logarithmic
FEWEST = 3  # networks in a plot of quality against speed; fewer are a table
PLOTTED = ("psnr", "pi", "niqe")  # against speed: PSNR, and the first of the others there is

Standing = tuple[Fastest, float]  # a network, and a figure of its quality


def plots_of_network(network: Measured, slugs: Slugs) -> Iterator[Plot]:
    """Of its speed, as far as there is something to show. Their figures stand in the tables of the
    network, for who cannot see them."""

    def plot(word: str, title: str, figure: Figure) -> Plot:
        alt = f"{network.network}: {title}; the figures are in the tables of this network."
        return Plot(slugs(network.network, word), title, alt, figure)

    place = common_place(network)
    if place is not None:
        places = list(places_of(network))
        batch = places[0][1]
        if len({size for size, many in places if many == batch}) > 1:  # else there is no line
            figure = throughput_by_size(network, batch)
            yield plot("throughput", "Throughput by image size", figure)
        yield plot("latency", "Distribution of latency", latency_distribution(network, place))
        if shares := roofline_share(network, place):
            yield plot("roofline", "Share of the roofline", shares)
    curves = sorted((curve for curve in network.scaling if curve.points), key=lambda it: it.axis)
    for axis, group in groupby(curves, key=lambda curve: curve.axis):
        figure = scaling_curves(list(group), network)
        yield plot(f"scaling {axis}", f"Scaling with {AXES[axis][1]}", figure)


def quality_plots(sources: Sources, slugs: Slugs) -> Iterator[Plot]:
    """Quality against speed, one for each machine and data set: all networks that were timed on the
    one and evaluated on the other."""
    evaluations = [found for _, found in sources.evaluations]
    datasets = dict.fromkeys(name for found in evaluations for name in found.datasets)
    for benches in by_machine(bench for _, bench in sources.benches):
        timed = [best for bench in benches for it in bench.networks if (best := fastest(it))]
        machine = benches[0].machine.title
        for dataset in datasets:
            standings: dict[str, list[Standing]] = {}
            for metric in PLOTTED:
                unit = ", dB (higher is better)" if metric == "psnr" else " (lower is better)"
                found = [
                    (best, quality)
                    for best in timed
                    if (quality := _quality(best.network, evaluations, dataset, metric)) is not None
                ]
                if len(found) >= FEWEST and len(standings) < 2:
                    standings[METRICS[metric].title + unit] = found
            if standings:
                parts = [
                    f"{best.network.network} {digits(quality, 4)} at "
                    f"{digits(best.timing.lr_megapixels_per_second)} ({best.engine.name}, "
                    f"{size_text(*best.place)})"
                    for found in standings.values()
                    for best, quality in found
                ]
                yield Plot(
                    slugs("quality against speed", dataset),
                    "Quality against speed",
                    f"{' and '.join(standings)} on {dataset}, and LR megapixels per second on "
                    f"{machine}: {'; '.join(parts)}.",
                    quality_against_speed(standings, dataset, machine),
                )


def _quality(
    network: Measured, evaluations: list[Evaluation], dataset: str, metric: str
) -> float | None:
    for evaluation in evaluations:
        engine = evaluated_as(network, evaluation)
        found = evaluation.mean.get(dataset, {}).get(engine or "", {}).get(metric)
        if found is not None:
            return found
    return None


def throughput_by_size(network: Measured, batch: int) -> Figure:
    """LR megapixels per second over image size, a line per candidate: engines solid, baselines
    dashed."""
    lines = {
        candidate.name: sorted(timings, key=lambda timing: math.prod(timing.size))
        for candidate in network.candidates
        if (timings := [timing for timing in candidate.timings if timing.batch == batch])
    }
    height = max(3.9, 1.2 + 0.2 * len(lines))
    with drawn(height) as (figure, (axes,)):
        ends, rates, looks = [], [], _looks(network)
        for name, timings in lines.items():
            colour, marker, dashes = looks[name]
            x = [math.prod(timing.size) for timing in timings]
            y = [timing.lr_megapixels_per_second for timing in timings]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dashes)
            ends.append((_short(name), x[-1], y[-1], colour))
            rates += y
        places = {math.prod(t.size): t.size for timings in lines.values() for t in timings}
        _log_x(axes, {place: size_text(size) for place, size in sorted(places.items())})
        if not _scale(axes, "y", rates):
            axes.set_ylim(0, 1.08 * max(rates))
        several = "" if batch == 1 else f", {batch} images at once"
        axes.set(
            title=f"{_short(network.network)}: throughput, LR megapixels/s{several}",
            xlabel="image size, LR pixels",
        )
        label_ends(axes, ends, height)
    return figure


def latency_distribution(network: Measured, place: Place) -> Figure:
    """Every run as a dot, with the median, 90 % and 99 % marks, a row per candidate, the fastest on
    top."""
    rows = by_speed(network, place)[::-1]
    with drawn(1.1 + ROW * len(rows)) as (figure, (axes,)):
        looks = _looks(network)
        for row, (candidate, timing) in enumerate(rows):
            _latency_row(axes, row, timing, looks[candidate.name][0])
        seconds = [1e3 * value for _, timing in rows for value in timing.seconds]
        axes.set_yticks(
            range(len(rows)), [_short(candidate.name) for candidate, _ in rows], color=INK
        )
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(visible=False, axis="y")
        _scale(axes, "x", seconds)
        axes.set(
            title=f"{_short(network.network)}: time of a run at {size_text(*place)}, ms",
            xlabel="ms; dots: runs, line: 10 % to 90 %, bar: median, tick: 99 %",
        )
    return figure


def _latency_row(axes: Axes, row: int, timing: Timing, colour: str) -> None:
    values = sorted(1e3 * value for value in timing.seconds)
    # Runs in the order of their time, over a quarter of a row up and down, so that they show.
    shifts = [row + 0.24 * math.sin(2.4 * number) for number in range(len(values))]
    axes.plot(values, shifts, ".", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
    low = values[int(0.1 * (len(values) - 1))]
    axes.plot([low, 1e3 * timing.p90], [row, row], color=colour, linewidth=2.4)
    axes.plot([1e3 * timing.p50], [row], "|", color=INK, markersize=15, markeredgewidth=2.4)
    axes.plot([1e3 * timing.p99], [row], "|", color=colour, markersize=9, markeredgewidth=1.4)


def quality_against_speed(
    standings: Mapping[str, Sequence[Standing]], dataset: str, machine: str
) -> Figure:
    """A panel per metric: every network at the speed of its fastest engine (full), and at that of
    the reference (hollow). standings: by the metric's title."""
    with drawn(3.9, len(standings)) as (figure, panels):
        for axes, (metric, found) in zip(panels, standings.items(), strict=True):
            speeds: list[float] = []
            for number, (best, quality) in enumerate(found):
                speeds += _standing(axes, best, quality, SERIES[number % len(SERIES)])
            _scale(axes, "x", speeds)
            axes.margins(0.16, 0.2)
            axes.set(title=f"{dataset}: {metric}", xlabel="LR megapixels/s")
        panels[0].annotate(
            f"full: fastest engine, hollow: the reference, on {machine}",
            (0, -0.2),
            xycoords="axes fraction",
            color=MUTED,
        )
    return figure


def _standing(axes: Axes, best: Fastest, quality: float, colour: str) -> list[float]:
    """Draw a network; its speeds."""
    fast = best.timing.lr_megapixels_per_second
    speeds = [fast]
    if best.reference:
        slow = best.reference.lr_megapixels_per_second
        speeds.append(slow)
        axes.plot([slow, fast], [quality] * 2, color=colour, linewidth=1, linestyle=":")
        axes.plot([slow], [quality], "o", color=colour, markerfacecolor="none")
    axes.plot([fast], [quality], "o", color=colour, markersize=8)
    axes.annotate(
        _short(best.network.network),
        (fast, quality),
        (0, 8),
        textcoords="offset points",
        color=colour,
        horizontalalignment="right",
        weight="bold",
    )
    return speeds


def scaling_curves(curves: Sequence[Scaling], network: Measured) -> Figure:
    """Seconds per LR megapixel while one thing changes, a line per candidate; all of one axis."""
    with drawn(3.6) as (figure, (axes,)):
        ends, looks = [], _looks(network)
        places = sorted({point.value for curve in curves for point in curve.points})
        for curve in curves:
            points = sorted(curve.points, key=lambda point: point.value)
            colour, marker, dashes = looks.get(curve.candidate, (MUTED, "o", "-"))
            x, y = [point.value for point in points], [point.cost for point in points]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dashes)
            ends.append(
                (f"{_short(curve.candidate)}, {digits(curve.flatness)}:1", x[-1], y[-1], colour)
            )
        _log_x(axes, {place: f"{place:,}".replace(",", " ") for place in places})
        axes.set_ylim(0, 1.1 * max(point.cost for curve in curves for point in curve.points))
        xlabel, name = AXES[curves[0].axis]
        axes.set(
            title=f"{_short(network.network)}: seconds per LR megapixel over {name}", xlabel=xlabel
        )
        label_ends(axes, ends, 3.6)
    return figure


def roofline_share(network: Measured, place: Place) -> Figure | None:
    """Of the measured peaks of the machine, how much each candidate uses, a pair of bars per
    candidate, the fastest on top; None where no share is known."""
    rows = [row for row in by_speed(network, place)[::-1] if _percents(row[1]) is not None]
    if not rows:
        return None
    with drawn(1.1 + 1.25 * ROW * len(rows)) as (figure, (axes,)):
        for row, (_, timing) in enumerate(rows):
            pairs = ((0.19, timing.peak_share, SERIES[0], "matrix peak"),
                     (-0.19, timing.bandwidth_share, SERIES[1], "bandwidth"))  # fmt: skip
            for shift, share, colour, name in pairs:
                if share is None:
                    continue
                axes.barh(row + shift, 100 * share, 0.34, color=colour)
                first = row == len(rows) - 1
                text = f"{100 * share:.1f} %" + (f" of the {name}" if first else "")
                axes.annotate(
                    text,
                    (100 * share, row + shift),
                    (4, 0),
                    textcoords="offset points",
                    color=colour,
                    verticalalignment="center",
                )
        names = [_short(candidate.name) for candidate, _ in rows]
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_xlim(0, max(100.0, *(_percents(timing) or 0.0 for _, timing in rows)) * 1.12)
        axes.grid(visible=False, axis="y")
        axes.set(
            title=f"{_short(network.network)}: share of the roofline at {size_text(*place)}, %",
            xlabel="% of what the machine was measured to reach in the same run",
        )
    return figure


def _percents(timing: Timing) -> float | None:
    known = [it for it in (timing.peak_share, timing.bandwidth_share) if it is not None]
    return 100 * max(known) if known else None


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _looks(network: Measured) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each candidate: engines first, so that theirs never repeat."""
    ordered = sorted(network.candidates, key=lambda candidate: candidate.kind == "baseline")
    return {
        candidate.name: (
            SERIES[number % len(SERIES)],
            MARKERS[number % len(MARKERS)],
            "-" if candidate.kind == "engine" else "--",
        )
        for number, candidate in enumerate(ordered)
    }


def _log_x(axes: Axes, names: dict[int, str]) -> None:
    """A logarithmic axis that names the places where something was measured, as many as fit."""
    axes.set_xscale("log")
    kept: list[int] = []
    span = math.log(max(names) / min(names)) if len(names) > 1 else 1.0
    for place in names:
        if not kept or math.log(place / kept[-1]) > span / 9:
            kept.append(place)
    axes.set_xticks(kept, [names[place] for place in kept])
    axes.xaxis.set_minor_locator(NullLocator())
    if len(names) == 1:
        (place,) = names
        axes.set_xlim(place / 2, place * 2)


def _scale(axes: Axes, which: str, values: Sequence[float]) -> bool:
    """Logarithmic with plain numbers where the values are far apart, linear otherwise; whether it
    is logarithmic."""
    if max(values) <= WIDE_RANGE * min(values):
        return False
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    return True
