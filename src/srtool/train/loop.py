"""A training run from first step to last: stages, data, checkpoints, curves, validation."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from srtool.errors import CheckpointError, DataError, SrtoolError, UsageError
from srtool.images.datasets import digest, load_dataset
from srtool.networks.generator import Generator
from srtool.networks.loading import load_network, save_generator
from srtool.train.data.patches import Patches
from srtool.train.losses import Terms
from srtool.train.recipe import AdversarialStage, Recipe, Stage
from srtool.train.states import check_space, load_state, save_state, state_size, states_below
from srtool.train.trainer import DIVERGED, Training, perceptual_losses
from srtool.train.validation import Validation, validate

WEIGHTS = "generator.safetensors"
STAGE1 = "stage1.safetensors"
BEST = "best.safetensors"

Metric = Callable[[NDArray[np.uint8]], float]


@dataclass(frozen=True)
class Progress:
    """What is reported of a step. losses: every term, unweighted. seconds: of this step, or until
    a GPU had it in its queue; waited: of them, for data. validation: on steps that validate."""

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    learning_rate: float
    seconds: float
    waited: float
    validation: Validation | None = None


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes. metrics: lower is better; of one image, for validation.
    look_every: seconds between two looks at the losses, which wait for the device; None: after
    every step on a CPU, which has no queue, and every second on a GPU."""

    data: Path
    out: Path
    validation: Path | None = None
    start_from: Path | None = None
    only_stage: int | None = None
    device: str = "auto"
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    look_every: float | None = None


def train(recipe: Recipe, run: Run, report: Callable[[Progress], None] = lambda p: None) -> Path:
    """Train a generator; continue when `run.out` holds a checkpoint of the same recipe.

    Writes out/checkpoints/ (the last few states), out/generator.safetensors (the result so far),
    out/best.safetensors (by validation), out/stage1.safetensors and TensorBoard curves. An
    interrupt (Ctrl-C, SIGTERM) saves first. Returns the path of the weights.
    """
    if run.out.exists() and not run.out.is_dir():
        raise UsageError(
            f"{run.out}: is a file; expected a folder for checkpoints",
            path=run.out,
            parameter="out",
        )
    stages = stages_of(recipe, run.only_stage)
    accelerator = accelerator_from_recipe(recipe, run.device)
    for stage in stages.values():  # a missing file is told now, not when stage 2 begins
        perceptual_losses(stage, accelerator.device)
    states = states_below(run.out)
    state = load_state(states[-1]) if states else None
    weights = first_weights(recipe, run.start_from)
    with _terminate_as_interrupt():
        for name, stage in stages.items():
            if state and state["stage"] > name:
                continue
            found = state if state and state["stage"] == name else None
            if found and found["step"] >= stage.steps:
                weights = found["ema"] or found["generator"]
                Training(recipe, stage, accelerator).restore(found, states[-1])
                continue
            training = Training(recipe, stage, accelerator, weights)
            if found:
                training.restore(found, states[-1])
            _Stage(training, run).finish(report)
            weights = training.averaged().cpu().state_dict()
            accelerator.free_memory()
    return run.out / WEIGHTS


def stages_of(recipe: Recipe, only: int | None) -> dict[str, Stage]:
    """The stages to run, by name; UsageError where the recipe lacks the one that is wanted."""
    stages = recipe.stages
    if only is None:
        return stages
    if f"stage{only}" not in stages:
        raise UsageError(f"stage{only}: the recipe has only {', '.join(stages)}", parameter="stage")
    return {f"stage{only}": stages[f"stage{only}"]}


