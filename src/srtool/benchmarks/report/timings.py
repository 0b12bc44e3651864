"""The tables of speed, of one network of a bench result."""

from __future__ import annotations

from srtool.benchmarks.report.tables import (
    EMPTY,
    Cell,
    Group,
    Table,
    bytes_text,
    figure,
    fixed,
    percent,
    size_text,
)
from srtool.benchmarks.speed.result import Measured, Side, Spread, Timing

AXES = {
    "size": ("LR pixels of the image", "image size"),
    "batch": ("images at once", "batch"),
    "tile": ("side of a tile, LR pixels", "tile"),
    "threads": ("threads", "threads"),
    "files": ("files", "files"),
}


def sizes_of(network: Measured) -> list[tuple[tuple[int, int], int]]:
    """All sizes and batches that a side was timed at, from small to large."""
    found = {(timing.size, timing.batch) for side in network.sides for timing in side.timings}
    return sorted(found, key=lambda place: (place[1], place[0][0] * place[0][1], place[0]))


def timing_table(network: Measured) -> Table:
    """A block per size and batch, a row per side; the fastest of each block is marked."""
    groups = []
    for size, batch in sizes_of(network):
        timed = [(side, side.timing(size, batch)) for side in network.sides]
        rows = [(side, timing) for side, timing in timed if timing is not None]
        fastest = min(timing.p50 for _, timing in rows)
        groups.append(
            Group(
                size_text(size, batch),
                tuple(_timing_row(network, side, timing, fastest) for side, timing in rows),
            )
        )
    table = Table(
        "Time of a run, from pixels in host memory to pixels in host memory",
        (
            "side",
            "p50, ms",
            "p90, ms",
            "p99, ms",
            "images/s",
            "LR MP/s",
            "HR MP/s",
            f"speed against {network.reference}",
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
            "Fastest of each size in bold. Speed: how many times as fast as the reference, the "
            "median of runs that took turns with it, and the lowest and highest.",
        ),
    )
    return table.without_empty_columns()


def _timing_row(network: Measured, side: Side, timing: Timing, fastest: float) -> tuple[Cell, ...]:
    best = timing.p50 == fastest
    speed = Cell("1") if side.name == network.reference else _spread(timing.speed)
    return (
        Cell(side.name),
        Cell(figure(1e3 * timing.p50), best),
        Cell(figure(1e3 * timing.p90)),
        Cell(figure(1e3 * timing.p99)),
        Cell(figure(timing.images_per_second), best),
        Cell(figure(timing.lr_megapixels_per_second), best),
        Cell(figure(timing.hr_megapixels_per_second), best),
        speed,
        Cell(percent(timing.peak_share)),
        Cell(percent(timing.bandwidth_share)),
        Cell(bytes_text(timing.peak_memory)),
        Cell(bytes_text(timing.device_memory)),
        Cell(figure(timing.watts)),
        Cell(EMPTY if timing.clock is None else f"{timing.clock:.0f}"),
        Cell(str(len(timing.seconds))),
    )


def _spread(speed: Spread | None) -> Cell:
    if speed is None:
        return Cell(EMPTY)
    return Cell(f"{fixed(speed.median, 2)}×", note=f"{speed.low:.2f} to {speed.high:.2f}")


def side_table(network: Measured) -> Table:
    """What was timed: the software of each side, how long it takes to begin, and whether it makes
    the same image."""
    rows = tuple(
        (
            Cell(side.name, note="reference" if side.name == network.reference else ""),
            Cell(side.kind),
            Cell(side.software),
            Cell(side.precision),
            Cell(figure(side.load)),
            Cell(figure(side.cold)),
            Cell(_between(network, side)),
            Cell(EMPTY if side.max_difference is None else str(side.max_difference)),
        )
        for side in network.sides
    )
    table = Table(
        "The sides, and how far their images are from the reference's",
        (
            "side",
            "kind",
            "software",
            "precision",
            "load, s",
            "first image, s",
            "PSNR between, dB",
            "max difference, levels",
        ),
        (Group("", rows),),
        words=4,
        remarks=("Load: from a fresh process with nothing imported to a network that is ready.",),
    )
    return table.without_empty_columns()


def _between(network: Measured, side: Side) -> str:
    if side.psnr_between is not None:
        return figure(side.psnr_between)
    return "equal" if side.max_difference == 0 and side.name != network.reference else EMPTY


def end_to_end_table(network: Measured) -> Table | None:
    """Folders of files through an engine, decoding and encoding included; None without any."""
    rows = tuple(
        (
            Cell(side.name),
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
        for side in network.sides
        for run in side.end_to_end
    )
    if not rows:
        return None
    columns = ("side", "images", "files", "wall time, s", "images/s", "decoding, s")
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
            Cell(scaling.side),
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
        ("axis", "side", "all else", "range", "lowest, s/MP", "highest, s/MP", "highest/lowest"),
        (Group("", rows),),
        words=4,
    )
