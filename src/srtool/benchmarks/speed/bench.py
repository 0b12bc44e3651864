"""`srtool bench`: all candidates of a network in processes of their own, run in turn on the same
images.

A process may be lucky or not for as long as it lives: where its memory lies, on which core its
threads wake. So each candidate gets several, one after the other, and what is reported is the
median over the runs of all.

A candidate that does not open, fails, or would take too long is left out with the reason, and the
others go on.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import psutil

from srtool.benchmarks.speed.baselines import Device
from srtool.benchmarks.speed.candidates import Entry, chosen_baselines, entries
from srtool.benchmarks.speed.machine import Sensors, busy_cores, this_machine
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.process import ProcessError, run_apart
from srtool.benchmarks.speed.result import Axis, Bench, Measured, Place, Roofline, Scaling, place_of
from srtool.benchmarks.speed.roofline import measured_roofline
from srtool.benchmarks.speed.runner import (
    Runner,
    Size,
    candidate_of,
    end_to_end,
    images_file,
    pixels_of,
)
from srtool.benchmarks.speed.scaling import scaling_of
from srtool.benchmarks.speed.timing import FEWEST, interleaved, warm_up
from srtool.errors import EngineError
from srtool.export.flops import BYTES

Report = Callable[[str], None]

DEFAULT_SIZES: tuple[Size, ...] = ((256, 256), (480, 270), (960, 540), (1920, 1080))
_SENSED = 2.0  # seconds: a GPU's power is the mean of the last one
_MEMORY = 0.6  # of what is free: more than that is not tried


@dataclass(frozen=True)
class Config:
    """seconds: of measuring per candidate, size and batch; a candidate that would take longer for
    one run is left out there. processes: of each candidate, one after the other, that share these
    seconds. files: of the end-to-end run, 0 for none. threads: CPUs that every candidate may use,
    None for all. backends, compared: see `entries`."""

    sizes: tuple[Size, ...] = DEFAULT_SIZES
    batches: tuple[int, ...] = (1,)
    seconds: float = 20.0
    processes: int = 3
    files: int = 12
    threads: int | None = None
    backends: tuple[str, ...] = ("auto",)
    compared: tuple[str, ...] | None = None
    scaling: tuple[Axis, ...] = ()
    device: Device = "cpu"


def device_here() -> Device:
    """Where PyTorch's baselines run: on a GPU that PyTorch sees, else on the CPU."""
    import importlib.util

    if importlib.util.find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return "cpu"


def bench(
    networks: Sequence[Network], config: Config, command: str, report: Report = lambda line: None
) -> Bench:
    """Measure networks one after the other. EngineError where no engine of a network runs.

    On an interrupt (Ctrl-C) the result has what was measured in full until then; KeyboardInterrupt
    where that is nothing.
    """
    chosen_baselines(config.device, config.compared)  # a name that is none, before the work
    report("measuring how busy the machine is, and its peaks")
    busy = busy_cores()
    roofline = measured_roofline(config.device, config.threads)
    found: list[Measured] = []
    interrupted = False
    for network in networks:
        measured, interrupted = _measured(network, config, roofline, report)
        found += [measured] if measured else []
        if interrupted:
            break
    if interrupted and not found:
        raise KeyboardInterrupt
    return Bench(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=this_machine(),
        busy=round(busy, 2),
        interrupted=interrupted,
        roofline=roofline,
        networks=tuple(found),
    )


def _measured(
    network: Network, config: Config, roofline: Roofline, report: Report
) -> tuple[Measured | None, bool]:
    """What was measured, None where nothing was, and whether there was an interrupt."""

    def say(line: str) -> None:
        report(f"{network.name}: {line}")

    runners: list[Runner] = []
    absent: dict[str, str] = {}
    scaling: list[Scaling] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="srtool-bench-") as name:
        folder = Path(name)
        try:
            found, absent = _prepared(network, config, folder, say)
            for number in range(config.processes):
                with ExitStack() as processes:
                    if number:
                        _open_again(runners, number, config, folder, processes, say)
                    else:
                        runners += _opened(found, absent, network, config, folder, processes, say)
                    for size in config.sizes:
                        for batch in config.batches:
                            _time(runners, network, (size, batch), config, folder, say)
                    if number == config.processes - 1 and config.files:
                        _run_folders(runners, config.sizes[0], config.files, folder, say)
            engines = [runner for runner in runners if runner.entry.kind == "engine"]
            best = min(engines, key=lambda runner: runner.rate)  # soon the only one in memory
            for axis in config.scaling:
                curve = scaling_of(axis, best.name, best.entry.open, folder, say)
                scaling.append(curve)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and not any(runner.runs for runner in runners):
        return None, True
    cost = network.cost
    measured = Measured(
        network=network.name,
        architecture=network.facts.architecture,
        scale=network.facts.scale,
        flops=cost.flops if cost else None,
        moved=cost.moved if cost else None,
        parameters=cost.parameters if cost else None,
        sha256=network.facts.weights_sha256,
        reference=runners[0].name,
        candidates=tuple(candidate_of(runner, runners[0], network, roofline) for runner in runners),
        absent=absent,
        scaling=tuple(scaling),
    )
    return measured, interrupted


