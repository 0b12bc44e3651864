"""PyTorch in float16, channels_last: eager, compiled, and in the slots of srtool's scheduler.

From host memory to host memory, round by round each way once, so that what slows a machine down
slows all of them. Run by gpu_proof.py, a process for each network, since a compilation cannot be
broken off:  python tools/gpu_speed.py NAME WEIGHTS SECONDS OUT.json
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proof_inputs import bytes_of, facts_of, photographs
from torch import nn
from torch_network import TorchNetwork

from srtool.manifest import Profile
from srtool.runtime.gpu.cuda import open_cuda
from srtool.runtime.gpu.scheduler import Scheduler

TILE, BATCH, ROUNDS = 256, 4, 5


class Timed:
    """One network in float16, and the ways to run it: each takes a number of batches, and returns
    the seconds. busy: shares of these in which the GPU computed."""

    def __init__(self, name: str, weights: Path) -> None:
        self.cuda = open_cuda()
        module: Any = bytes_of(name, weights, "fp16")
        self.module: nn.Module = module.to("cuda", memory_format=torch.channels_last)
        tiles = photographs(TILE)
        self.tiles = [tiles[number % len(tiles)] for number in range(BATCH)]
        self.ways: dict[str, Callable[[int], float]] = {"eager": self._plain(self.module)}
        self.busy: dict[str, list[float]] = {}

    def add_scheduler(self, name: str, module: nn.Module) -> None:
        shape = (BATCH, TILE, TILE)
        profile = Profile(min=shape, opt=shape, max=shape)
        network = TorchNetwork(self.cuda, module, facts_of(precision="fp16"), profile)
        with self.cuda.current():
            scheduler = Scheduler(self.cuda, network)
        self.busy[name] = []
        self.ways[name] = self._scheduled(name, scheduler)

    def add_compiled(self) -> float:
        """Compile for the one shape; returns the seconds that it took."""
        start = time.perf_counter()
        compiled: Any = torch.compile(self.module, dynamic=False)
        way = self._plain(compiled)
        way(2)
        self.ways["compiled"] = way
        self.add_scheduler("scheduler and graph, compiled", compiled)
        return time.perf_counter() - start

    def _plain(self, module: Any) -> Callable[[int], float]:
        batch = np.stack(self.tiles)

        def run(batches: int) -> float:
            start = time.perf_counter()
            with torch.inference_mode():
                for _ in range(batches):
                    module(torch.from_numpy(batch).to("cuda")).cpu().numpy()
            return time.perf_counter() - start

        return run

    def _scheduled(self, name: str, scheduler: Scheduler) -> Callable[[int], float]:
        def run(batches: int) -> float:
            found: list[tuple[int, ...]] = []

            def take(made: Any) -> None:
                if isinstance(made, Exception):
                    raise made
                found.append(made.shape)

            before, start = scheduler.busy, time.perf_counter()
            for tile in self.tiles * batches:
                scheduler.submit(tile, take)
            scheduler.flush()
            seconds = time.perf_counter() - start
            assert len(found) == batches * BATCH
            self.busy[name].append((scheduler.busy - before) / seconds)
            return seconds

        return run

    def measure(self, seconds: float) -> dict[str, Any]:
        """LR megapixels/s of each way in the median of the rounds, and its ratio to eager."""
        runs = {}
        for name, way in self.ways.items():
            way(4)
            runs[name] = max(3, int(seconds / ROUNDS / len(self.ways) / (way(3) / 3)))
        pixels = BATCH * TILE**2 / 1e6
        speeds: dict[str, list[float]] = {name: [] for name in self.ways}
        for _ in range(ROUNDS):
            for name, way in self.ways.items():
                speeds[name].append(runs[name] * pixels / way(runs[name]))
        found: dict[str, Any] = {}
        for name, rounds in speeds.items():
            ratios = [x / y for x, y in zip(rounds, speeds["eager"], strict=True)]
            found[name] = {
                "LR megapixels/s": round(statistics.median(rounds), 4),
                "range": [round(min(rounds), 4), round(max(rounds), 4)],
                "over eager": round(statistics.median(ratios), 3),
            }
            if name in self.busy:
                found[name]["busy"] = round(statistics.median(self.busy[name][-ROUNDS:]), 4)
        return found


def main(name: str, weights: Path, seconds: float, out: Path) -> None:
    """Compile, say so by OUT.ready, wait for OUT.go, measure."""
    torch.backends.cudnn.benchmark = True
    timed = Timed(name, weights)
    timed.add_scheduler("scheduler and graph", timed.module)
    compiling = timed.add_compiled()
    out.with_suffix(".ready").touch()
    while not out.with_suffix(".go").exists():
        time.sleep(0.05)
    found = {"tiles": f"{BATCH} of {TILE}x{TILE}", **timed.measure(seconds)}
    found["seconds to compile"] = round(compiling, 1)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
