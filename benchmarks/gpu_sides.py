"""Contestants on one GPU: PyTorch and engines on the same tiles, in turn, so that a clock that
changes is the same for all."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srtool.export.deployed import plain_module
from srtool.runtime.engine import Engine
from srtool.runtime.image import Picture, write_image
from srtool.runtime.inputs import Job
from srtool.runtime.pipeline import run
from srtool.train.checkpoint import Network

Tiles = NDArray[np.uint8]  # (N, H, W, 3)


@dataclass(frozen=True)
class Side:
    """One contestant. run: upscales all the tiles, and returns when that is done."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a reference, round by round: median, lowest and highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Folder:
    """A folder of images from file to file. seconds: wall time. compute: of it, the GPU was
    computing. gpu_share: compute over seconds. pixels: LR."""

    images: int
    failed: int
    pixels: int
    seconds: float
    compute: float
    gpu_share: float


def torch_side(
    network: Network,
    tiles: Tiles,
    batch: int,
    device: str,
    dtype: torch.dtype,
    compiled: bool = False,
) -> Side:
    """The network in PyTorch, channels_last, with its head folded as in the engines.

    The tiles lie on the device as floats and the results stay there: no copies and no conversions
    are counted, which the engines' times include. Half the batch where memory is short.
    """
    module: Any = copy.deepcopy(plain_module(network))
    module = module.to(device, dtype, memory_format=torch.channels_last)
    if compiled:
        module = torch.compile(module, mode="max-autotune")
    parts = [
        (part.to(device, dtype) / 255).contiguous(memory_format=torch.channels_last)
        for part in torch.split(torch.from_numpy(tiles).permute(0, 3, 1, 2), batch)
    ]

    def go(chosen: Sequence[torch.Tensor] = parts) -> None:
        with torch.inference_mode():
            for part in chosen:
                module(part)
        if device == "cuda":
            torch.cuda.synchronize()

    try:
        go(parts[:1])
    except torch.OutOfMemoryError:
        if batch == 1:
            raise
        return torch_side(network, tiles, batch // 2, device, dtype, compiled)
    name = "torch.compile max-autotune" if compiled else "PyTorch eager"
    kind = {torch.float16: "fp16", torch.float32: "fp32"}[dtype]
    return Side(f"{name} {kind} channels_last, batch {batch}", go)


def engine_side(engine: Engine, tiles: Tiles) -> Side:
    """An engine as `srtool infer` drives it: from pixels on the host to pixels on the host."""

    def go() -> None:
        failed: list[Exception] = []

        def deliver(found: NDArray[Any] | Exception) -> None:
            if isinstance(found, Exception):
                failed.append(found)

        for tile in tiles:
            engine.submit(tile, deliver)
        engine.flush()
        if failed:
            raise RuntimeError(str(failed[0]))

    return Side(engine.backend, go)


def interleaved(sides: Sequence[Side], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of each side, each round on all sides before the next. The first run
    of a side, which chooses kernels, is not counted."""
    for side in sides:
        side.run()
        side.run()
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            start = time.perf_counter()
            side.run()
            seconds[side.name].append(time.perf_counter() - start)
    return seconds


def ratio(own: Sequence[float], reference: Sequence[float]) -> Ratio:
    found = [theirs / ours for ours, theirs in zip(own, reference, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def matrix_peak(device: str, dtype: torch.dtype, side: int = 8192, tries: int = 12) -> float:
    """FLOP/s of a large matrix product, the best of some tries."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(tries):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def tiles_from_photographs(
    photographs: Sequence[NDArray[np.uint8]], count: int, height: int, width: int
) -> Tiles:
    """Pieces of photographs at places drawn at random, seeded."""
    random = np.random.default_rng(0)
    tiles = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        image = photographs[number % len(photographs)]
        top, left = (
            int(random.integers(0, max(1, full - side + 1)))
            for full, side in zip(image.shape, (height, width), strict=False)
        )
        piece = image[top : top + height, left : left + width]
        rows, columns = height - piece.shape[0], width - piece.shape[1]
        tiles[number] = np.pad(piece, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
    return tiles


def write_folder(folder: Path, photographs: Sequence[NDArray[np.uint8]], count: int) -> list[Path]:
    """PNG files of about a sixth of a megapixel in ten sizes, as a folder of LR images has them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        sides = 300 + 12 * (number % 10), 510 - 9 * (number % 10)
        (image,) = tiles_from_photographs(photographs[number % len(photographs) :], 1, *sides)
        path = folder / f"{number:03}.png"
        write_image(path, Picture(image, None, False))
        paths.append(path)
    return paths


def folder_run(engine: Engine, paths: Sequence[Path], out: Path) -> Folder:
    """Upscale files to files. The results are removed."""
    jobs = [Job(path, out / path.name) for path in paths]
    summary = run(jobs, engine)
    for job in jobs:
        with suppress(FileNotFoundError):
            job.target.unlink()
    total, compute = summary.seconds["total"], summary.seconds["compute"]
    return Folder(summary.files, summary.failed, summary.pixels_in, total, compute, compute / total)
