"""How an engine's cost per megapixel changes with size, batch, tile, threads and number of files.

With size and with files it must not: a large image is cut into tiles, a long list of files
is a short one over and over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srtool.benchmarks.speed.images import write_files
from srtool.benchmarks.speed.opened import Opened
from srtool.benchmarks.speed.process import Process
from srtool.benchmarks.speed.result import Axis, Point, Scaling
from srtool.benchmarks.speed.runner import images_file
from srtool.benchmarks.workers import cores
from srtool.errors import EngineError

Report = Callable[[str], None]
Found = tuple[str, list[Point]]  # what stays the same, in words, and the points

# Width and height in LR pixels: 1, 4, 25 and 100 megapixels once upscaled by 4, in the shape of
# photographs.
SIZES = ((288, 216), (576, 432), (1444, 1083), (2888, 2166))
BATCHES = (1, 2, 4, 8, 16)
TILES = (64, 96, 128, 192, 256, 384, 512)
FILES = (10, 100, 1_000, 10_000)
_BATCH_SIDE, _TILE_IMAGE, _THREAD_SIDE, _FILE_SIDE = 64, 512, 256, 24
_ROUNDS = 3
_REPEATS = 3
_LONG = 120.0  # seconds, after which no other round begins


@dataclass(frozen=True)
class _Run:
    """A point to be measured. go: runs once, and gives the seconds."""

    value: int
    megapixels: float
    go: Callable[[], float]


def scaling_of(
    axis: Axis, candidate: str, open_candidate: Callable[[], Opened], folder: Path, report: Report
) -> Scaling:
    """Measure one axis: rounds over all its points, the smaller ones between the larger ones, so
    that a machine that drifts tilts no curve."""
    measure = {
        "size": _sizes,
        "batch": _batches,
        "tile": _tiles,
        "threads": _threads,
        "files": _files,
    }[axis]
    fixed, points = measure(open_candidate, folder, report)
    return Scaling(axis=axis, candidate=candidate, fixed=fixed, points=tuple(points))


def _sizes(open_candidate: Callable[[], Opened], folder: Path, report: Report) -> Found:
    with Process(open_candidate) as process:
        runs = [
            _Run(
                width * height,
                width * height / 1e6,
                partial(process.run, images_file(folder, (width, height), 1)),
            )
            for width, height in SIZES
        ]
        return "a 4:3 image of so many LR pixels", _in_turn(runs, process, report)


def _batches(open_candidate: Callable[[], Opened], folder: Path, report: Report) -> Found:
    side = _BATCH_SIDE
    with Process(open_candidate) as process:
        paths = {batch: images_file(folder, (side, side), batch) for batch in BATCHES}
        runs = [
            _Run(batch, batch * side * side / 1e6, partial(process.run, path))
            for batch, path in paths.items()
        ]
        return f"images of {side}x{side} LR pixels", _in_turn(runs, process, report)


def _tiles(open_candidate: Callable[[], Opened], folder: Path, report: Report) -> Found:
    side = _TILE_IMAGE
    with Process(open_candidate) as process:
        image = images_file(folder, (side, side), 1)

        def run(tile: int) -> float:
            process.use_tile(tile)
            return process.run(image)

        runs = [_Run(tile, side * side / 1e6, partial(run, tile)) for tile in TILES]
        return f"an image of {side}x{side} LR pixels", _in_turn(runs, process, report)


def _threads(open_candidate: Callable[[], Opened], folder: Path, report: Report) -> Found:
    """A process for each number of threads: libraries count them once."""
    side, every = _THREAD_SIDE, cores()
    counts = sorted({1 << power for power in range(every.bit_length())} | {every})
    counts = [count for count in counts if count <= every]
    image = images_file(folder, (side, side), 1)
    with ExitStack() as stack:
        processes = {count: stack.enter_context(Process(open_candidate, count)) for count in counts}
        runs = [
            _Run(count, side * side / 1e6, partial(process.run, image))
            for count, process in processes.items()
        ]
        return f"an image of {side}x{side} LR pixels", _in_turn(runs, None, report)


def _files(open_candidate: Callable[[], Opened], folder: Path, report: Report) -> Found:
    side = _FILE_SIDE
    sources = write_files(folder / "many", max(FILES), side, side)
    with Process(open_candidate) as process:
        process.run(images_file(folder, (side, side), 1))  # many come: nobody pays for settling

        def run(count: int) -> float:
            found = process.folder(sources[:count], folder / "out")
            if found.failed:
                raise EngineError(f"{found.failed} of {count} files failed")
            return found.seconds

        runs = [_Run(count, count * side * side / 1e6, partial(run, count)) for count in FILES]
        return f"PNG files of {side}x{side} LR pixels, from file to file", _in_turn(
            runs, process, report
        )


def _in_turn(runs: Sequence[_Run], process: Process | None, report: Report) -> list[Point]:
    """Rounds over all points, once where a round takes minutes. What is a small part of others is
    run before and after each of them too, some times, so that all see the machine at all its
    speeds."""
    seconds: dict[int, list[float]] = {run.value: [] for run in runs}
    memory: dict[int, int] = {}

    def measure(run: _Run) -> None:
        seconds[run.value].append(run.go())
        held = process.peak_memory() if process else None
        memory[run.value] = max(held or 0, memory.get(run.value, 0))

    def measure_smaller(than: _Run) -> None:
        for run in runs:
            for _ in range(_REPEATS if run.megapixels < than.megapixels / 2 else 0):
                measure(run)

    runs[0].go()
    runs[0].go()
    if process:
        process.peak_memory()  # counted anew from here
    start = time.perf_counter()
    for number in range(_ROUNDS):
        if time.perf_counter() - start > _LONG:
            break
        for run in runs:
            report(f"round {number + 1} of {_ROUNDS}, {run.value}")
            measure_smaller(run)
            measure(run)
        measure_smaller(runs[-1])
    return [
        Point(
            value=run.value,
            megapixels=run.megapixels,
            seconds=tuple(seconds[run.value]),
            peak_memory=memory[run.value] or None,
        )
        for run in runs
    ]
