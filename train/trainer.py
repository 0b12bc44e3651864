"""Stage 1: L1 pre-training of the generator, resumable bit by bit.

Everything that changes from step to step is either in the checkpoint (weights, optimiser,
averaged weights) or a pure function of the step (data, learning rate); so a run that was cut
off goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from srtool.errors import DataError, SrtoolError, UsageError
from srtool.psnr import psnr_y
from srtool.train.checkpoint import load_state, save_generator, save_state
from srtool.train.data import Pair, Patches, load_dataset
from srtool.train.generator import SCALE, Generator, GeneratorOutput, fold_head
from srtool.train.recipe import Recipe

STATE = "state.pth"
WEIGHTS = "generator.safetensors"
DIVERGED = (
    "the last checkpoint is kept: lower stage1.learning_rate or set precision: fp32, "
    "with another --out folder"
)
# What may change between two runs that continue one another.
EXTENDABLE = {"stage1": {"steps"}, "validate_every": True, "save_every": True}


@dataclass(frozen=True)
class Progress:
    """What the trainer reports after a step. psnr_y: dB, only on steps that validate."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    psnr_y: float | None = None


class Training:
    """The state of a run: generator, optimiser, averaged weights and the step reached."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.step = recipe, device, 0
        stage = recipe.stage1
        generator = Generator(recipe.generator).to(device)
        self.generator: Generator = generator.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), stage.learning_rate, betas=stage.betas, eps=stage.eps
        )
        weights = self.generator.state_dict()
        self.ema = {k: v.clone() for k, v in weights.items()} if stage.ema else None

    def update(self, lr: Tensor, hr: Tensor) -> Tensor:
        """One optimiser step on a batch of uint8 images; returns the loss, a float32 scalar."""
        stage = self.recipe.stage1
        rate = stage.learning_rate_at(self.step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The un-shuffle head takes the LR image at HR size.
        if self.generator.config.head == "unshuffle":
            lr = F.interpolate(lr, scale_factor=float(SCALE), mode="nearest")
        images = [
            x.to(self.device, torch.float32, memory_format=torch.channels_last) / 255
            for x in (lr, hr)
        ]
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"
        ):
            output: GeneratorOutput = self.generator(images[0])
        loss = (output.image.float() - images[1]).abs().mean()
        if not math.isfinite(loss.item()):
            raise SrtoolError(f"the loss became {loss.item()} at step {self.step + 1}; {DIVERGED}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        with _interrupt_held_back():
            self.optimizer.step()
            self.step += 1
            self._average()
        return loss.detach()

    def _average(self) -> None:
        """Exponential moving average of the weights, over a shorter window at the start."""
        if self.ema is None or self.recipe.stage1.ema is None:
            return
        decay = min(self.recipe.stage1.ema, self.step / (self.step + 9))
        for key, value in self.generator.state_dict().items():
            self.ema[key].lerp_(value, 1 - decay)

    def averaged(self) -> Generator:
        """The generator that is validated and shipped, on the CPU, in eval mode."""
        generator = Generator(self.recipe.generator)
        generator.load_state_dict(self.ema or self.generator.state_dict())
        return generator.eval()

    def state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump_json(),
            "config": self.recipe.generator.as_dict(),
            "step": self.step,
            "generator": self.generator.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from `state()`; UsageError when it belongs to another recipe."""
        before, now = json.loads(state["recipe"]), json.loads(self.recipe.model_dump_json())
        if difference := _difference(before, now, EXTENDABLE):
            raise UsageError(
                f"{path}: was trained with another recipe ({difference}); "
                "choose another --out folder, or the same recipe to continue"
            )
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["ema"] is not None:
            self.ema = {k: v.to(self.device) for k, v in state["ema"].items()}
        self.step = state["step"]


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Let a Ctrl-C wait until weights, moments, average and step number belong together again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def _difference(before: Any, now: Any, free: Any, path: str = "") -> str | None:
    """The first key whose value differs and that is not free to change."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else f"{path[1:]} was {before}, is {now}"
    for key in sorted(before.keys() | now.keys()):
        allowed = free.get(key) if isinstance(free, dict) else key in free
        if allowed is True:
            continue
        found = _difference(before.get(key), now.get(key), allowed or {}, f"{path}.{key}")
        if found:
            return found
    return None


def _digest(pair: Pair) -> bytes:
    return hashlib.sha256(pair.hr.tobytes()).digest()


def upscale_uint8(generator: Generator, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Run a plain-head generator on one image: (h, w, 3) uint8 -> (4h, 4w, 3) uint8."""
    x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        image = generator(x).image[0].permute(1, 2, 0)
    levels: NDArray[np.uint8] = (image * 255).round().clamp(0, 255).byte().numpy()
    return levels


