"""A side while it is measured: its process, its first image, its files, and what comes of it."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.images import pieces, write_files
from srtool.benchmarks.speed.machine import Sensors
from srtool.benchmarks.speed.networks import Network
from srtool.benchmarks.speed.result import EndToEnd, Side, Timing
from srtool.benchmarks.speed.sides import Contestant
from srtool.benchmarks.speed.worker import Worker, WorkerError
from srtool.psnr import psnr

Size = tuple[int, int]  # width, height in LR pixels


@dataclass
class Runner:
    """A side while it is measured. rate: seconds per LR pixel of the last run. sensors: of the GPU
    while it ran alone, device_memory: by how much it made the GPU's grow, bytes."""

    name: str
    contestant: Contestant
    worker: Worker
    cold: float
    rate: float
    output: NDArray[np.uint8]
    device_memory: int = 0
    sensors: Sensors = field(default_factory=Sensors)
    timings: list[Timing] = field(default_factory=list)
    end_to_end: list[EndToEnd] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def opened_runner(
    contestant: Contestant,
    network: Network,
    size: Size,
    threads: int | None,
    folder: Path,
    stack: ExitStack,
) -> Runner:
    """Start a side's process, load it, and run its first image, of that size. WorkerError where
    it does not come so far."""
    images = images_file(folder, size, 1)
    with Sensors() as sensors:
        worker = stack.enter_context(Worker(contestant.open, threads))
        cold = worker.run(images, times=1)
    name = contestant.label
    if contestant.kind == "engine":
        name = engine_name(network, worker.ready.backend, contestant.file)
    rate, memory = cold / math.prod(size), sensors.device_memory or 0
    return Runner(name, contestant, worker, cold, rate, worker.result(), memory)


def engine_name(network: Network, backend: str, file: str) -> str:
    """What the side of an engine is called: with its file, where the network has several."""
    return f"srtool, {backend}" + (f", {file}" if len(network.engines) > 1 else "")


def images_file(folder: Path, size: Size, batch: int) -> Path:
    """A batch as a file, made when it is first asked for."""
    path = folder / f"{size[0]}x{size[1]}x{batch}.npy"
    if not path.exists():
        np.save(path, pieces(batch, *size))
    return path


def end_to_end(runner: Runner, size: Size, files: int, folder: Path) -> EndToEnd:
    """A folder of files through an engine. WorkerError where an image fails: seconds without it are
    no measure."""
    sources = write_files(folder / f"files-{files}", files, *size)
    runner.worker.peak_memory()
    found = runner.worker.folder(sources, folder / "out")
    if found.failed:
        raise WorkerError(f"{found.failed} of {files} images failed")
    return EndToEnd(
        files=files,
        size=size,
        seconds=found.seconds,
        decode=found.decode,
        compute=found.compute,
        encode=found.encode,
        peak_memory=runner.worker.peak_memory(),
    )


def side_of(runner: Runner, reference: Runner) -> Side:
    """All that was measured of a side, and how far its pixels are from the reference's."""
    between, largest = None, None
    if runner is not reference:
        found = psnr(runner.output, reference.output)
        between = found if math.isfinite(found) else None
        largest = int(np.abs(runner.output.astype(np.int16) - reference.output).max())
    ready = runner.worker.ready
    return Side(
        name=runner.name,
        kind=runner.contestant.kind,
        software=ready.software,
        precision=ready.precision,
        load=ready.seconds,
        cold=runner.cold,
        timings=tuple(runner.timings),
        end_to_end=tuple(runner.end_to_end),
        psnr_between=between,
        max_difference=largest,
        skipped=runner.skipped,
    )
