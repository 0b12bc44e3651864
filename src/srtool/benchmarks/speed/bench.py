"""`srtool bench`: all candidates of a network in processes of their own, run in turn on the same
images.

A process may be lucky or not for as long as it lives: where its memory lies, on which core its
threads wake. So each candidate gets several, one after the other, and what is reported is the
median over the runs of all.

A candidate that does not open, fails, or would take too long is left out with the reason, and the
others go on.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from itertools import product
from pathlib import Path

import psutil

from srtool.benchmarks.speed.baselines import Device
from srtool.benchmarks.speed.candidates import Runner, chosen_baselines, entries, pixels_of
from srtool.benchmarks.speed.machine import Sensors, busy_cores, only_gpu, this_machine
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.process import ProcessError, run_apart
from srtool.benchmarks.speed.result import Axis, Bench, Measured, Place, Roofline, Scaling, place_of
from srtool.benchmarks.speed.roofline import measured_roofline
from srtool.benchmarks.speed.rounds import FEWEST, images_file, interleaved, warm_up, write_files
from srtool.benchmarks.speed.scaling import scaling_of
from srtool.errors import EngineError
from srtool.export.flops import BYTES
from srtool.files import private_folder

Report = Callable[[str], None]

DEFAULT_SIZES = ((256, 256), (480, 270), (960, 540), (1920, 1080))
_SENSED = 2.0  # seconds: a GPU's power is the mean of the last one
_MEMORY = 0.6  # of what is free: more than that is not tried


@dataclass(frozen=True)
class Config:
    """sizes: width and height in LR pixels. seconds: of measuring per candidate, size and batch; a
    candidate that would take longer for one run is left out there. processes: of each candidate,
    one after the other, that share these seconds. files: of the end-to-end run, 0 for none.
    threads: CPUs that every candidate may use, None for all. backends, compared: see `entries`.
    device: where PyTorch's baselines run. gpu: number of the one that candidates see, None for all.
    """

    sizes: tuple[tuple[int, int], ...] = DEFAULT_SIZES
    batches: tuple[int, ...] = (1,)
    seconds: float = 20.0
    processes: int = 3
    files: int = 12
    threads: int | None = None
    backends: tuple[str, ...] = ("auto",)
    compared: tuple[str, ...] | None = None
    scaling: tuple[Axis, ...] = ()
    device: Device = "cpu"
    gpu: int | None = None


def device_here() -> Device:
    """Where PyTorch's baselines run: on a GPU that PyTorch sees, else on the CPU."""
    if importlib.util.find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return "cpu"


def bench(
    networks: Sequence[Network], config: Config, command: str, report: Report = lambda line: None
) -> Bench:
    """Measure networks one after the other. EngineError where no engine of a network
    runs, or there is no such GPU.

    On an interrupt (Ctrl-C) the result has what was measured in full until then; KeyboardInterrupt
    where that is nothing.
    """
    with only_gpu(config.gpu):
        return _bench(networks, config, command, report)


def _bench(networks: Sequence[Network], config: Config, command: str, report: Report) -> Bench:
    chosen_baselines(config.device, config.compared)  # a name that is none, before the work
    report("measuring how busy the machine is, and its peaks")
    busy = busy_cores()
    roofline = measured_roofline(config.device, config.threads)
    found: list[Measured] = []
    interrupted = False
    for network in networks:
        with private_folder() as folder:
            trial = _Trial(network, config, folder, report)
            try:
                trial.run()
            except KeyboardInterrupt:
                interrupted = True
        if not interrupted or any(runner.runs for runner in trial.runners):
            found.append(trial.result(roofline))
        if interrupted:
            break
    if interrupted and not found:
        raise KeyboardInterrupt
    return Bench(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=this_machine(config.gpu),
        busy=round(busy, 2),
        interrupted=interrupted,
        roofline=roofline,
        networks=tuple(found),
    )