def validate(generator: Generator, pairs: list[Pair]) -> float:
    """Mean PSNR-Y in dB of the deployed form (head folded, uint8 in and out) on a data set."""
    deployed = fold_head(generator).eval()
    return float(np.mean([psnr_y(upscale_uint8(deployed, p.lr), p.hr) for p in pairs]))


def device_from_name(name: str) -> torch.device:
    """The torch device of "cpu", "cuda", "cuda:1", ... or "auto": a GPU where there is one.
    UsageError where it does not exist here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"--device {name}: torch has no such device here; expected auto, cpu or cuda"
        ) from None
    return device


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    validation: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    device: str = "cpu",
) -> Path:
    """Train a generator on the images below `data`; continue when `out` holds a checkpoint.

    Writes out/state.pth (resumes), out/generator.safetensors (the result, at every checkpoint)
    and TensorBoard scalars. An interrupt (Ctrl-C) saves first. Returns the path of the weights.
    """
    from torch.utils.tensorboard import SummaryWriter

    stage = recipe.stage1
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; --out names a folder for checkpoints")
    training = Training(recipe, device_from_name(device))
    state_path, weights_path = out / STATE, out / WEIGHTS
    if state_path.is_file():
        training.restore(load_state(state_path), state_path)
    if training.step >= stage.steps:
        return weights_path
    patches = Patches(data, stage.patch, stage.batch, recipe.seed)
    pairs = load_dataset(validation) if validation else []
    if {_digest(p) for p in pairs} & {_digest(p) for p in patches.pairs}:
        raise DataError(f"{validation}: shares images with {data}; validate on unseen ones")

    def save() -> None:
        if not all(bool(x.isfinite().all()) for x in training.generator.state_dict().values()):
            raise SrtoolError(f"the weights overflowed by step {training.step}; {DIVERGED}")
        facts = {
            "recipe": json.loads(recipe.model_dump_json()),
            "steps": training.step,
            "images": len(patches.pairs),
        }
        save_generator(weights_path, training.averaged(), facts)
        save_state(state_path, training.state())

    saved = training.step
    with SummaryWriter(str(out / "tensorboard"), purge_step=training.step + 1) as board:
        start = time.perf_counter()
        try:
            for lr, hr in patches.batches(training.step + 1, stage.steps):
                loss = training.update(lr, hr).item()
                step = training.step
                rate = stage.learning_rate_at(step)
                figure = None
                if pairs and (step % recipe.validate_every == 0 or step == stage.steps):
                    figure = validate(training.averaged(), pairs)
                    board.add_scalar("validation/psnr_y", figure, step)
                board.add_scalar("loss/l1", loss, step)
                board.add_scalar("learning_rate", rate, step)
                if step % recipe.save_every == 0 or step == stage.steps:
                    save()
                    saved = step
                seconds, start = time.perf_counter() - start, time.perf_counter()
                report(Progress(step, stage.steps, loss, rate, seconds, figure))
        except KeyboardInterrupt:
            if training.step > saved:
                save()
            raise
    return weights_path
