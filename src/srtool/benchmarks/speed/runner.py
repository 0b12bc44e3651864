"""A candidate while it is measured: its processes, its first image, its files, and what comes of
it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from srtool.benchmarks.speed.candidates import Entry
from srtool.benchmarks.speed.images import pieces, write_files
from srtool.benchmarks.speed.machine import Sensors
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.process import Process, ProcessError
from srtool.benchmarks.speed.result import (
    Candidate,
    EndToEnd,
    Place,
    Roofline,
    Timing,
    place_of,
    spread,
)
from srtool.benchmarks.speed.timing import ratios
from srtool.images.colour import psnr

Size = tuple[int, int]  # width, height in LR pixels


@dataclass
class Runs:
    """Of a candidate at a place, in all its processes; see `Timing`."""

    seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    warm_up: int = 0
    peak_memory: int | None = None
    device_memory: int | None = None
    watts: float | None = None
    clock: float | None = None


class Runner:
    """A candidate while it is measured, in one process after the other.

    output: of its first image. loads, colds: seconds to load, and of the first image, in each
    process. rate: seconds per LR pixel of the last run. sensors: of the GPU while it ran
    alone; device_memory: by how much the present process made the GPU's grow, bytes.
    end_to_end, skipped: see `Candidate`.
    """

    def __init__(
        self,
        entry: Entry,
        network: Network,
        image: Path,
        threads: int | None,
        stack: ExitStack,
    ) -> None:
        """Opens it; see `open`."""
        self.entry = entry
        self.loads: list[float] = []
        self.colds: list[float] = []
        self.sensors = Sensors()
        self.runs: dict[Place, Runs] = {}
        self.end_to_end: list[EndToEnd] = []
        self.skipped: dict[str, str] = {}
        self.open(image, threads, stack)
        self.ready, self.output = self.process.ready, self.process.result()
        self.name = entry.label
        if entry.kind == "engine":
            self.name = engine_name(network, self.ready.backend, entry.file)
        number, height, width = self.output.shape[:3]
        self.rate = self.colds[0] * network.facts.scale**2 / (number * height * width)

    def open(self, image: Path, threads: int | None, stack: ExitStack) -> None:
        """Start a process, load the candidate in it, and run its first image. ProcessError where it
        does not come so far, and then it is not `is_open`. stack: closes it."""
        self.is_open = False
        with Sensors() as sensors:
            self.process = stack.enter_context(Process(self.entry.open, threads))
            self.colds.append(self.process.run(image, times=1))
        self.loads.append(self.process.ready.seconds)
        self.device_memory = sensors.device_memory or 0
        self.is_open = True

    def add(self, place: Place, seconds: Sequence[float], warm_up: int) -> None:
        """Keep what was measured at a place in the present process."""
        found = self.runs.setdefault(place, Runs(warm_up=warm_up))
        found.seconds += seconds
        found.rounds.append(len(seconds))
        found.peak_memory = _most(found.peak_memory, self.process.peak_memory())
        found.device_memory = _most(found.device_memory, self.device_memory or None)
        found.watts, found.clock = self.sensors.watts, self.sensors.clock
        self.rate = min(seconds) / pixels_of(place)

    def leave(self, place: Place, why: str) -> None:
        """Be measured at a place no more, nor have been."""
        self.runs.pop(place, None)
        self.skipped[place_of(*place)] = why


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def pixels_of(place: Place) -> int:
    """LR pixels of a run."""
    return math.prod(place[0]) * place[1]


def engine_name(network: Network, backend: str, file: str) -> str:
    """What the candidate of an engine is called: with its file, where the network has several."""
    return f"srtool, {backend}" + (f", {file}" if len(network.engines) > 1 else "")


def images_file(folder: Path, size: Size, batch: int) -> Path:
    """A batch as a file, made when it is first asked for."""
    path = folder / f"{size[0]}x{size[1]}x{batch}.npy"
    if not path.exists():
        np.save(path, pieces(batch, *size))
    return path


def end_to_end(runner: Runner, size: Size, files: int, folder: Path) -> EndToEnd:
    """A folder of files through an engine. ProcessError where an image fails: seconds without it
    are no measure."""
    sources = write_files(folder / f"files-{files}", files, *size)
    runner.process.peak_memory()
    found = runner.process.folder(sources, folder / "out")
    if found.failed:
        raise ProcessError(f"{found.failed} of {files} images failed")
    return EndToEnd(
        files=files,
        size=size,
        seconds=found.seconds,
        decode=found.decode,
        compute=found.compute,
        encode=found.encode,
        peak_memory=runner.process.peak_memory(),
    )


def candidate_of(
    runner: Runner, reference: Runner, network: Network, roofline: Roofline
) -> Candidate:
    """All that was measured of a candidate, and how far its pixels are from the reference's."""
    between, largest = None, None
    if runner is not reference:
        found = psnr(runner.output, reference.output)
        between = found if math.isfinite(found) else None
        largest = int(np.abs(runner.output.astype(np.int16) - reference.output).max())
    ready = runner.ready
    return Candidate(
        name=runner.name,
        kind=runner.entry.kind,
        software=ready.software,
        precision=ready.precision,
        load=median(runner.loads),
        cold=median(runner.colds),
        timings=tuple(
            _timing(runner, place, reference, network, roofline) for place in runner.runs
        ),
        end_to_end=tuple(runner.end_to_end),
        psnr_between=between,
        max_difference=largest,
        skipped=runner.skipped,
    )


def _timing(
    runner: Runner, place: Place, reference: Runner, network: Network, roofline: Roofline
) -> Timing:
    found, base = runner.runs[place], None
    if runner is not reference and (theirs := reference.runs.get(place)):
        base = theirs.seconds
    timing = Timing(
        size=place[0],
        batch=place[1],
        seconds=tuple(found.seconds),
        rounds=tuple(found.rounds),
        warm_up=found.warm_up,
        scale=network.facts.scale,
        speed=spread(ratios(found.seconds, base)) if base else None,
        peak_memory=found.peak_memory,
        device_memory=found.device_memory,
        watts=found.watts,
        clock=found.clock,
    )
    return timing.model_copy(update=_shares(timing, network, runner.ready.precision, roofline))


def _shares(
    timing: Timing, network: Network, precision: str, roofline: Roofline
) -> dict[str, float | None]:
    """How much of the machine's measured peaks a candidate reaches."""
    rate = timing.lr_megapixels_per_second * 1e6
    peak, cost = roofline.matrix.get(precision), network.cost
    width = 4 if precision == "fp32" else 2
    return {
        "peak_share": rate * cost.flops / peak if cost and peak else None,
        "bandwidth_share": rate * cost.moved * width / roofline.bandwidth
        if cost and roofline.bandwidth
        else None,
    }
