"""The tables of speed: of one network of a bench result, and of two results compared."""

from __future__ import annotations

from srtool.benchmarks.report.standings import between
from srtool.benchmarks.speed.compare import Comparison
from srtool.benchmarks.speed.result import Bench, Candidate, Measured, Timing
from srtool.tables.table import (
    EMPTY,
    Cell,
    Group,
    Table,
    bytes_text,
    date_text,
    figure,
    fixed,
    percent,
    size_text,
    times,
)

AXES = {
    "size": ("LR pixels of the image", "image size"),
    "batch": ("images at once", "batch"),
    "tile": ("side of a tile, LR pixels", "tile"),
    "threads": ("threads", "threads"),
    "files": ("files", "files"),
}


def sizes_of(network: Measured) -> list[tuple[tuple[int, int], int]]:
    """All sizes and batches that a candidate was timed at, from small to large."""
    found = {
        (timing.size, timing.batch)
        for candidate in network.candidates
        for timing in candidate.timings
    }
    return sorted(found, key=lambda place: (place[1], place[0][0] * place[0][1], place[0]))


def timing_table(network: Measured) -> Table:
    """A block per size and batch, a row per candidate; the fastest of each block is marked."""
    groups = []
    for size, batch in sizes_of(network):
        timed = [(candidate, candidate.timing(size, batch)) for candidate in network.candidates]
        rows = [(candidate, timing) for candidate, timing in timed if timing is not None]
        rows.sort(key=lambda row: row[1].p50)
        fastest = rows[0][1].p50
        groups.append(
            Group(
                size_text(size, batch),
                tuple(
                    _timing_row(network, candidate, timing, fastest) for candidate, timing in rows
                ),
            )
        )
    table = Table(
        "Time of a run, from pixels in host memory to pixels in host memory",
        (
            "run by",
            "speed",
            "LR MP/s",
            "p50, ms",
            "p99, ms",
            "images/s",
            "of the matrix peak",
            "of the bandwidth",
            "memory",
            "GPU memory",
            "W",
            "MHz",
            "runs",
        ),
        tuple(groups),
        remarks=(
            f"Speed: how many times as fast as {network.reference}, the median of runs that took "
            "turns with it, and the lowest and highest.",
        ),
    )
    return table.without_empty_columns()


def _timing_row(
    network: Measured, candidate: Candidate, timing: Timing, fastest: float
) -> tuple[Cell, ...]:
    best = timing.p50 == fastest
    spread = timing.speed
    speed = times(spread.median, spread.low, spread.high) if spread else Cell(EMPTY)
    if candidate.name == network.reference:
        speed = Cell("1")
    return (
        Cell(candidate.name),
        speed,
        Cell(figure(timing.lr_megapixels_per_second), best),
        Cell(figure(1e3 * timing.p50), best),
        Cell(figure(1e3 * timing.p99)),
        Cell(figure(timing.images_per_second), best),
        Cell(percent(timing.peak_share)),
        Cell(percent(timing.bandwidth_share)),
        Cell(bytes_text(timing.peak_memory)),
        Cell(bytes_text(timing.device_memory)),
        Cell(figure(timing.watts)),
        Cell(EMPTY if timing.clock is None else f"{timing.clock:.0f}"),
        Cell(str(len(timing.seconds))),
    )


def candidate_table(network: Measured) -> Table:
    """What was timed: the software of each candidate, how long it takes to begin, and whether it
    makes the same image."""
    rows = tuple(
        (
            Cell(candidate.name, note="reference" if candidate.name == network.reference else ""),
            Cell(candidate.software),
            Cell(candidate.precision),
            Cell(figure(candidate.load)),
            Cell(figure(candidate.cold)),
            between(network, candidate),
            Cell(EMPTY if candidate.max_difference is None else str(candidate.max_difference)),
        )
        for candidate in network.candidates
    )
    table = Table(
        "What was timed, and how far its images are from the reference's",
        (
            "run by",
            "software",
            "precision",
            "load, s",
            "first image, s",
            "PSNR between, dB",
            "max difference, levels",
        ),
        (Group("", rows),),
        words=3,
        remarks=("Load: from a fresh process with nothing imported to a network that is ready.",),
    )
    return table.without_empty_columns()


def end_to_end_table(network: Measured) -> Table | None:
    """Folders of files through an engine, decoding and encoding included; None without any."""
    rows = tuple(
        (
            Cell(candidate.name),
            Cell(size_text(run.size)),
            Cell(str(run.files)),
            Cell(figure(run.seconds)),
            Cell(figure(run.images_per_second)),
            Cell(figure(run.decode)),
            Cell(figure(run.compute)),
            Cell(figure(run.encode)),
            Cell(percent(run.share)),
            Cell(bytes_text(run.peak_memory)),
        )
        for candidate in network.candidates
        for run in candidate.end_to_end
    )
    if not rows:
        return None
    columns = ("run by", "images", "files", "wall time, s", "images/s", "decoding, s")
    more = ("computing, s", "encoding, s", "compute share", "memory")
    table = Table(
        "From files to files: decoding, upscaling and encoding at once",
        (*columns, *more),
        (Group("", rows),),
        words=2,
        remarks=("Compute share: how much of its own speed the engine keeps from file to file.",),
    )
    return table.without_empty_columns()


def scaling_table(network: Measured) -> Table | None:
    """How flat each scaling curve is; None without any."""
    rows = tuple(
        (
            Cell(AXES[scaling.axis][1]),
            Cell(scaling.candidate),
            Cell(scaling.fixed),
            Cell(f"{scaling.points[0].value} to {scaling.points[-1].value}"),
            Cell(figure(min(point.cost for point in scaling.points))),
            Cell(figure(max(point.cost for point in scaling.points))),
            Cell(fixed(scaling.flatness, 2)),
        )
        for scaling in network.scaling
        if scaling.points
    )
    if not rows:
        return None
    return Table(
        "Scaling: seconds per LR megapixel while one thing changes",
        ("axis", "run by", "all else", "range", "lowest, s/MP", "highest, s/MP", "highest/lowest"),
        (Group("", rows),),
        words=4,
    )


def speed_tables(network: Measured) -> list[Table]:
    """All that there is to say of one network."""
    found = (
        timing_table(network),
        candidate_table(network),
        end_to_end_table(network),
        scaling_table(network),
    )
    return [table for table in found if table is not None and table.rows]


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
    rows = tuple(
        (
            Cell(row.network),
            Cell(row.candidate),
            Cell(row.place),
            Cell(row.verdict),
            times(row.ratio.median, row.ratio.low, row.ratio.high),
            Cell("reference" if row.relative else "seconds"),
            Cell(fixed(row.more_memory, 2)),
            Cell(f"{row.runs[0]}, {row.runs[1]}"),
        )
        for row in found.rows
    )
    caption = (
        f"earlier: {found.before.made}, {found.before.machine.title}; "
        f"later: {found.after.made}, {found.after.machine.title}"
    )
    columns = ("network", "run by", "size", "verdict", "speed", "against", "memory", "runs")
    remarks = (
        "Speed: the later over the earlier with its 95 % interval; faster or slower where that "
        f"lies beyond {100 * found.tolerance:g} %.",
        *found.missing,
        *found.notes,
    )
    return Table(caption, columns, (Group("", rows),), words=4, remarks=remarks)