def accelerator_from_recipe(recipe: Recipe, device: str) -> Accelerator:
    """Accelerate's view of this process: device, precision and the other processes, if any.

    device: "cpu", "cuda", "cuda:1", ... or "auto": a GPU where there is one. UsageError where
    it does not exist here or does not have the recipe's precision.
    """
    cpu = _device_from_name(device).type == "cpu"
    if cpu and recipe.precision == "fp16":
        raise UsageError("precision: fp16 needs a GPU; set precision to bf16 or fp32 on a CPU")
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # another run may have been here
    torch.backends.cudnn.benchmark = True  # patches have one size; validation turns it off
    precision = {"fp32": "no"}.get(recipe.precision, recipe.precision)
    # Stage 1 leaves the output of the gradient branch alone.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)]
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)
    for stage in recipe.stages.values():
        share = accelerator.num_processes * recipe.accumulate
        if stage.batch % share:
            raise UsageError(
                f"a batch of {stage.batch} cannot be divided into {accelerator.num_processes} "
                f"processes times {recipe.accumulate} parts; choose a multiple of {share}"
            )
    return accelerator


def _device_from_name(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"{name}: torch has no such device here; expected auto, cpu or cuda", parameter="device"
        ) from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def first_weights(recipe: Recipe, path: Path | None) -> Mapping[str, Tensor] | None:
    """The weights to start from; CheckpointError where they are not the recipe's generator."""
    if path is None:
        return None
    module = load_network(path).module
    if not isinstance(module, Generator):
        raise CheckpointError(f"{path}: is no generator of srtool; training starts from these only")
    before, now = module.config.as_dict(), recipe.generator.as_dict()
    for key in now:
        if before[key] != now[key]:
            raise CheckpointError(
                f"{path}: is another architecture ({key} is {before[key]}, the recipe's is "
                f"{now[key]}); take a recipe with the same generator"
            )
    return module.state_dict()


