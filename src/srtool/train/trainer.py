"""One stage of a training run: networks, optimisers, averaged weights, and what one step does.

Everything that changes from step to step is either in the state (weights, moments, averages,
loss scale) or a pure function of the step (data, CutMix, learning rates); so a run that was cut
off goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from srtool.errors import UsageError
from srtool.interrupts import interrupts_held
from srtool.networks.generator import SCALE, Generator, GeneratorOutput
from srtool.train.discriminators import (
    Discriminator,
    GradientDiscriminator,
    iterate_powers,
    normalised_once,
)
from srtool.train.losses import (
    Discriminators,
    Objective,
    Terms,
    cutmix_masks,
    discriminator_terms,
    generator_terms,
    mixed_from_mask,
)
from srtool.train.perceptual import lpips_loss, vgg_loss
from srtool.train.recipe import AdversarialStage, Recipe, Stage

DIVERGED = (
    "the last checkpoint is kept: lower the learning rate of {stage} or set precision: fp32, "
    "in another folder"
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
        self.name = "stage1"
        self.generator = Generator(recipe.generator)
        if weights:
            self.generator.load_state_dict(weights)
        self.plain: dict[str, nn.Module] = {"generator": self.generator}
        if isinstance(stage, AdversarialStage):
            self.name = "stage2"
            self.plain |= _discriminators(stage)
        self.rivals = {n: module for n, module in self.plain.items() if n != "generator"}
        self.objective = Objective(
            stage.weights, perceptual_losses(stage, accelerator.device), self._batch_mean
        )
        self.wrapped: dict[str, Any] = {}
        for name, module in self.plain.items():
            module.to(accelerator.device).to(memory_format=torch.channels_last)
            if recipe.compile:
                module.compile()
                # Both sides go back through what is said of SR, one after the other.
                torch._functorch.config.donated_buffer = False
            self.wrapped[name] = accelerator.prepare(module)
        self.optimizers = {"generator": self._optimizer(["generator"], stage.learning_rate)}
        if self.rivals:
            self.optimizers["discriminators"] = self._optimizer([*self.rivals], stage.learning_rate)
        state = self.generator.state_dict()
        self.ema = {k: v.clone() for k, v in state.items()} if stage.ema else None

    def _optimizer(self, names: list[str], learning_rate: float) -> Any:
        parameters = [p for name in names for p in self.plain[name].parameters()]
        adam = torch.optim.Adam(
            parameters, learning_rate, betas=self.stage.betas, eps=self.stage.eps, fused=True
        )
        return self.accelerator.prepare(adam)

    @property
    def share(self) -> slice:
        """This process's part of every batch."""
        part = self.stage.batch // self.accelerator.num_processes
        start = part * self.accelerator.process_index
        return slice(start, start + part)

    def update(self, lr: Tensor, hr: Tensor) -> Terms:
        """One step on this process's share of a batch of uint8 images: (n, 3, p / 4, p / 4) or,
        mixed with HR pixels, (n, 3, p, p), and (n, 3, p, p).

        Returns every term of the losses, unweighted, and "total", what the generator minimises;
        in the first `warm_up` steps the discriminators' terms alone. They stay on the device, so
        that nothing waits for it: whoever reads them does, and looks whether they are numbers.
        """
        if self.recipe.generator.head == "unshuffle" and lr.shape != hr.shape:
            lr = F.interpolate(lr, scale_factor=float(SCALE), mode="nearest")
        count = self.recipe.accumulate
        images = [
            self._placed(x).to(torch.float32, memory_format=torch.channels_last) / 255
            for x in (lr, hr)
        ]
        masks = self._masks()
        of_masks = masks.chunk(count) if masks is not None else [None] * count
        parts = zip(*(x.chunk(count) for x in images), of_masks, strict=True)
        warm = self.step >= getattr(self.stage, "warm_up", 0)
        learns = warm or not self.rivals  # the generator, too
        sides = [side for side in self.optimizers if learns or side != "generator"]
        for side in sides:
            self.optimizers[side].zero_grad(set_to_none=True)
        terms: Terms = {}
        for number, (low, high, mask) in enumerate(parts, start=1):
            with ExitStack() as stack:
                if number < count:  # processes exchange gradients with the last part only
                    for module in self.wrapped.values():
                        stack.enter_context(self.accelerator.no_sync(module))
                stack.enter_context(normalised_once(self.rivals.values()))
                for name, term in self._part(low, high, mask, learns).items():
                    terms[name] = terms.get(name, 0) + term.detach() / count
        means = self.accelerator.reduce(torch.stack(list(terms.values())), "mean")
        with interrupts_held():  # weights, moments, average and step number belong together
            for side in sides:
                self._apply(side)
            self.step += 1
            self._average()
        return dict(zip(terms, means.unbind(), strict=True))

    def _placed(self, x: Tensor) -> Tensor:
        """On the device, copied while it computes: from memory that the system cannot move."""
        if self.accelerator.device.type == "cuda":
            x = x.pin_memory()
        return x.to(self.accelerator.device, non_blocking=True)

    def _masks(self) -> Tensor | None:
        """This process's CutMix masks, in the steps that mix."""
        if not isinstance(self.stage, AdversarialStage) or "discriminator" not in self.plain:
            return None
        step, cutmix = self.step + 1, self.stage.cutmix
        random = np.random.default_rng([self.recipe.seed, step, 1])
        if (
            random.uniform() >= cutmix.probability_at(step)
            or self.stage.discriminator.kind != "unet"
        ):
            return None
        masks = cutmix_masks(random, self.stage.batch, self.stage.patch)
        return self._placed(masks[self.share])

    def _part(self, lr: Tensor, hr: Tensor, mask: Tensor | None, learns: bool) -> Terms:
        """Gradients of both sides on a part of a batch, all at the same weights: HR and SR are
        judged once, for both."""
        rivals = Discriminators(
            self.wrapped.get("discriminator"), self.wrapped.get("gradient_discriminator")
        )
        with torch.set_grad_enabled(learns):
            output: GeneratorOutput = self.wrapped["generator"](lr)
        sr = output.image.float()
        real, fake = rivals.judge(hr), rivals.judge(sr)
        terms: Terms = {}
        if self.rivals:
            mixed = None
            if mask is not None and rivals.image is not None:
                mixed = mixed_from_mask(rivals.image, mask, hr, sr)
            found = discriminator_terms(real, fake, mixed, self._batch_mean)
            self._backward("discriminators", found.values(), retain_graph=learns)
            terms = {name: term.detach() for name, term in found.items()}
            real, mixed, found = real.detached(), None, {}  # their graphs are of no more use
        if learns:
            found = generator_terms(self.objective, output, hr, real, fake, self._shift())
            weighted = [getattr(self.objective.weights, n) * term for n, term in found.items()]
            self._backward("generator", weighted)
            terms |= found | {"total": torch.stack(weighted).sum()}
        return terms

    def _shift(self) -> tuple[int, int] | None:
        """Where LPIPS looks in this step."""
        if not getattr(self.stage, "lpips_shift", False):
            return None
        random = np.random.default_rng([self.recipe.seed, self.step + 1, 2])
        return int(random.integers(SCALE)), int(random.integers(SCALE))

    def _backward(self, side: str, terms: Iterable[Tensor], retain_graph: bool = False) -> None:
        """Add the gradients of a sum of terms to the parameters of one side alone."""
        total = torch.stack(list(terms)).sum() / self.recipe.accumulate
        self.accelerator.backward(total, inputs=self._parameters(side), retain_graph=retain_graph)

    def _parameters(self, side: str) -> list[nn.Parameter]:
        return [p for group in self.optimizers[side].param_groups for p in group["params"]]

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
            nn.utils.clip_grad_norm_(self._parameters(side), self.recipe.clip_norm)
        optimizer.step()
        if side == "discriminators":
            iterate_powers(self.rivals.values())

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
        found = [x.isfinite().all() for state in states for x in state.values()]
        return bool(torch.stack(found).all())

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "recipe": self.recipe.model_dump_json(),
            "config": self.recipe.generator.as_dict(),
            "stage": self.name,
            "step": self.step,
            **{name: module.state_dict() for name, module in self.plain.items()},
            "ema": self.ema,
            "optimizers": {name: adam.state_dict() for name, adam in self.optimizers.items()},
            "scaler": scaler.state_dict() if scaler else None,
        }

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Continue from `state()`; UsageError when it belongs to another recipe."""
        before, now = json.loads(state["recipe"]), json.loads(self.recipe.model_dump_json())
        if difference := _difference(before, now, EXTENDABLE):
            raise UsageError(
                f"{path}: was trained with another recipe ({difference}); "
                "choose another folder, or the same recipe to continue",
                path=path,
                parameter="out",
            )
        for name, module in self.plain.items():
            module.load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if state["ema"] is not None:
            self.ema = {k: v.to(self.accelerator.device) for k, v in state["ema"].items()}
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def _discriminators(stage: AdversarialStage) -> dict[str, nn.Module]:
    """The networks that some term with a weight needs, by name."""
    found: dict[str, nn.Module] = {}
    if stage.weights.adversarial or stage.weights.feature_matching:
        found["discriminator"] = Discriminator(stage.discriminator)
    if stage.weights.gradient_adversarial:
        found["gradient_discriminator"] = GradientDiscriminator(
            stage.gradient_discriminator, stage.patch
        )
    return found


def perceptual_losses(stage: Stage, device: torch.device) -> dict[str, nn.Module]:
    """The perceptual losses that have a weight, by name; AssetError, with the command that
    installs it, where the network behind one is missing."""
    wanted = {"lpips": lpips_loss, "vgg": vgg_loss}
    return {n: make().to(device) for n, make in wanted.items() if getattr(stage.weights, n)}


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