class _Trial:
    """The candidates of a network while they are measured. absent: who is not -> why."""

    def __init__(self, network: Network, config: Config, folder: Path, report: Report) -> None:
        self.network, self.config, self.folder = network, config, folder
        self.report: Report = lambda line: report(f"{network.name}: {line}")
        self.runners: list[Runner] = []
        self.absent: dict[str, str] = {}
        self.scaling: list[Scaling] = []

    def run(self) -> None:
        config = self.config
        self._prepare()
        for number in range(config.processes):
            with ExitStack() as processes:
                self._open(number, processes)
                for place in product(config.sizes, config.batches):
                    self._time(place)
                if number == config.processes - 1 and config.files:
                    self._run_folders()
        best = min(self._engines(), key=lambda runner: runner.rate)  # now the only one in memory
        curves = [(axis, best) for axis in config.scaling]
        if "callers" not in config.scaling:  # what a service is asked first
            curves += [("callers", it) for it in self._engines() if it.is_service]
        for axis, runner in curves:
            saying = self._saying(axis)
            curve = scaling_of(axis, runner.name, runner.entry.open, self.folder, saying)
            self.scaling.append(curve)

    def result(self, roofline: Roofline) -> Measured:
        network, cost, reference = self.network, self.network.cost, self.runners[0]
        return Measured(
            network=network.name,
            architecture=network.facts.architecture,
            scale=network.facts.scale,
            flops=cost.flops if cost else None,
            moved=cost.moved if cost else None,
            parameters=cost.parameters if cost else None,
            sha256=network.facts.weights_sha256,
            reference=reference.name,
            candidates=tuple(runner.result(reference, roofline) for runner in self.runners),
            absent=self.absent,
            scaling=tuple(self.scaling),
        )

    def _saying(self, what: str) -> Report:
        return lambda line: self.report(f"{what}: {line}")

    def _engines(self) -> list[Runner]:
        return [runner for runner in self.runners if runner.entry.kind == "engine"]

    def _prepare(self) -> None:
        """Write the files of all, before any is open and holds its memory."""
        config = self.config
        taking_part, self.absent = entries(
            self.network, config.backends, config.compared, config.device, self.folder / "baselines"
        )
        for entry in taking_part:
            if entry.prepare is not None:
                self.report(f"preparing {entry.label}")
                try:
                    run_apart(entry.prepare)
                except ProcessError as error:
                    self.absent[entry.label] = str(error)
                    continue
            self.runners.append(Runner(entry, self.network))

    def _open(self, number: int, processes: ExitStack) -> None:
        """Fresh processes for all. Who does not open in the first one is absent, and who does not
        later on keeps what was measured before."""
        name, engines = f"process {number + 1} of {self.config.processes}", self._engines()
        for runner in list(self.runners):
            self.report(f"{name}: opening {runner.name}")
            try:
                runner.open((self.config.sizes[0], 1), self.folder, self.config.threads, processes)
            except ProcessError as error:
                if number:
                    runner.skipped[name] = str(error)
                else:
                    self.absent[runner.name] = str(error)
                    self.runners.remove(runner)
        if not self._engines():
            raise EngineError("; ".join(f"{it.name}: {self.absent[it.name]}" for it in engines))

    def _time(self, place: Place) -> None:
        """One size and batch on all candidates that can, in the processes that are open now."""
        config, name, images = self.config, place_of(*place), images_file(self.folder, *place)
        budget = config.seconds / config.processes
        warm_ups: dict[str, int] = {}
        for runner in self.runners:
            if not runner.is_open or name in runner.skipped:
                continue
            if place not in runner.runs and (why := self._too_much(runner, pixels_of(place))):
                runner.skipped[name] = why
                continue
            self.report(f"{name}: warming up {runner.name}")
            try:
                with Sensors() as runner.sensors:
                    least = _SENSED if config.device == "cuda" else 0.0
                    run = partial(runner.process.run, images)
                    warm_ups[runner.name] = warm_up(run, budget, least)
            except ProcessError as error:
                runner.leave(place, str(error))
                continue
            runner.device_memory += runner.sensors.device_memory or 0
            runner.process.peak_memory()  # counted anew from here
        active = {runner.name: runner for runner in self.runners if runner.name in warm_ups}
        runs = {name: partial(runner.process.run, images) for name, runner in active.items()}
        fewest = math.ceil(FEWEST / config.processes)
        seconds, failed = interleaved(runs, budget, fewest, self._saying(name))
        for label, why in failed.items():
            active[label].leave(place, why)
        for label, found in seconds.items():
            active[label].add(place, found, warm_ups[label])

    def _too_much(self, runner: Runner, pixels: int) -> str:
        """Why a candidate is not run on so many LR pixels, in words; empty where it is."""
        seconds, most, cost = runner.rate * pixels, self.config.seconds, self.network.cost
        if seconds > most and runner.runs:
            return f"a run would take about {seconds:.0f} s, more than the {most:g} s for all runs"
        if runner.entry.kind == "baseline" and cost and self.config.device == "cpu":
            needed = cost.live * pixels * BYTES["fp32"]
            free = psutil.virtual_memory().available
            if needed > _MEMORY * free:
                return f"takes about {needed / 1e9:.0f} GB as a whole, {free / 1e9:.0f} are free"
        return ""

    def _run_folders(self) -> None:
        """Engines from file to file."""
        size, count = self.config.sizes[0], self.config.files
        sources = write_files(self.folder / "files", count, *size)
        for runner in self._engines():
            self.report(f"a folder of {count} files by {runner.name}")
            try:
                found = runner.process.folder(sources, size, self.folder / "out")
                runner.end_to_end.append(found)
            except ProcessError as error:
                runner.skipped[f"{size[0]}x{size[1]}, {count} files"] = str(error)
