"""One stage of a training run: networks, optimisers, averaged weights, and what one step does.

Everything that changes from step to step is either in the state (weights, moments, averages,
loss scale) or a pure function of the step (data, CutMix, learning rates); so a run that was cut
off goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from srtool.errors import SrtoolError, UsageError
from srtool.networks.generator import SCALE, Generator, GeneratorOutput
from srtool.train.discriminators import Discriminator, GradientDiscriminator
from srtool.train.losses import terms as losses
from srtool.train.losses.objective import (
    PRETRAIN,
    Discriminators,
    Terms,
    discriminator_terms,
    generator_terms,
)
from srtool.train.recipe import AdversarialStage, PretrainStage, Recipe

Stage: TypeAlias = PretrainStage | AdversarialStage

DIVERGED = (
    "the last checkpoint is kept: lower the learning rate of {stage} or set precision: fp32, "
    "with another --out folder"
)
# What may change between two runs that continue one another.
EXTENDABLE = {
    "stage1": {"steps"},
    "stage2": {"steps"},
    "validate_every": True,
    "save_every": True,
    "keep": True,
    "compile": True,
}


class Training:
    """The state of a stage: generator, discriminators, optimisers, averages, the step reached.

    accelerator: places and wraps the networks; it decides device, precision and processes.
    weights: the generator to start from; without them it is initialised from the recipe's seed.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: Stage,
        accelerator: Accelerator,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.stage, self.accelerator, self.step = recipe, stage, accelerator, 0
        adversarial = isinstance(stage, AdversarialStage)
        self.name = "stage2" if adversarial else "stage1"
        generator = Generator(recipe.generator)
        if weights:
            generator.load_state_dict(weights)
        self.plain: dict[str, nn.Module] = {"generator": generator}
        if isinstance(stage, AdversarialStage):
            self.plain |= _discriminators(stage).modules()
        self.weights = (
            stage.weights
            if isinstance(stage, AdversarialStage)
            else PRETRAIN.model_copy(update={"gradient_branch": stage.gradient_branch})
        )
        self.perceptual = perceptual_losses(stage, accelerator.device)
        self.wrapped: dict[str, Any] = {}
        for name, module in self.plain.items():
            module.to(accelerator.device).to(memory_format=torch.channels_last)
            if recipe.compile:
                module.compile()
            self.wrapped[name] = accelerator.prepare(module)
        self.optimizers = {"generator": self._optimizer(["generator"], stage.learning_rate)}
        if rivals := [name for name in self.plain if name != "generator"]:
            self.optimizers["discriminators"] = self._optimizer(rivals, stage.learning_rate)
        state = generator.state_dict()
        self.ema = {k: v.clone() for k, v in state.items()} if stage.ema else None

    def _optimizer(self, names: list[str], learning_rate: float) -> Any:
        parameters = [p for name in names for p in self.plain[name].parameters()]
        adam = torch.optim.Adam(
            parameters, learning_rate, betas=self.stage.betas, eps=self.stage.eps, fused=True
        )
        return self.accelerator.prepare(adam)

    @property
    def generator(self) -> Generator:
        generator = self.plain["generator"]
        assert isinstance(generator, Generator)
        return generator

    @property
    def share(self) -> slice:
        """This process's part of every batch."""
        part = self.stage.batch // self.accelerator.num_processes
        start = part * self.accelerator.process_index
        return slice(start, start + part)

    def update(self, lr: Tensor, hr: Tensor) -> dict[str, float]:
        """One step on this process's share of a batch of uint8 images: (n, 3, p / 4, p / 4) or,
        mixed with HR pixels, (n, 3, p, p), and (n, 3, p, p).

        Returns every term of the losses, unweighted, and "total", what the generator minimises;
        in the first `warm_up` steps the discriminators' terms alone.
        """
        if self.recipe.generator.head == "unshuffle" and lr.shape != hr.shape:
            lr = F.interpolate(lr, scale_factor=float(SCALE), mode="nearest")
        device, count = self.accelerator.device, self.recipe.accumulate
        images = [
            x.to(device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
            / 255
            for x in (lr, hr)
        ]
        parts = list(zip(*(x.chunk(count) for x in images), strict=True))
        rivals = Discriminators(
            self.plain.get("discriminator"), self.plain.get("gradient_discriminator")
        )
        learns = self.step >= getattr(self.stage, "warm_up", 0)  # the generator, too
        if learns:
            with rivals.frozen():
                terms, made = self._generator_step(parts, rivals)
        else:
            terms = {}
            with torch.no_grad():
                made = [self.wrapped["generator"](lr).image.float() for lr, _ in parts]
        with _interrupt_held_back():
            if "discriminators" in self.optimizers:
                terms |= self._discriminator_step(parts, made)
            for side in self.optimizers:
                if learns or side != "generator":
                    self._apply(side)
            self.step += 1
            self._average()
        return terms

    def _generator_step(
        self, parts: list[tuple[Tensor, ...]], rivals: Discriminators
    ) -> tuple[dict[str, float], list[Tensor]]:
        """Gradients of L_G on the generator; returns the terms and the images, detached."""
        made: list[Tensor] = []
        shift: tuple[int, int] | None = None
        if getattr(self.stage, "lpips_shift", False):
            random = np.random.default_rng([self.recipe.seed, self.step + 1, 2])
            shift = (int(random.integers(SCALE)), int(random.integers(SCALE)))

        def terms_of(part: int) -> Terms:
            lr, hr = parts[part]
            output: GeneratorOutput = self.wrapped["generator"](lr)
            made.append(output.image.detach().float())
            terms = generator_terms(
                output, hr, self.weights, rivals, self.perceptual, self._batch_mean, shift
            )
            weighted = [getattr(self.weights, name) * term for name, term in terms.items()]
            return {**terms, "total": torch.stack(weighted).sum()}

        return self._gradients("generator", terms_of, len(parts)), made

    def _discriminator_step(
        self, parts: list[tuple[Tensor, ...]], made: list[Tensor]
    ) -> dict[str, float]:
        """Gradients of the discriminators' losses on them."""
        assert isinstance(self.stage, AdversarialStage)
        step, cutmix = self.step + 1, self.stage.cutmix
        random = np.random.default_rng([self.recipe.seed, step, 1])
        mix = random.uniform() < losses.cutmix_probability(step, cutmix.ramp, cutmix.probability)
        masks: list[Tensor | None] = [None] * len(parts)
        if mix and self.stage.discriminator.kind == "unet":
            drawn = losses.cutmix_masks(random, self.stage.batch, self.stage.patch)[self.share]
            masks = list(drawn.to(self.accelerator.device).chunk(len(parts)))
        rivals = Discriminators(
            self.wrapped.get("discriminator"), self.wrapped.get("gradient_discriminator")
        )

        def terms_of(part: int) -> Terms:
            hr = parts[part][1]
            terms = discriminator_terms(made[part], hr, masks[part], rivals, self._batch_mean)
            return {**terms, "total": torch.stack(list(terms.values())).sum()}

        found = self._gradients("discriminators", terms_of, len(parts))
        found.pop("total")
        return found

    def _gradients(self, side: str, terms_of: Any, parts: int) -> dict[str, float]:
        """Add up the gradients of all parts; the terms are means over parts and processes.

        SrtoolError where one of them is no finite number: nothing has been updated yet.
        """
        self.optimizers[side].zero_grad(set_to_none=True)
        modules = [
            m for n, m in self.wrapped.items() if (n == "generator") == (side == "generator")
        ]
        sums: Tensor | None = None
        names: list[str] = []
        for part in range(parts):
            with ExitStack() as stack:
                if part < parts - 1:  # processes exchange gradients with the last part only
                    for module in modules:
                        stack.enter_context(self.accelerator.no_sync(module))
                terms = terms_of(part)
                self.accelerator.backward(terms["total"] / parts)
            names = list(terms)
            values = torch.stack([term.detach() for term in terms.values()]) / parts
            sums = values if sums is None else sums + values
        assert sums is not None
        means = self.accelerator.reduce(sums, "mean").tolist()
        for name, value in zip(names, means, strict=True):
            if not math.isfinite(value):
                raise SrtoolError(
                    f"the loss ({name}) became {value} at step {self.step + 1} of {self.name}; "
                    + DIVERGED.format(stage=self.name)
                )
        return dict(zip(names, means, strict=True))

    def _apply(self, side: str) -> None:
        """Clip the gradients of one side and update its weights."""
        optimizer = self.optimizers[side]
        rate = self.stage.learning_rate_at(self.step + 1)
        if side == "discriminators" and isinstance(self.stage, AdversarialStage):
            rate = self.stage.discriminator_learning_rate_at(self.step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.recipe.clip_norm is not None:
            self.accelerator.unscale_gradients(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm)
        optimizer.step()

    def _batch_mean(self, x: Tensor) -> Tensor:
        """The mean over the shares of all processes, with a gradient to each."""
        if self.accelerator.num_processes == 1:
            return x.mean()
        from torch.distributed.nn.functional import all_reduce

        mean: Tensor = all_reduce(x.mean()) / self.accelerator.num_processes  # type: ignore[no-untyped-call]
        return mean

    def _average(self) -> None:
        """Exponential moving average of the weights, over a shorter window at the start."""
        if self.ema is None or self.stage.ema is None:
            return
        decay = min(self.stage.ema, self.step / (self.step + 9))
        current = list(self.generator.state_dict().values())
        torch._foreach_lerp_(list(self.ema.values()), current, 1 - decay)

    def averaged(self) -> Generator:
        """The generator that is validated and shipped, in eval mode, on the training's device."""
        generator = Generator(self.recipe.generator)
        generator.load_state_dict(self.ema or self.generator.state_dict())
        return generator.to(self.accelerator.device).eval()

    def finite(self) -> bool:
        """Whether every weight is a number; a checkpoint of others would be of no use."""
        states = [module.state_dict() for module in self.plain.values()]
        return all(bool(x.isfinite().all()) for state in states for x in state.values())

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "recipe": self.recipe.model_dump_json(),
            "config": self.recipe.generator.as_dict(),
            "stage": self.name,
            "step": self.step,
            **{name: module.state_dict() for name, module in self.plain.items()},
            "ema": self.ema,
            "optimizers": {n: _plain(o).state_dict() for n, o in self.optimizers.items()},
            "scaler": scaler.state_dict() if scaler else None,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from `state()`; UsageError when it belongs to another recipe."""
        before, now = json.loads(state["recipe"]), json.loads(self.recipe.model_dump_json())
        if difference := _difference(before, now, EXTENDABLE):
            raise UsageError(
                f"{path}: was trained with another recipe ({difference}); "
                "choose another --out folder, or the same recipe to continue"
            )
        for name, module in self.plain.items():
            module.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            _plain(optimizer).load_state_dict(state["optimizers"][name])
        if state["ema"] is not None:
            self.ema = {k: v.to(self.accelerator.device) for k, v in state["ema"].items()}
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimiser itself, without accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _discriminators(stage: AdversarialStage) -> Discriminators:
    """The networks that some term with a weight needs."""
    weights = stage.weights
    image = gradient = None
    if weights.adversarial or weights.feature_matching:
        image = Discriminator(stage.discriminator)
    if weights.gradient_adversarial:
        gradient = GradientDiscriminator(stage.gradient_discriminator, stage.patch)
    return Discriminators(image, gradient)


def perceptual_losses(stage: Stage, device: torch.device) -> dict[str, nn.Module]:
    """The perceptual losses that have a weight, by name; AssetError, with the command that
    installs it, where the network behind one is missing."""
    from srtool.train.losses.perceptual import lpips_loss, vgg_loss

    if isinstance(stage, PretrainStage):
        return {}
    wanted = {"lpips": lpips_loss, "vgg": vgg_loss}
    return {n: make().to(device) for n, make in wanted.items() if getattr(stage.weights, n)}


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