def _prepared(
    network: Network, config: Config, folder: Path, report: Report
) -> tuple[list[Entry], dict[str, str]]:
    """Who takes part, with their files written; the others -> why not. All of that before any
    candidate is open and holds its memory."""
    taking_part, absent = entries(
        network, config.backends, config.compared, config.device, folder / "baselines"
    )
    for entry in list(taking_part):
        if entry.prepare is None:
            continue
        report(f"preparing {entry.label}")
        try:
            run_apart(entry.prepare)
        except ProcessError as error:
            absent[entry.label] = str(error)
            taking_part.remove(entry)
    return taking_part, absent


def _opened(
    taking_part: Sequence[Entry],
    absent: dict[str, str],
    network: Network,
    config: Config,
    folder: Path,
    processes: ExitStack,
    report: Report,
) -> list[Runner]:
    """Every candidate that opens and makes an image; the others become absent."""
    image = images_file(folder, config.sizes[0], 1)
    runners: list[Runner] = []
    for entry in taking_part:
        report(f"opening {entry.label}")
        try:
            runners.append(Runner(entry, network, image, config.threads, processes))
        except ProcessError as error:
            absent[entry.label] = str(error)
    if not any(runner.entry.kind == "engine" for runner in runners):
        engines = [entry.label for entry in taking_part if entry.kind == "engine"]
        raise EngineError("; ".join(f"{label}: {absent[label]}" for label in engines))
    return runners


def _open_again(
    runners: Sequence[Runner],
    number: int,
    config: Config,
    folder: Path,
    processes: ExitStack,
    report: Report,
) -> None:
    """Fresh processes for all candidates. One that does not open keeps what was measured before."""
    image = images_file(folder, config.sizes[0], 1)
    place = f"process {number + 1} of {config.processes}"
    for runner in runners:
        report(f"{place}: opening {runner.name}")
        try:
            runner.open(image, config.threads, processes)
        except ProcessError as error:
            runner.skipped[place] = str(error)


def _run_folders(
    runners: Sequence[Runner], size: Size, files: int, folder: Path, report: Report
) -> None:
    """Engines from file to file."""
    for runner in runners:
        if runner.entry.kind != "engine":
            continue
        report(f"a folder of {files} files by {runner.name}")
        try:
            runner.end_to_end.append(end_to_end(runner, size, files, folder))
        except ProcessError as error:
            runner.skipped[f"{size[0]}x{size[1]}, {files} files"] = str(error)


def _time(
    runners: Sequence[Runner],
    network: Network,
    place: Place,
    config: Config,
    folder: Path,
    report: Report,
) -> None:
    """One size and batch on all candidates that can, in the processes that are open now."""
    name = place_of(*place)
    images, pixels = images_file(folder, *place), pixels_of(place)
    budget = config.seconds / config.processes
    warm_ups: dict[str, int] = {}
    for runner in runners:
        if not runner.is_open or name in runner.skipped:
            continue
        why = "" if place in runner.runs else _too_much(runner, network, pixels, config)
        if why:
            runner.skipped[name] = why
            continue
        report(f"{name}: warming up {runner.name}")
        try:
            with Sensors() as sensors:
                least = _SENSED if config.device == "cuda" else 0.0
                warm_ups[runner.name] = warm_up(partial(runner.process.run, images), budget, least)
        except ProcessError as error:
            runner.leave(place, str(error))
            continue
        runner.sensors = sensors
        runner.device_memory += sensors.device_memory or 0
    active = {runner.name: runner for runner in runners if runner.name in warm_ups}
    for runner in active.values():
        runner.process.peak_memory()  # counted anew from here
    runs = {name: partial(runner.process.run, images) for name, runner in active.items()}
    seconds, failed = interleaved(
        runs, budget, math.ceil(FEWEST / config.processes), lambda line: report(f"{name}: {line}")
    )
    for label, why in failed.items():
        active[label].leave(place, why)
    for label, found in seconds.items():
        active[label].add(place, found, warm_ups[label])


def _too_much(runner: Runner, network: Network, pixels: int, config: Config) -> str:
    """Why a candidate is not run on so many LR pixels, in words; empty where it is."""
    seconds = runner.rate * pixels
    if seconds > config.seconds and runner.runs:
        return f"a run would take about {seconds:.0f} s, more than --seconds {config.seconds:g}"
    if runner.entry.kind == "baseline" and network.cost and config.device == "cpu":
        needed = network.cost.live * pixels * BYTES["fp32"]
        free = psutil.virtual_memory().available
        if needed > _MEMORY * free:
            return f"takes about {needed / 1e9:.0f} GB as a whole, and {free / 1e9:.0f} GB are free"
    return ""
