"""How an engine's cost per megapixel changes with size, batch, tile, threads, number of files and
callers at the same time.

With size and with files it must not: a large image is cut into tiles, a long list of files
is a short one over and over.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from srtool.benchmarks.speed.opened import Opened
from srtool.benchmarks.speed.process import Process
from srtool.benchmarks.speed.result import Axis, Point, Scaling
from srtool.benchmarks.speed.rounds import images_file, rotated, write_files
from srtool.system import cores

Open = Callable[..., Process]  # a process, closed when all is measured; threads: of it
Found = tuple[str, list["_Run"]]  # what stays the same, in words, and the points

# Width and height in LR pixels: 1, 4, 25 and 100 megapixels once upscaled by 4, in the shape of
# photographs.
SIZES = ((288, 216), (576, 432), (1444, 1083), (2888, 2166))
BATCHES = (1, 2, 4, 8, 16)
TILES = (64, 96, 128, 192, 256, 384, 512)
FILES = (10, 100, 1_000, 10_000)
CALLERS = (1, 2, 4, 8)
_BATCH_SIDE, _TILE_IMAGE, _THREAD_SIDE, _FILE_SIDE, _CALLER_SIDE = 64, 512, 256, 24, 128
_ROUNDS = 3
_REPEATS = 9
_CALLS = 8  # of each caller in a round
_LONG = 120.0  # seconds, after which no other round begins


@dataclass(frozen=True)
class _Run:
    """A point to be measured. go: runs in `process`, and gives the seconds of each run, and those
    of all together."""

    value: int
    megapixels: float
    process: Process
    go: Callable[[], tuple[list[float], float]]


def scaling_of(
    axis: Axis,
    candidate: str,
    open_candidate: Callable[[], Opened],
    folder: Path,
    report: Callable[[str], None],
) -> Scaling:
    """Measure one axis."""
    measure: Callable[[Open, Path], Found] = {
        "size": _sizes,
        "batch": _batches,
        "tile": _tiles,
        "threads": _threads,
        "files": _files,
        "callers": _callers,
    }[axis]
    with ExitStack() as stack:

        def opened(threads: int | None = None) -> Process:
            return stack.enter_context(Process(open_candidate, threads))

        fixed, runs = measure(opened, folder)
        points = _in_turn(runs, report, at_once=axis == "callers")
    return Scaling(axis=axis, candidate=candidate, fixed=fixed, points=tuple(points))


def _sizes(opened: Open, folder: Path) -> Found:
    process = opened()
    return "a 4:3 image of so many LR pixels", [
        _on_images(math.prod(size), process, folder, size) for size in SIZES
    ]


def _batches(opened: Open, folder: Path) -> Found:
    side, process = _BATCH_SIDE, opened()
    return f"images of {side}x{side} LR pixels", [
        _on_images(batch, process, folder, (side, side), batch) for batch in BATCHES
    ]


def _threads(opened: Open, folder: Path) -> Found:
    """A process for each number of threads: libraries count them once."""
    side, every = _THREAD_SIDE, cores()
    counts = sorted({1 << power for power in range(every.bit_length())} | {every})
    return f"an image of {side}x{side} LR pixels", [
        _on_images(count, opened(count), folder, (side, side)) for count in counts if count <= every
    ]


def _callers(opened: Open, folder: Path) -> Found:
    side, process = _CALLER_SIDE, opened()
    image = images_file(folder, (side, side), 1)
    return f"images of {side}x{side} LR pixels, one after the other from each", [
        _Run(count, side * side / 1e6, process, partial(process.call, image, count, _CALLS))
        for count in CALLERS
    ]


def _on_images(
    value: int, process: Process, folder: Path, size: tuple[int, int], batch: int = 1
) -> _Run:
    path = images_file(folder, size, batch)
    return _Run(value, batch * math.prod(size) / 1e6, process, lambda: _alone(process.run(path)))


def _alone(seconds: float) -> tuple[list[float], float]:
    return [seconds], seconds


def _tiles(opened: Open, folder: Path) -> Found:
    side, process = _TILE_IMAGE, opened()
    image = images_file(folder, (side, side), 1)

    def run(tile: int) -> tuple[list[float], float]:
        process.use_tile(tile)
        return _alone(process.run(image))

    return f"an image of {side}x{side} LR pixels", [
        _Run(tile, side * side / 1e6, process, partial(run, tile)) for tile in TILES
    ]


def _files(opened: Open, folder: Path) -> Found:
    side, process = _FILE_SIDE, opened()
    sources = write_files(folder / "many", max(FILES), side, side)
    process.run(images_file(folder, (side, side), 1))  # many come: nobody pays for settling

    def run(count: int) -> tuple[list[float], float]:
        return _alone(process.folder(sources[:count], (side, side), folder / "out").seconds)

    return f"PNG files of {side}x{side} LR pixels, from file to file", [
        _Run(count, count * side * side / 1e6, process, partial(run, count)) for count in FILES
    ]


def _in_turn(runs: list[_Run], report: Callable[[str], None], at_once: bool = False) -> list[Point]:
    """Rounds over all points, each beginning with another, so that a machine that drifts tilts no
    curve; once where a round takes minutes. A small point is run several times in a round: a short
    run sees only one of the speeds that the machine has. at_once: the runs of a point overlap."""
    seconds: dict[int, list[float]] = {run.value: [] for run in runs}
    whole = dict.fromkeys(seconds, 0.0)
    memory = dict.fromkeys(seconds, 0)
    runs[0].go()
    for run in runs:
        run.process.peak_memory()  # counted anew from here
    start = time.perf_counter()
    for number in range(_ROUNDS):
        if time.perf_counter() - start > _LONG:
            break
        report(f"round {number + 1} of {_ROUNDS}")
        for run in rotated(runs, number):
            share = max(it.megapixels for it in runs) / run.megapixels
            for _ in range(min(_REPEATS, math.ceil(share / 2))):
                each, together = run.go()
                seconds[run.value] += each
                whole[run.value] += together
            memory[run.value] = max(run.process.peak_memory() or 0, memory[run.value])
    return [
        Point(
            value=run.value,
            megapixels=run.megapixels,
            seconds=tuple(seconds[run.value]),
            rate=len(seconds[run.value]) / whole[run.value] if at_once else None,
            peak_memory=memory[run.value] or None,
        )
        for run in runs
    ]
