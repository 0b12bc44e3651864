"""`srtool bench`: all sides of a network in processes of their own, run in turn on the same images.

A side that does not open, fails, or would take too long is left out with the reason, and the
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
from srtool.benchmarks.speed.machine import Sensors, busy_cores, this_machine
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.result import (
    Axis,
    Bench,
    Measured,
    Roofline,
    Timing,
    spread,
)
from srtool.benchmarks.speed.roofline import measured_roofline
from srtool.benchmarks.speed.runner import (
    Runner,
    Size,
    end_to_end,
    images_file,
    opened_runner,
    side_of,
)
from srtool.benchmarks.speed.scaling import scaling_of
from srtool.benchmarks.speed.sides import contestants
from srtool.benchmarks.speed.timing import interleaved, ratios, warm_up
from srtool.benchmarks.speed.worker import WorkerError, run_apart
from srtool.errors import EngineError
from srtool.export.flops import BYTES

Report = Callable[[str], None]

DEFAULT_SIZES: tuple[Size, ...] = ((256, 256), (480, 270), (960, 540), (1920, 1080))
_SENSED = 2.0  # seconds: a GPU's power is the mean of the last one
_MEMORY = 0.6  # of what is free: more than that is not tried


@dataclass(frozen=True)
class Config:
    """seconds: of measuring per side, size and batch; a side that would take longer for one run
    is left out there. files: of the end-to-end run, 0 for none. threads: CPUs that every side may
    use, None for all. backends, compared: see `contestants`."""

    sizes: tuple[Size, ...] = DEFAULT_SIZES
    batches: tuple[int, ...] = (1,)
    seconds: float = 20.0
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
    """Measure networks one after the other. EngineError where no engine of a network runs."""
    report("measuring how busy the machine is, and its peaks")
    busy = busy_cores()
    roofline = measured_roofline(config.device, config.threads)
    found = [_measured(network, config, roofline, report) for network in networks]
    return Bench(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        machine=this_machine(),
        busy=round(busy, 2),
        roofline=roofline,
        networks=tuple(found),
    )


def _measured(network: Network, config: Config, roofline: Roofline, report: Report) -> Measured:
    def say(line: str) -> None:
        report(f"{network.name}: {line}")

    with tempfile.TemporaryDirectory(prefix="srtool-bench-") as name:
        folder = Path(name)
        with ExitStack() as processes:
            runners, absent = _all_opened(network, config, folder, processes, say)
            for size in config.sizes:
                for batch in config.batches:
                    _time(runners, network, size, batch, config, roofline, folder, say)
            engines = [runner for runner in runners if runner.contestant.kind == "engine"]
            for runner in engines if config.files else []:
                say(f"a folder of {config.files} files by {runner.name}")
                size = config.sizes[0]
                try:
                    runner.end_to_end.append(end_to_end(runner, size, config.files, folder))
                except WorkerError as error:
                    place = f"{size[0]}x{size[1]}, {config.files} files"
                    runner.skipped[place] = str(error)
            sides = tuple(side_of(runner, runners[0]) for runner in runners)
        best = min(engines, key=lambda runner: runner.rate)  # now the only one in memory
        scaling = [
            scaling_of(axis, best.name, best.contestant.open, folder, say)
            for axis in config.scaling
        ]
    cost = network.cost
    return Measured(
        network=network.name,
        architecture=network.facts.architecture,
        scale=network.facts.scale,
        flops=cost.flops if cost else None,
        moved=cost.moved if cost else None,
        parameters=cost.parameters if cost else None,
        sha256=network.facts.weights_sha256,
        reference=runners[0].name,
        sides=sides,
        absent=absent,
        scaling=tuple(scaling),
    )


def _all_opened(
    network: Network, config: Config, folder: Path, processes: ExitStack, report: Report
) -> tuple[list[Runner], dict[str, str]]:
    """Every side that opens and makes an image; the others -> why not."""
    taking_part, absent = contestants(
        network, config.backends, config.compared, config.device, folder / "baselines"
    )
    runners: list[Runner] = []
    for contestant in list(taking_part):  # all of them before any is open, and holds its memory
        if contestant.prepare is None:
            continue
        report(f"preparing {contestant.label}")
        try:
            run_apart(contestant.prepare)
        except WorkerError as error:
            absent[contestant.label] = str(error)
            taking_part.remove(contestant)
    for contestant in taking_part:
        report(f"opening {contestant.label}")
        try:
            runners.append(
                opened_runner(
                    contestant, network, config.sizes[0], config.threads, folder, processes
                )
            )
        except WorkerError as error:
            absent[contestant.label] = str(error)
    if not any(runner.contestant.kind == "engine" for runner in runners):
        engines = [side.label for side in taking_part if side.kind == "engine"]
        raise EngineError("; ".join(f"{label}: {absent[label]}" for label in engines))
    return runners, absent


def _time(
    runners: Sequence[Runner],
    network: Network,
    size: Size,
    batch: int,
    config: Config,
    roofline: Roofline,
    folder: Path,
    report: Report,
) -> None:
    """One size and batch on all sides that can."""
    place = f"{size[0]}x{size[1]} x{batch}"
    images = images_file(folder, size, batch)
    pixels = batch * math.prod(size)
    warm_ups: dict[str, int] = {}
    for runner in runners:
        if why := _too_much(runner, network, pixels, config):
            runner.skipped[place] = why
            continue
        report(f"{place}: warming up {runner.name}")
        try:
            with Sensors() as sensors:
                least = _SENSED if config.device == "cuda" else 0.0
                warm_ups[runner.name] = warm_up(
                    partial(runner.worker.run, images), config.seconds, least
                )
        except WorkerError as error:
            runner.skipped[place] = str(error)
            continue
        runner.sensors = sensors
        runner.device_memory += sensors.device_memory or 0
    active = {runner.name: runner for runner in runners if runner.name in warm_ups}
    for runner in active.values():
        runner.worker.peak_memory()  # counted anew from here
    runs = {name: partial(runner.worker.run, images) for name, runner in active.items()}
    seconds, failed = interleaved(runs, config.seconds, lambda line: report(f"{place}: {line}"))
    for name, why in failed.items():
        active[name].skipped[place] = why
    reference = seconds.get(runners[0].name)
    for name, found in seconds.items():
        runner = active[name]
        runner.rate = min(found) / pixels
        faster = ratios(found, reference) if reference and runner is not runners[0] else None
        sensors = runner.sensors
        timing = Timing(
            size=size,
            batch=batch,
            seconds=found,
            warm_up=warm_ups[name],
            scale=network.facts.scale,
            speed=spread(faster) if faster else None,
            peak_memory=runner.worker.peak_memory(),
            device_memory=runner.device_memory or None,
            watts=sensors.watts,
            clock=sensors.clock,
        )
        shares = _shares(timing, network, runner.worker.ready.precision, roofline)
        runner.timings.append(timing.model_copy(update=shares))


def _too_much(runner: Runner, network: Network, pixels: int, config: Config) -> str:
    """Why a side is not run on so many LR pixels, in words; empty where it is."""
    seconds = runner.rate * pixels
    if seconds > config.seconds and runner.timings:
        return f"a run would take about {seconds:.0f} s, more than --seconds {config.seconds:g}"
    if runner.contestant.kind == "baseline" and network.cost and config.device == "cpu":
        needed = network.cost.live * pixels * BYTES["fp32"]
        free = psutil.virtual_memory().available
        if needed > _MEMORY * free:
            return f"takes about {needed / 1e9:.0f} GB as a whole, and {free / 1e9:.0f} GB are free"
    return ""


def _shares(
    timing: Timing, network: Network, precision: str, roofline: Roofline
) -> dict[str, float | None]:
    """How much of the machine's measured peaks a side reaches."""
    rate = timing.lr_megapixels_per_second * 1e6
    peak, cost = roofline.matrix.get(precision), network.cost
    width = 4 if precision == "fp32" else 2
    return {
        "peak_share": rate * cost.flops / peak if cost and peak else None,
        "bandwidth_share": rate * cost.moved * width / roofline.bandwidth
        if cost and roofline.bandwidth
        else None,
    }