class _Stage:
    """One stage under way: its data, its curves, and what is saved when."""

    def __init__(self, training: Training, run: Run) -> None:
        self.training, self.run, self.recipe = training, run, training.recipe
        self.main = training.accelerator.is_main_process
        # Twice the weights: Adam's moments are made in the first step.
        check_space(run.out, 2 * state_size(training.state()), self.recipe.keep)
        self.patches = patches_of(training, run.data)
        self.pairs = load_dataset(run.validation) if run.validation else []
        if {digest(pair) for pair in self.pairs} & self.patches.digests:
            raise DataError(f"{run.validation}: shares images with {run.data}; validate on others")
        self.best = _best_so_far(run.out / BEST, training.name)
        self.unseen: list[tuple[Progress, Terms]] = []

    def finish(self, report: Callable[[Progress], None]) -> None:
        """Train to the last step of the stage."""
        training, recipe, steps = self.training, self.recipe, self.training.stage.steps
        saved, every = training.step, self.run.look_every
        if every is None:
            every = 0.0 if training.accelerator.device.type == "cpu" else 1.0
        batches = self.patches.batches(training.step + 1, steps, training.share)
        with _curves(self.run.out, training, self.main) as board, closing(batches):
            start = looked = time.perf_counter()
            waited = 0.0
            try:
                for lr, hr in batches:
                    losses = training.update(lr, hr)
                    step, last = training.step, training.step == steps
                    paused, waited = self.patches.waited - waited, self.patches.waited
                    rate, now = training.stage.learning_rate_at(step), time.perf_counter()
                    progress = Progress(training.name, step, steps, {}, rate, now - start, paused)
                    self.unseen.append((progress, losses))
                    saves = last or step % recipe.save_every == 0
                    validates = self.pairs and (last or step % recipe.validate_every == 0)
                    if saves or validates or now - looked >= every:
                        seen = self.look(board)
                        found = self.validate(board) if validates and self.main else None
                        if saves:
                            self.save()
                            saved = step
                        now = looked = time.perf_counter()
                        seen[-1] = replace(seen[-1], seconds=now - start, validation=found)
                        for progress in seen if self.main else ():
                            report(progress)
                    start = now
            except KeyboardInterrupt:
                if training.step > saved:
                    self.look(board)
                    self.save()
                raise

    def look(self, board: SummaryWriter | None) -> list[Progress]:
        """Read and draw the losses of all steps since the last look. SrtoolError where one of them
        is no number: nothing has been written since."""
        unseen, self.unseen = self.unseen, []
        values = [value for _, losses in unseen for value in losses.values()]
        numbers = iter(torch.stack(values).tolist() if values else [])
        seen = []
        for progress, losses in unseen:
            read = dict(zip(losses, islice(numbers, len(losses)), strict=True))
            for name, value in read.items():
                if not math.isfinite(value):
                    raise SrtoolError(
                        f"the loss ({name}) became {value} at step {progress.step} of "
                        f"{progress.stage}; " + DIVERGED.format(stage=progress.stage)
                    )
                if board:
                    board.add_scalar(f"loss/{name}", value, progress.step)
            if board:
                board.add_scalar("learning_rate", progress.learning_rate, progress.step)
            seen.append(replace(progress, losses=read))
        return seen

    def validate(self, board: SummaryWriter | None) -> Validation:
        """Figures of the averaged weights; they are kept apart where none were better."""
        training, step = self.training, self.training.step
        found = validate(training.averaged(), self.pairs, self.run.metrics)
        score = _score(found, training.name)
        if score > self.best:
            self.best = score
            self.save_weights(self.run.out / BEST, found)
        if board:
            board.add_scalar("validation/psnr_y", found.psnr_y, step)
            board.add_scalar("validation/psnr_y_deployed", found.deployed_psnr_y, step)
            board.add_scalar("validation/largest_activation", found.largest_activation, step)
            for name, value in found.scores.items():
                board.add_scalar(f"validation/{name}", value, step)
            for number, picture in enumerate(found.pictures):
                board.add_image(f"validation/{number}", picture, step, dataformats="HWC")
        return found

    def save(self) -> None:
        """Write the state to continue from, and the weights so far."""
        training = self.training
        if not training.finite():
            raise SrtoolError(
                f"the weights overflowed by step {training.step} of {training.name}; "
                + DIVERGED.format(stage=training.name)
            )
        if self.main:
            self.save_weights(self.run.out / WEIGHTS)
            if training.name == "stage1" and training.step == training.stage.steps:
                self.save_weights(self.run.out / STAGE1)  # stage 2 will go on from these
            save_state(self.run.out, training.state(), self.recipe.keep)

    def save_weights(self, path: Path, found: Validation | None = None) -> None:
        facts: dict[str, Any] = {
            "recipe": json.loads(self.recipe.model_dump_json()),
            "stage": self.training.name,
            "steps": self.training.step,
            "images": self.patches.photographs,
        }
        if found:
            facts["validation"] = {"psnr_y": found.psnr_y, **found.scores}
            facts["score"] = _score(found, self.training.name)
        save_generator(path, self.training.averaged(), facts)


def patches_of(training: Training, data: Path) -> Patches:
    """The data of a stage. Stages draw from different random streams."""
    stage, seed = training.stage, training.recipe.seed
    if isinstance(stage, AdversarialStage):
        seed += 2**63
    return Patches(data, stage.patch, stage.batch, seed, stage.augment)


def _score(found: Validation, stage: str) -> float:
    """What "best" means, higher is better: PSNR-Y for stage 1; for stage 2, which gives PSNR away
    for looks, the metrics that were asked for (lower is better), if any were."""
    if stage == "stage2" and found.scores:
        return -sum(found.scores.values())
    return found.psnr_y


def _best_so_far(path: Path, stage: str) -> float:
    facts = load_network(path).facts if path.is_file() else {}
    return float(facts["score"]) if facts.get("stage") == stage else -math.inf


@contextmanager
def _curves(out: Path, training: Training, main: bool) -> Iterator[SummaryWriter | None]:
    """TensorBoard's writer of the main process, for the steps that come."""
    if not main:
        yield None
        return
    folder = str(out / "tensorboard" / training.name)
    with SummaryWriter(folder, purge_step=training.step + 1) as board:
        yield board


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which clusters send before they take a machine away, be a Ctrl-C, where it
    would else end the process at once."""
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not is_free:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
