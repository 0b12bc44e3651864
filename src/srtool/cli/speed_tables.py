"""The tables of `srtool bench`, drawn with rich. Columns that do not fit stand in a table below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from srtool.cli.columns import Column, print_columns
from srtool.cli.progress import say
from srtool.cli.tables import WIDE

if TYPE_CHECKING:
    from rich.console import Console

    from srtool.benchmarks.speed.history.catalogue import Entry
    from srtool.benchmarks.speed.history.changes import Change
    from srtool.benchmarks.speed.history.compare import Comparison
    from srtool.benchmarks.speed.history.noise import Ratio
    from srtool.benchmarks.speed.result import Bench, Measured, Scaling, Side, Spread, Timing


def print_bench(bench: Bench) -> None:
    """For each network: its sides by size of the image, what holds for all sizes, how cost scales,
    and what was not run."""
    from srtool.benchmarks.speed.history.noise import BUSY

    console = _console()
    machine = bench.machine
    _line(
        console,
        f"{bench.made}: {machine.cpu}, {machine.cores} cores, {machine.memory / 1e9:.0f} GB, "
        f"{machine.platform}" + (f", {machine.gpu}, driver {machine.driver}" * bool(machine.gpu)),
    )
    peaks = [f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in bench.roofline.matrix.items()]
    peaks += [f"{bench.roofline.bandwidth / 1e9:.1f} GB/s"] if bench.roofline.bandwidth else []
    if peaks:
        _line(console, f"measured peaks: {', '.join(peaks)}")
    for measured in bench.networks:
        _print_measured(console, measured)
    if bench.busy is not None and bench.busy > BUSY:
        say(f"others used {bench.busy:.1f} cores when it began: only the ratios are to be trusted")


def _print_measured(console: Console, measured: Measured) -> None:
    facts = [f"{measured.architecture} x{measured.scale}"]
    facts += [f"{measured.parameters / 1e6:.2f} M parameters"] if measured.parameters else []
    facts += [f"{measured.flops / 1e6:.2f} MFLOP per LR pixel"] if measured.flops else []
    _line(console, f"\n{measured.network} ({', '.join(facts)})")
    places = {(timing.size, timing.batch) for side in measured.sides for timing in side.timings}
    for size, batch in sorted(places, key=lambda place: (place[0][0] * place[0][1], place[1])):
        found = [(side, side.timing(size, batch)) for side in measured.sides]
        timed = [(side, timing) for side, timing in found if timing is not None]
        batches = f", {batch} images a run" if batch > 1 else ""
        _line(console, f"\n{size[0]}x{size[1]}{batches}; speed against {measured.reference}:")
        print_columns(console, _timing_columns(timed))
    _line(console, f"\nall sizes; PSNR and levels against {measured.reference}:")
    print_columns(console, _side_columns(measured.sides))
    for scaling in measured.scaling:
        _print_scaling(console, scaling)
    for side in measured.sides:
        for place, why in side.skipped.items():
            say(f"{measured.network}, {side.name}, not run at {place}: {why}")
    for name, why in measured.absent.items():
        say(f"{measured.network}, not run: {name}: {why}")


def _timing_columns(timed: list[tuple[Side, Timing]]) -> list[Column]:
    def column(title: str, cell: Callable[[Timing], str]) -> Column:
        return Column(title, [cell(timing) for _, timing in timed])

    return [
        Column("side", [side.name for side, _ in timed], folds=True, key=True),
        column("ms p50", lambda timing: _figure(1e3 * timing.p50)),
        column("p90", lambda timing: _figure(1e3 * timing.p90)),
        column("p99", lambda timing: _figure(1e3 * timing.p99)),
        column("LR\nMP/s", lambda timing: _figure(timing.lr_megapixels_per_second)),
        column("speed", lambda timing: _times(timing.speed)),
        column("images/s", lambda timing: _figure(timing.images_per_second)),
        column("HR\nMP/s", lambda timing: _figure(timing.hr_megapixels_per_second)),
        column("of peak", lambda timing: _share(timing.peak_share)),
        column("of bandwidth", lambda timing: _share(timing.bandwidth_share)),
        column("MB", lambda timing: _megabytes(timing.peak_memory)),
        column("GPU MB", lambda timing: _megabytes(timing.device_memory)),
        column("W", lambda timing: "" if timing.watts is None else f"{timing.watts:.0f}"),
        column("MHz", lambda timing: "" if timing.clock is None else f"{timing.clock:.0f}"),
        column("runs", lambda timing: str(len(timing.seconds))),
    ]


def _side_columns(sides: Sequence[Side]) -> list[Column]:
    ends = {
        (end.files, end.size): f"{end.files} files of\n{end.size[0]}x{end.size[1]}, kept"
        for side in sides
        for end in side.end_to_end
    }
    columns = [
        Column("side", [side.name for side in sides], folds=True, key=True),
        Column("load s", [_figure(side.load) for side in sides]),
        Column("cold s", [_figure(side.cold) for side in sides]),
    ]
    for key, title in ends.items():
        found = [{(end.files, end.size): end for end in side.end_to_end} for side in sides]
        cells = [
            f"{_figure(end[key].images_per_second)}/s, {_share(end[key].share)}"
            if key in end
            else ""
            for end in found
        ]
        columns.append(Column(title, cells))
    return [
        *columns,
        Column("PSNR", [_difference(side) for side in sides]),
        Column(
            "levels",
            ["" if side.max_difference is None else str(side.max_difference) for side in sides],
        ),
        Column("precision", [side.precision for side in sides]),
        Column("software", [side.software for side in sides], folds=True),
    ]


def _print_scaling(console: Console, scaling: Scaling) -> None:
    _line(
        console,
        f"\n{scaling.side} by {scaling.axis} ({scaling.fixed}); the dearest pixel costs "
        f"{scaling.flatness:.2f}x the cheapest:",
    )
    points = scaling.points
    memory = [_megabytes(point.peak_memory) for point in points]
    columns = [
        Column(scaling.axis, [f"{point.value:,}" for point in points], key=True),
        Column("s per LR MP", [_figure(point.cost) for point in points]),
        Column("MB", memory),
        Column("runs", [str(len(point.seconds)) for point in points]),
    ]
    print_columns(console, columns)


def print_comparison(comparison: Comparison) -> None:
    """A row per side and size with its verdict, then the other figures, and the regressions."""
    console = _console()
    for word, made, machine in zip(
        ("earlier", "later"), comparison.made, comparison.machines, strict=True
    ):
        _line(console, f"{word}: {made}, {machine}")
    _line(
        console,
        "\nthe later over the earlier, with 95 % intervals; the verdict is about the column marked "
        f"*, beyond {100 * comparison.tolerance:g} %:",
    )
    rows = comparison.rows
    columns = [
        Column("network", [row.network for row in rows], folds=True, key=True),
        Column("side", [row.side for row in rows], folds=True, key=True),
        Column("size", [row.place for row in rows], key=True),
        Column("verdict", [row.verdict for row in rows], key=True),
        Column(
            "against the reference",
            [_interval(row.relative, row.judged == "relative") for row in rows],
        ),
        Column("speed", [_interval(row.raw, row.judged == "raw") for row in rows]),
        Column("runs", [f"{row.runs[0]}, {row.runs[1]}" for row in rows]),
    ]
    print_columns(console, columns)
    _print_changes(console, comparison.changes)
    for title, names in (
        ("only in the earlier", comparison.only_before),
        ("only in the later", comparison.only_after),
    ):
        for name in names:
            say(f"{title}: {name}")
    for note in comparison.notes:
        say(note)
    found = comparison.regressions
    undecided = sum(row.verdict in ("too few runs", "no verdict") for row in rows)
    without = f" ({undecided} of {len(rows)} rows without a verdict)" if undecided else ""
    if not found:
        _line(console, f"\nno regression beyond the noise{without}")
        return
    _line(console, f"\n{len(found)} regression{'s' * (len(found) > 1)}{without}:")
    for item in found:
        _line(console, f"  {item.line}")


def _print_changes(console: Console, changes: Sequence[Change]) -> None:
    """A row per side; memory in a line, where it changed by more than a tenth."""
    sides = list(dict.fromkeys((change.network, change.side) for change in changes))
    columns = [
        Column("network", [network for network, _ in sides], folds=True, key=True),
        Column("side", [side for _, side in sides], folds=True, key=True),
    ]
    figures = [change for change in changes if "memory" not in change.quantity]
    for figure in dict.fromkeys((change.quantity, change.at) for change in figures):
        found = {(c.network, c.side): c for c in figures if (c.quantity, c.at) == figure}
        title = ", ".join(part for part in figure if part)
        cells = [_from_to(found[side]) if side in found else "" for side in sides]
        columns.append(Column(title.replace(", ", "\n"), cells))
    if figures:
        _line(console, "\nother figures (load and cold are of a single start each):")
        print_columns(console, columns)
    for change in changes:
        if "memory" in change.quantity and abs(change.ratio - 1) > 0.1:
            megabytes = f"{change.before / 1e6:.0f} -> {change.after / 1e6:.0f} MB"
            _line(console, f"{change.line} ({megabytes})")


def print_catalogue(entries: Sequence[Entry]) -> None:
    """By network; estimates are marked. Sources and remarks stand below, by number."""
    console = _console()
    sources = list(dict.fromkeys(entry.source for entry in entries))
    for network in dict.fromkeys(entry.network for entry in entries):
        found = [entry for entry in entries if entry.network == network]
        _line(console, f"\n{network}, LR megapixels/s:")
        columns = [
            Column("hardware", [entry.hardware for entry in found], folds=True, key=True),
            Column("kind", [entry.kind for entry in found], key=True),
            Column("LR MP/s", [_speed(entry) for entry in found], key=True),
            Column("of roofline", [_range_share(entry) for entry in found]),
            Column("in", [entry.precision or "not stated" for entry in found]),
            Column("size", [entry.size for entry in found], folds=True),
            Column("software", [entry.software for entry in found], folds=True),
            Column("source", [str(1 + sources.index(entry.source)) for entry in found]),
        ]
        print_columns(console, columns)
    _line(console, "")
    for number, source in enumerate(sources, 1):
        _line(console, f"{number}: {source}")
    remarks: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for remark in entry.remarks:
            names = remarks.setdefault((f"{entry.kind}, {entry.hardware}", remark), [])
            if entry.network not in names:
                names.append(entry.network)
    for (what, remark), names in remarks.items():
        say(f"{what} ({', '.join(names)}): {remark}")
    if any(entry.share and not entry.precision for entry in entries):
        say("where no precision is stated, the share is of the roofline in the better one")
    if any(entry.kind == "estimate" for entry in entries):
        say(
            "estimates are of data sheets and not measured: the most that arithmetic and memory "
            "allow, with direct convolutions, FP32 sums and no TF32; engines reach less"
        )


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _figure(value: float) -> str:
    """Three digits, and all of them before the point."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 1 else f"{value:#.3g}"


def _times(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.median:.2f}x ({spread.low:.2f}-{spread.high:.2f})"


def _interval(ratio: Ratio | None, judged: bool) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.3f}x ({ratio.low:.3f}-{ratio.high:.3f})" + "*" * judged


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _megabytes(count: float | None) -> str:
    return "" if count is None else f"{count / 1e6:.0f}"


def _difference(side: Side) -> str:
    if side.max_difference is None:
        return ""
    return "equal" if side.psnr_between is None else f"{side.psnr_between:.1f} dB"


def _from_to(change: Change) -> str:
    if change.quantity == "end to end":
        return f"{100 * change.before:.0f} -> {100 * change.after:.0f} %"
    return f"{_figure(change.before)} -> {_figure(change.after)} s"


def _speed(entry: Entry) -> str:
    low, high = (f"{speed:.3g}" for speed in (entry.low, entry.high))
    if entry.kind == "estimate":
        return f"at most {high}"
    return low if low == high else f"{low}-{high}"


def _range_share(entry: Entry) -> str:
    if entry.share is None:
        return ""
    low, high = (f"{100 * share:.0f}" for share in entry.share)
    return f"{low} %" if low == high else f"{low}-{high} %"
