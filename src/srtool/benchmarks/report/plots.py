"""The plots of the report, one function each, from measured data to a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from srtool.benchmarks.report.drawing import (
    INK,
    MARKERS,
    MUTED,
    SERIES,
    blank,
    label_ends,
    settled,
    style,
)
from srtool.benchmarks.report.timings import AXES
from srtool.benchmarks.speed.result import Candidate, Measured, Scaling, Timing
from srtool.tables.table import figure as digits
from srtool.tables.table import size_text

ROW = 0.34  # inches of a row of a horizontal plot
LONGEST = 36  # letters of a name; the tables have the whole of it
WIDE_RANGE = 8  # largest over smallest, beyond which an axis is logarithmic


@dataclass(frozen=True)
class Standing:
    """A network in the plot of quality against speed. quality: a figure of a metric. fast, slow:
    LR megapixels per second of its fastest engine, `engine`, and of the reference, None where not
    timed, on images of `size`, in words."""

    name: str
    quality: float
    fast: float
    slow: float | None
    engine: str
    size: str


def throughput_by_size(network: Measured, batch: int) -> Figure:
    """LR megapixels per second over image size, a line per candidate: engines solid, baselines
    dashed."""
    lines = {
        candidate.name: sorted(
            (timing for timing in candidate.timings if timing.batch == batch),
            key=lambda timing: timing.size[0] * timing.size[1],
        )
        for candidate in network.candidates
    }
    lines = {name: timings for name, timings in lines.items() if timings}
    height = max(3.9, 1.2 + 0.2 * len(lines))
    with style():
        figure, (axes,) = blank(height)
        ends, looks = [], _looks(network)
        for name, timings in lines.items():
            colour, marker, dashes = looks[name]
            x = [math.prod(timing.size) for timing in timings]
            y = [timing.lr_megapixels_per_second for timing in timings]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dashes)
            ends.append((_short(name), x[-1], y[-1], colour))
        places = {math.prod(t.size): t.size for timings in lines.values() for t in timings}
        _log_x(axes, {place: size_text(size) for place, size in sorted(places.items())})
        _rate_y(axes, [y for _, _, y, _ in ends] + [t.lr_megapixels_per_second
                for timings in lines.values() for t in timings])  # fmt: skip
        axes.set(title=_throughput_title(network, batch), xlabel="image size, LR pixels")
        label_ends(axes, ends, height)
    return settled(figure)


def _throughput_title(network: Measured, batch: int) -> str:
    several = "" if batch == 1 else f", {batch} images at once"
    return f"{_short(network.network)}: throughput, LR megapixels/s{several}"


def latency_distribution(network: Measured, size: tuple[int, int], batch: int) -> Figure:
    """Every run as a dot, with the median, 90 % and 99 % marks, a row per candidate, the fastest on
    top."""
    timed = [(candidate, candidate.timing(size, batch)) for candidate in network.candidates]
    rows = sorted(
        ((candidate, timing) for candidate, timing in timed if timing is not None),
        key=lambda row: -row[1].p50,
    )
    with style():
        figure, (axes,) = blank(1.1 + ROW * len(rows))
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
            title=f"{_short(network.network)}: time of a run at {size_text(size, batch)}, ms",
            xlabel="ms; dots: runs, line: 10 % to 90 %, bar: median, tick: 99 %",
        )
    return settled(figure)


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
    with style():
        figure, panels = blank(3.9, len(standings))
        for axes, (metric, found) in zip(panels, standings.items(), strict=True):
            speeds = [value for it in found for value in (it.fast, it.slow) if value is not None]
            for number, standing in enumerate(found):
                _standing(axes, standing, SERIES[number % len(SERIES)])
            _scale(axes, "x", speeds)
            axes.margins(0.16, 0.2)
            axes.set(title=f"{dataset}: {metric}", xlabel="LR megapixels/s")
        panels[0].annotate(
            f"full: fastest engine, hollow: the reference, on {machine}",
            (0, -0.2),
            xycoords="axes fraction",
            color=MUTED,
        )
    return settled(figure)


def _standing(axes: Axes, standing: Standing, colour: str) -> None:
    if standing.slow is not None:
        ends = [standing.slow, standing.fast]
        axes.plot(ends, [standing.quality] * 2, color=colour, linewidth=1, linestyle=":")
        axes.plot([standing.slow], [standing.quality], "o", color=colour, markerfacecolor="none")
    axes.plot([standing.fast], [standing.quality], "o", color=colour, markersize=8)
    axes.annotate(
        _short(standing.name),
        (standing.fast, standing.quality),
        (0, 8),
        textcoords="offset points",
        color=colour,
        horizontalalignment="right",
        weight="bold",
    )


def scaling_curves(curves: Sequence[Scaling], network: Measured) -> Figure:
    """Seconds per LR megapixel while one thing changes, a line per candidate; all of one axis."""
    with style():
        figure, (axes,) = blank(3.6)
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
    return settled(figure)


def roofline_share(network: Measured, size: tuple[int, int], batch: int) -> Figure:
    """Of the measured peaks of the machine, how much each candidate uses, a pair of bars per
    candidate."""
    rows = shares_of(network, size, batch)
    with style():
        figure, (axes,) = blank(1.1 + 1.25 * ROW * len(rows))
        for row, (_, timing) in enumerate(reversed(rows)):
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
        names = [_short(candidate.name) for candidate, _ in reversed(rows)]
        place = size_text(size, batch)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_xlim(0, max(100.0, *(_percents(timing) for _, timing in rows)) * 1.12)
        axes.grid(visible=False, axis="y")
        axes.set(
            title=f"{_short(network.network)}: share of the roofline at {place}, %",
            xlabel="% of what the machine was measured to reach in the same run",
        )
    return settled(figure)


def _percents(timing: Timing) -> float:
    return 100 * max(timing.peak_share or 0.0, timing.bandwidth_share or 0.0)


def shares_of(
    network: Measured, size: tuple[int, int], batch: int
) -> list[tuple[Candidate, Timing]]:
    timed = [(candidate, candidate.timing(size, batch)) for candidate in network.candidates]
    known = [
        (candidate, timing)
        for candidate, timing in timed
        if timing and (timing.peak_share is not None or timing.bandwidth_share is not None)
    ]
    return sorted(known, key=lambda row: row[1].p50)


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


def _rate_y(axes: Axes, values: Sequence[float]) -> None:
    if max(values) > WIDE_RANGE * min(values):
        _scale(axes, "y", values)
    else:
        axes.set_ylim(0, 1.08 * max(values))


def _scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Logarithmic with plain numbers where the values are far apart, linear otherwise."""
    if max(values) <= WIDE_RANGE * min(values):
        return
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    decades = math.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
