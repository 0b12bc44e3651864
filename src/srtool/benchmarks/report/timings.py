"""The tables of speed: of one network of a bench result, of all machines, and of two results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from srtool.benchmarks.report.standings import (
    Fastest,
    by_machine,
    by_speed,
    fastest,
    networks_of,
    places_of,
)
from srtool.benchmarks.speed.compare import Comparison, Row
from srtool.benchmarks.speed.result import Bench, Candidate, EndToEnd, Measured, Scaling, Timing
from srtool.tables.table import (
    EMPTY,
    Cell,
    Table,
    bytes_text,
    date_text,
    figure,
    fixed,
    percent,
    size_text,
    table_of,
    times,
)

Column = Callable[[Any], Cell | str]

AXES = {
    "size": ("LR pixels of the image", "image size"),
    "batch": ("images at once", "batch"),
    "tile": ("side of a tile, LR pixels", "tile"),
    "threads": ("threads", "threads"),
    "files": ("files", "files"),
    "callers": ("callers at the same time", "callers"),
}


def timing_table(network: Measured) -> Table:
    """A block per size and batch, a row per candidate; the fastest of each block is marked."""
    blocks = {size_text(*place): by_speed(network, place) for place in places_of(network)}
    best = {id(rows[0][1]) for rows in blocks.values()}

    def of(value: Callable[[Timing], float | None], marked: bool = False) -> Column:
        return lambda row: Cell(figure(value(row[1])), marked and id(row[1]) in best)

    return table_of(
        "Time of a run, from pixels in host memory to pixels in host memory",
        {
            "run by": lambda row: row[0].name,
            "speed": lambda row: speed_cell(network, *row),
            "LR MP/s": of(lambda it: it.lr_megapixels_per_second, True),
            "p50, ms": of(lambda it: 1e3 * it.p50, True),
            "p99, ms": of(lambda it: 1e3 * it.p99),
            "images/s": of(lambda it: it.images_per_second, True),
            "of the matrix peak": lambda row: percent(row[1].peak_share),
            "of the bandwidth": lambda row: percent(row[1].bandwidth_share),
            "memory": lambda row: bytes_text(row[1].peak_memory),
            "GPU memory": lambda row: bytes_text(row[1].device_memory),
            "W": of(lambda it: it.watts),
            "MHz": lambda row: fixed(row[1].clock, 0),
            "runs": lambda row: str(len(row[1].seconds)),
        },
        blocks,
        remarks=[
            f"Speed: how many times as fast as {network.reference}, the median of runs that took "
            "turns with it, and the lowest and highest."
        ],
    )


def speed_cell(network: Measured, candidate: Candidate, timing: Timing) -> Cell:
    """How many times as fast as the reference, which itself has 1."""
    if candidate.name == network.reference:
        return Cell("1")
    spread = timing.speed
    return times(spread.median, spread.low, spread.high) if spread else Cell(EMPTY)


def between(network: Measured, candidate: Candidate) -> str:
    """PSNR between a candidate's image and the reference's."""
    if candidate.psnr_between is None and candidate.name != network.reference:
        return "equal"
    return figure(candidate.psnr_between)


def candidate_table(network: Measured) -> Table:
    """What was timed: the software of each candidate, how long it takes to begin, and whether it
    makes the same image."""

    def name(it: Candidate) -> Cell:
        return Cell(it.name, note="reference" if it.name == network.reference else "")

    return table_of(
        "What was timed, and how far its images are from the reference's",
        {
            "run by": name,
            "software": lambda it: it.software,
            "precision": lambda it: it.precision,
            "load, s": lambda it: figure(it.load),
            "first image, s": lambda it: figure(it.cold),
            "PSNR between, dB": lambda it: between(network, it),
            "max difference, levels": lambda it: fixed(it.max_difference, 0),
        },
        {"": network.candidates},
        words=3,
        remarks=["Load: from a fresh process with nothing imported to a network that is ready."],
    )


def end_to_end_table(network: Measured) -> Table:
    """Folders of files through an engine, decoding and encoding included."""
    runs = [
        (candidate.name, run) for candidate in network.candidates for run in candidate.end_to_end
    ]

    def of(value: Callable[[EndToEnd], float]) -> Column:
        return lambda row: figure(value(row[1]))

    return table_of(
        "From files to files: decoding, upscaling and encoding at once",
        {
            "run by": lambda row: row[0],
            "images": lambda row: size_text(row[1].size),
            "files": lambda row: str(row[1].files),
            "wall time, s": of(lambda run: run.seconds),
            "images/s": of(lambda run: run.images_per_second),
            "decoding, s": of(lambda run: run.decode),
            "computing, s": of(lambda run: run.compute),
            "encoding, s": of(lambda run: run.encode),
            "compute share": lambda row: percent(row[1].share),
            "memory": lambda row: bytes_text(row[1].peak_memory),
        },
        {"": runs},
        words=2,
        remarks=["Compute share: how much of its own speed the engine keeps from file to file."],
    )


def scaling_table(network: Measured) -> Table:
    """How flat each scaling curve is."""

    def ends(curve: Scaling) -> str:
        return f"{curve.points[0].value} to {curve.points[-1].value}"

    return table_of(
        "Scaling: seconds per LR megapixel while one thing changes",
        {
            "axis": lambda it: AXES[it.axis][1],
            "run by": lambda it: it.candidate,
            "all else": lambda it: it.fixed,
            "range": ends,
            "lowest, s/MP": lambda it: figure(min(point.cost for point in it.points)),
            "highest, s/MP": lambda it: figure(max(point.cost for point in it.points)),
            "highest/lowest": lambda it: fixed(it.flatness, 2),
        },
        {"": network.scaling},
        words=4,
    )


def callers_table(network: Measured) -> Table:
    """What callers wait and get, by how many there are."""
    rows = {
        f"{curve.candidate}: {curve.fixed}": list(curve.points)
        for curve in network.scaling
        if curve.axis == "callers"
    }
    return table_of(
        "Callers at the same time: latency of a call, and what all get together",
        {
            "callers": lambda it: str(it.value),
            "p50, ms": lambda it: figure(1e3 * it.p50),
            "p95, ms": lambda it: figure(1e3 * it.p95),
            "images/s": lambda it: figure(it.rate),
            "LR megapixels/s": lambda it: figure(it.rate * it.megapixels),
        },
        rows,
    )


def speed_tables(network: Measured) -> list[Table]:
    """All that there is to say of one network."""
    made = (timing_table, candidate_table, end_to_end_table, scaling_table, callers_table)
    return [table for make in made if (table := make(network)).rows]


def fastest_table(benches: Iterable[Bench]) -> Table:
    """A row per machine and network."""
    rows = [
        (group, found)
        for group in by_machine(benches)
        for network in networks_of(group)
        if (found := fastest(network, group))
    ]
    return table_of(
        "Fastest engine of each network",
        {
            "machine": lambda row: _machine(row[0]),
            "network": lambda row: Cell(row[1].network.network, note=size_text(*row[1].place)),
            "fastest engine": lambda row: row[1].engine.name,
            "LR MP/s": lambda row: figure(row[1].timing.lr_megapixels_per_second),
            "over PyTorch eager fp32": lambda row: speed_cell(
                row[1].network, row[1].engine, row[1].timing
            ),
            "over the fastest other": lambda row: _ahead(row[1]),
            "rounds": lambda row: str(row[1].rounds) if row[1].rounds else None,
        },
        {"": rows},
        words=3,
    )


def _machine(benches: Sequence[Bench]) -> Cell:
    return Cell(benches[0].machine.title, note=max(bench.made for bench in benches)[:10])


def _ahead(found: Fastest) -> Cell:
    if not found.other or not found.ahead:
        return Cell(EMPTY, note=found.other.name if found.other else "")
    against = times(found.ahead.median, found.ahead.low, found.ahead.high)
    return Cell(against.text, note=f"{found.other.name}, {against.note}")


def machine_line(bench: Bench) -> str:
    """Where and when, with the measured peaks."""
    machine = bench.machine
    peaks = [f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in bench.roofline.matrix.items()]
    peaks += [f"{bench.roofline.bandwidth / 1e9:.0f} GB/s"] if bench.roofline.bandwidth else []
    parts = [machine.title, bytes_text(machine.memory), machine.platform]
    parts += [f"driver {machine.driver}"] if machine.driver else []
    line = f"{date_text(bench.made)}: {', '.join(parts)}"
    return f"{line}; measured peaks {', '.join(peaks)}" if peaks else line


def network_line(network: Measured) -> str:
    facts = [f"architecture {network.architecture}", f"×{network.scale}"]
    if network.parameters is not None:
        facts.append(f"{figure(network.parameters / 1e6)} million parameters")
    if network.flops is not None:
        facts.append(f"{figure(network.flops / 1e6)} MFLOP per LR pixel")
    return f"{network.network}: {', '.join(facts)}"


def comparison_table(found: Comparison) -> Table:
    """A row per candidate and size: the later over the earlier, with its interval and verdict."""

    def speed(row: Row) -> Cell:
        return times(row.ratio.median, row.ratio.low, row.ratio.high)

    return table_of(
        f"earlier: {found.before.made}, {found.before.machine.title}; "
        f"later: {found.after.made}, {found.after.machine.title}",
        {
            "network": lambda row: row.network,
            "run by": lambda row: row.candidate,
            "size": lambda row: row.place,
            "verdict": lambda row: row.verdict,
            "speed": speed,
            "against": lambda row: "reference" if row.relative else "seconds",
            "memory": lambda row: fixed(row.more_memory, 2),
            "runs": lambda row: f"{row.runs[0]}, {row.runs[1]}",
        },
        {"": found.rows},
        words=4,
        remarks=[
            "Speed: the later over the earlier with its 95 % interval; faster or slower where that "
            f"lies beyond {100 * found.tolerance:g} %.",
            *found.missing,
            *found.notes,
        ],
    )
