"""What a training run would take: sizes, memory and time.

Memory and arithmetic are counted on a sample or two, on any device; time is measured in a few real
steps of this one.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from srtool.networks.generator import SCALE
from srtool.train.loop import Run, accelerator_from_recipe, first_weights, patches_of, stages_of
from srtool.train.recipe import AdversarialStage, Recipe, Stage
from srtool.train.states import state_size
from srtool.train.trainer import Training, perceptual_losses

WARM_UP = 2
MEASURED = 20
PEAK = 1.4  # of what is kept: by how much more a CPU's memory grew, from a batch of 4 to one of 16


@dataclass(frozen=True)
class Cost:
    """One stage on whatever device. parameters: of each network. flops: floating-point operations
    of a step, of all processes; one that mixes, where some do. lasting: bytes of weights,
    gradients, moments and averages. saved: bytes that a process keeps for its backward passes, at
    most: of one part of its share of a batch. What a step needs beside these (the gradient under
    way, the convolutions' workspace) is not counted, but is part of `peak`."""

    stage: str
    steps: int
    parameters: dict[str, int]
    flops: float
    lasting: int
    saved: int

    @property
    def peak(self) -> int:
        """About the most bytes of a step."""
        return self.lasting + int(PEAK * self.saved)


@dataclass(frozen=True)
class Estimate:
    """One stage on this device. memory: the most bytes that the process (on a GPU: its tensors
    there) held so far. step_seconds: the median of the measured ones. waited: the share of the
    time that was spent waiting for data."""

    cost: Cost
    memory: int
    device: str
    step_seconds: float
    waited: float

    @property
    def seconds(self) -> float:
        """Of the whole stage, without validation and checkpoints."""
        return self.cost.steps * self.step_seconds


def costs(recipe: Recipe, run: Run) -> list[Cost]:
    """Count each stage; AssetError where a loss lacks its network. No data are read."""
    accelerator = accelerator_from_recipe(recipe, run.device)
    stages = stages_of(recipe, run.only_stage)
    for stage in stages.values():  # before any of them takes its time
        perceptual_losses(stage, accelerator.device)
    return [_cost(recipe, stage, accelerator) for stage in stages.values()]


def _cost(recipe: Recipe, stage: Stage, accelerator: Accelerator) -> Cost:
    """From steps on one sample and on two: some is kept once, however many samples there are."""
    training, flops, one = _counted(recipe, stage, accelerator, 1)
    part = stage.batch // (accelerator.num_processes * recipe.accumulate)
    two = _counted(recipe, stage, accelerator, 2)[2] if part > 1 else one
    # Weights, gradients and Adam's two moments
    trained = sum(state_size(dict(m.named_parameters())) for m in training.plain.values())
    others = sum(state_size(m.state_dict()) for m in training.objective.perceptual.values())
    return Cost(
        stage=training.name,
        steps=stage.steps,
        parameters={n: sum(p.numel() for p in m.parameters()) for n, m in training.plain.items()},
        flops=flops * stage.batch,
        lasting=4 * trained + others + state_size(training.ema),
        saved=one + (part - 1) * (two - one),
    )


def _counted(
    recipe: Recipe, stage: Stage, accelerator: Accelerator, batch: int
) -> tuple[Training, int, int]:
    """A step of a stage on some samples, CutMix included: its operations, and the most bytes that
    it kept."""
    sizes: dict[str, object] = {"batch": batch * accelerator.num_processes}
    if isinstance(stage, AdversarialStage):
        mixes = {"probability": float(stage.cutmix.probability > 0), "ramp": 1}
        sizes |= {"cutmix": stage.cutmix.model_copy(update=mixes), "warm_up": 0}
    whole = recipe.model_copy(update={"accumulate": 1, "compile": False})
    training = Training(whole, stage.model_copy(update=sizes), accelerator)
    side = stage.patch // SCALE
    lr = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    hr = torch.randint(256, (batch, 3, stage.patch, stage.patch), dtype=torch.uint8)
    own = {x.untyped_storage().data_ptr() for m in training.plain.values() for x in m.parameters()}
    with kept_for_backward(own) as most, FlopCounterMode(display=False) as counter:
        training.update(lr, hr)
    accelerator.free_memory()
    return training, counter.get_total_flops(), most()


@contextmanager
def kept_for_backward(own: set[int]) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd keeps at the same time, at most; storages that several nodes
    keep once, and those of parameters not at all."""
    held: Counter[int] = Counter()
    now = most = 0

    class Kept:
        """A saved tensor, until its graph is gone."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor = tensor
            storage = tensor.untyped_storage()
            self.place, self.size = storage.data_ptr(), storage.nbytes()
            held[self.place] += 1
            if held[self.place] == 1 and self.place not in own:
                now += self.size
                most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            held[self.place] -= 1
            if held[self.place] == 0 and self.place not in own:
                now -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        yield lambda: most


def estimates(recipe: Recipe, run: Run, note: Callable[[str], None]) -> list[Estimate]:
    """Count each stage and measure it on its own data and device. Nothing is written."""
    counted = costs(recipe, run)
    accelerator = accelerator_from_recipe(recipe, run.device)
    weights = first_weights(recipe, run.start_from)
    found = []
    for cost, stage in zip(counted, stages_of(recipe, run.only_stage).values(), strict=True):
        note(f"{cost.stage}, {WARM_UP + MEASURED} steps")
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
                cost=cost,
                memory=_peak_memory(accelerator.device),
                device=str(accelerator.device),
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
