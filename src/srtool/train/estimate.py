"""What a training run would take: sizes, memory and time, from a few real steps of each stage."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch

from srtool.train.loop import Run, accelerator_from_recipe, first_weights, patches_of, stages_of
from srtool.train.recipe import Recipe
from srtool.train.trainer import Training

WARM_UP = 2
MEASURED = 20


@dataclass(frozen=True)
class Estimate:
    """One stage. parameters: of each network. memory: the most bytes that the process (on a GPU:
    its tensors there) held so far. step_seconds: the median of the measured ones. waited: the
    share of the time that was spent waiting for data."""

    stage: str
    parameters: dict[str, int]
    memory: int
    device: str
    steps: int
    step_seconds: float
    waited: float

    @property
    def seconds(self) -> float:
        """Of the whole stage, without validation and checkpoints."""
        return self.steps * self.step_seconds


def estimates(recipe: Recipe, run: Run, note: Callable[[str], None]) -> list[Estimate]:
    """Measure each stage of a recipe on its own data and device. Nothing is written."""
    accelerator = accelerator_from_recipe(recipe, run.device)
    weights = first_weights(recipe, run.start_from)
    found = []
    for name, stage in stages_of(recipe, run.only_stage).items():
        note(f"{name}, {WARM_UP + MEASURED} steps")
        training = Training(recipe, stage, accelerator, weights)
        patches = patches_of(training, run.data)
        seconds: list[float] = []
        waited, start = 0.0, time.perf_counter()
        for lr, hr in patches.batches(1, WARM_UP + MEASURED, training.share):
            training.update(lr, hr)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize(accelerator.device)
            if training.step == WARM_UP:
                waited = patches.waited
            now = time.perf_counter()
            seconds.append(now - start)
            start = now
        measured = seconds[WARM_UP:]
        found.append(
            Estimate(
                stage=name,
                parameters={
                    n: sum(p.numel() for p in m.parameters()) for n, m in training.plain.items()
                },
                memory=_peak_memory(accelerator.device),
                device=str(accelerator.device),
                steps=stage.steps,
                step_seconds=median(measured),
                waited=(patches.waited - waited) / sum(measured),
            )
        )
        accelerator.free_memory()
    return found


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
