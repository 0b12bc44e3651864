"""Who takes part: srtool's engines and what people run otherwise; and what is measured of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal, cast, get_args

import numpy as np

from srtool.benchmarks.speed.baselines import REFERENCE, Baseline, Device, baselines
from srtool.benchmarks.speed.machine import Sensors
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.opened import Opened, open_engine_candidate
from srtool.benchmarks.speed.process import Process, Ready
from srtool.benchmarks.speed.result import (
    Candidate,
    EndToEnd,
    Place,
    Roofline,
    Timing,
    place_of,
    spread,
)
from srtool.benchmarks.speed.rounds import Image, images_file, ratios
from srtool.errors import UsageError
from srtool.images.colour import psnr
from srtool.runtime.backends.kserve import KServe, service_at
from srtool.runtime.onnx_files import installed_backends
from srtool.runtime.plan_files import PLAN
from srtool.runtime.session import Backend, BackendName


@dataclass(frozen=True)
class Entry:
    """label: what it is called until it is open. open: can be pickled. file: of an engine. prepare:
    to be run before, in a process that is not measured."""

    label: str
    kind: Literal["engine", "baseline"]
    open: Callable[[], Opened]
    file: str = ""
    prepare: Callable[[], object] | None = None


def entries(
    network: Network,
    backends: Sequence[str],
    compared: Sequence[str] | None,
    device: Device,
    folder: Path,
) -> tuple[list[Entry], dict[str, str]]:
    """The reference first, then engines, then the other baselines.

    backends: as `open_engine_candidate` takes them, or "all". compared: parts of the names of
    baselines, None for all. folder: for files of baselines.
    Second result: baselines that have no weights to open -> why.
    """
    chosen = chosen_baselines(device, compared)
    engines = [
        Entry(
            f"{path.name} on {backend}",
            "engine",
            partial(open_engine_candidate, path, backend),
            path.name,
        )
        for path in network.engines
        for backend in _backends(path, backends)
    ]
    if network.weights is None:
        where = network.facts.weights or "the weights"
        why = f"needs {where}, which is neither beside the engine nor in weights/"
        return engines, {baseline.name: why for baseline in chosen}
    place = folder / network.name  # one for all: they share what they prepare
    place.mkdir(parents=True, exist_ok=True)
    others = [
        Entry(
            label=baseline.name,
            kind="baseline",
            open=partial(baseline.open, network.weights, place),
            prepare=baseline.prepare and partial(baseline.prepare, network.weights, place),
        )
        for baseline in chosen
    ]
    first = [entry for entry in others if entry.label == REFERENCE]
    return [*first, *engines, *(entry for entry in others if entry not in first)], {}


def chosen_baselines(device: Device, wanted: Sequence[str] | None) -> list[Baseline]:
    """Baselines whose names contain one of the words, None for all; UsageError for a word that none
    contains."""
    known = baselines(device)
    if wanted is None:
        return list(known)
    for word in wanted:
        if not any(word.lower() in baseline.name.lower() for baseline in known):
            names = ", ".join(baseline.name for baseline in known)
            raise UsageError(
                f"{word}: no such baseline; expected all, none, or parts of: {names}",
                parameter="baselines",
            )
    words = [word.lower() for word in wanted]
    return [item for item in known if any(word in item.name.lower() for word in words)]


def _backends(path: Path, wanted: Sequence[str]) -> list[Backend | BackendName]:
    """What to run a file on, as `open_engine_candidate` takes it."""
    if path.suffix == PLAN or service_at(path):
        return ["auto"]
    if "all" in wanted:
        return list(installed_backends())
    for name in wanted:
        if name not in get_args(BackendName):
            known = ", ".join(get_args(BackendName))
            raise UsageError(f"{name}: no such backend; expected all, {known}", parameter="backend")
    return [cast(BackendName, name) for name in wanted]


@dataclass
class Runs:
    """Of a candidate at a place, in all its processes; see `Timing`."""

    warm_up: int
    seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    peak_memory: int | None = None
    device_memory: int | None = None
    watts: float | None = None
    clock: float | None = None


class Runner:
    """A candidate while it is measured, in one process after the other.

    name: final once it is open. loads, colds: seconds to load, and of the first image, in each
    process. output: of the first image. rate: seconds per LR pixel of the last run. sensors: of
    the GPU while it ran alone; device_memory: by how much the present process made the GPU's grow,
    bytes. end_to_end, skipped: see `Candidate`.
    """

    process: Process
    ready: Ready
    output: Image
    rate: float

    def __init__(self, entry: Entry, network: Network) -> None:
        self.entry, self.network, self.name = entry, network, entry.label
        self.is_open = False
        self.loads: list[float] = []
        self.colds: list[float] = []
        self.sensors, self.device_memory = Sensors(), 0
        self.runs: dict[Place, Runs] = {}
        self.end_to_end: list[EndToEnd] = []
        self.skipped: dict[str, str] = {}

    def open(self, place: Place, folder: Path, threads: int | None, stack: ExitStack) -> None:
        """Start a process, load the candidate in it, and run its first image. ProcessError where it
        does not come so far, and then it is not `is_open`. stack: closes it."""
        self.is_open = False
        image = images_file(folder, *place)
        with Sensors() as sensors:
            self.process = stack.enter_context(Process(self.entry.open, threads))
            self.colds.append(self.process.run(image, times=1))
        self.device_memory = sensors.device_memory or 0
        self.loads.append(self.process.ready.seconds)
        if len(self.loads) == 1:
            self.ready, self.output = self.process.ready, self.process.result()
            self.rate = self.colds[0] / pixels_of(place)
            if self.entry.kind == "engine":  # with its file, where the network has several
                file = f", {self.entry.file}" if len(self.network.engines) > 1 else ""
                self.name = f"srtool, {self.ready.backend}{file}"
        self.is_open = True

    @property
    def is_service(self) -> bool:
        """Whether a server computes."""
        return self.ready.backend.split(" ")[0] == KServe.library

    def add(self, place: Place, seconds: Sequence[float], warm_up: int) -> None:
        """Keep what was measured at a place in the present process."""
        found = self.runs.setdefault(place, Runs(warm_up))
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

    def result(self, reference: Runner, roofline: Roofline) -> Candidate:
        """All that was measured, and how far the pixels are from the reference's."""
        between, largest = None, None
        if self is not reference:
            found = psnr(self.output, reference.output)
            between = found if math.isfinite(found) else None
            largest = int(np.abs(self.output.astype(np.int16) - reference.output).max())
        return Candidate(
            name=self.name,
            kind=self.entry.kind,
            software=self.ready.software,
            precision=self.ready.precision,
            load=median(self.loads),
            cold=median(self.colds),
            timings=tuple(self._timing(place, reference, roofline) for place in self.runs),
            end_to_end=tuple(self.end_to_end),
            psnr_between=between,
            max_difference=largest,
            skipped=self.skipped,
        )

    def _timing(self, place: Place, reference: Runner, roofline: Roofline) -> Timing:
        """With its share of the machine's measured peaks."""
        runs, theirs = self.runs[place], reference.runs.get(place)
        speed = None
        if theirs and self is not reference:
            speed = spread(ratios(runs.seconds, theirs.seconds))
        rate, cost = pixels_of(place) / median(runs.seconds), self.network.cost
        peak = roofline.matrix.get(self.ready.precision)
        width = 4 if self.ready.precision == "fp32" else 2
        return Timing(
            size=place[0],
            batch=place[1],
            scale=self.network.facts.scale,
            speed=speed,
            peak_share=rate * cost.flops / peak if cost and peak else None,
            bandwidth_share=rate * cost.moved * width / roofline.bandwidth
            if cost and roofline.bandwidth
            else None,
            **vars(runs),
        )


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def pixels_of(place: Place) -> int:
    """LR pixels of a run."""
    return math.prod(place[0]) * place[1]
