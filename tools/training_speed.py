"""What each means of `srtool train` gains on a step of stage 2, from the plain loop of scripts.

python tools/training_speed.py fast.yaml --steps 12 --out results/training-speed.json

The plain loop is eager PyTorch: float32, contiguous tensors, every side by itself as papers write
it down (D judges HR and SR for the generator and again for itself), spectral norms in every pass,
every loss read in every step. The means are added one after the other; all variants take the same
batch in turn, so that whatever else the machine does hits them alike. The last but one is `srtool
train` itself. Pinned memory and cudnn.benchmark are for GPUs and show nothing on a CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from srtool.benchmarks.speed.machine import this_machine
from srtool.networks.generator import PRESETS, Generator
from srtool.train.discriminators import iterate_powers, normalised_once
from srtool.train.loop import accelerator_from_recipe
from srtool.train.losses import (
    Discriminators,
    Objective,
    discriminator_terms,
    generator_terms,
)
from srtool.train.recipe import AdversarialStage, Recipe, recipe_from_file
from srtool.train.trainer import Training, perceptual_losses

Step = Callable[[Tensor, Tensor], Any]
WARM_UP = 2


@dataclass(frozen=True)
class Means:
    """What a loop does other than the plain one."""

    judges_once: bool = False
    normalises_once: bool = False
    leaves_losses: bool = False
    channels_last: bool = False
    bf16: bool = False


# In the order in which they are added.
ADDED = {
    "HR and SR judged once": "judges_once",
    "spectral norms once a step": "normalises_once",
    "losses left unread": "leaves_losses",
    "channels_last": "channels_last",
    "bfloat16": "bf16",
}


class Loop:
    """Stage 2 without accelerate, averages and CutMix."""

    def __init__(self, recipe: Recipe, stage: AdversarialStage, device: torch.device, means: Means):
        made = Training(recipe, stage, accelerator_from_recipe(recipe, str(device)))
        self.means, self.device = means, device
        layout = torch.channels_last if means.channels_last else torch.contiguous_format
        self.generator = Generator(recipe.generator).to(device, memory_format=layout)  # type: ignore[call-overload]
        modules = {n: m.to(memory_format=layout) for n, m in made.rivals.items()}
        self.rivals = Discriminators(
            modules.get("discriminator"), modules.get("gradient_discriminator")
        )
        self.objective = Objective(stage.weights, perceptual_losses(stage, device))
        self.of_generator = list(self.generator.parameters())
        self.of_rivals = [p for m in modules.values() for p in m.parameters()]
        self.optimizers = [torch.optim.Adam(self.of_generator, 1e-4)]
        if self.of_rivals:
            self.optimizers.append(torch.optim.Adam(self.of_rivals, 1e-4))
        if not means.normalises_once:
            for module in modules.values():
                module.train()

    def step(self, lr: Tensor, hr: Tensor) -> list[Any]:
        layout = torch.channels_last if self.means.channels_last else torch.contiguous_format
        if self.generator.config.head == "unshuffle":
            lr = F.interpolate(lr, scale_factor=4.0, mode="nearest")
        low, high = (
            x.to(self.device).to(torch.float32, memory_format=layout) / 255 for x in (lr, hr)
        )
        modules = [m for m in (self.rivals.image, self.rivals.gradient) if m is not None]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with ExitStack() as stack:
            if self.means.normalises_once:
                stack.enter_context(normalised_once(modules))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.means.bf16):
                terms = (self._together if self.means.judges_once else self._apart)(low, high)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.means.normalises_once:
            iterate_powers(modules)
        return terms if self.means.leaves_losses else [term.item() for term in terms]

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        weights = self.objective.weights
        return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()

    def _apart(self, low: Tensor, high: Tensor) -> list[Tensor]:
        output, rivals = self.generator(low), self.rivals
        for parameter in self.of_rivals:
            parameter.requires_grad_(False)
        with torch.no_grad():  # HR is judged where a term of the generator looks at it
            weights = self.objective.weights
            asked = Discriminators(
                rivals.image if weights.feature_matching else None,
                rivals.gradient if weights.gradient_adversarial else None,
            )
            real = asked.judge(high)
        fake = rivals.judge(output.image.float())
        ours = generator_terms(self.objective, output, high, real, fake)
        self._total(ours).backward()  # type: ignore[no-untyped-call]
        for parameter in self.of_rivals:
            parameter.requires_grad_(True)
        sr = output.image.detach().float()
        theirs = discriminator_terms(rivals.judge(high), rivals.judge(sr))
        if theirs:
            torch.stack(list(theirs.values())).sum().backward()  # type: ignore[no-untyped-call]
        return [*ours.values(), *theirs.values()]

    def _together(self, low: Tensor, high: Tensor) -> list[Tensor]:
        output = self.generator(low)
        real, fake = self.rivals.judge(high), self.rivals.judge(output.image.float())
        theirs = discriminator_terms(real, fake)
        if theirs:
            total = torch.stack(list(theirs.values())).sum()
            total.backward(inputs=self.of_rivals, retain_graph=True)  # type: ignore[no-untyped-call]
        ours = generator_terms(self.objective, output, high, real, fake)
        self._total(ours).backward(inputs=self.of_generator)  # type: ignore[no-untyped-call]
        return [*ours.values(), *theirs.values()]


def variants(recipe: Recipe, stage: AdversarialStage, device: torch.device) -> dict[str, Step]:
    """All loops by name, from the plain one."""
    found: dict[str, Step] = {"plain": Loop(recipe, stage, device, Means()).step}
    chosen: dict[str, bool] = {}
    for name, means in ADDED.items():
        chosen[means] = True
        found[name] = Loop(recipe, stage, device, Means(**chosen)).step
    for name, compiled in (("srtool train", False), ("srtool train, compile: true", True)):
        ours = recipe.model_copy(update={"precision": "bf16", "compile": compiled})
        found[name] = Training(ours, stage, accelerator_from_recipe(ours, str(device))).update
    return found


def measure(steps: dict[str, Step], stage: AdversarialStage, count: int) -> dict[str, list[float]]:
    """Seconds of every measured step of every variant, in turn."""
    random = torch.Generator().manual_seed(0)
    side = stage.patch // 4
    lr = torch.randint(256, (stage.batch, 3, side, side), generator=random, dtype=torch.uint8)
    hr = F.interpolate(lr.float(), scale_factor=4.0, mode="bicubic").clamp(0, 255).byte()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + count):
        for name, step in steps.items():
            start = time.perf_counter()
            step(lr, hr)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="fast.yaml")
    parser.add_argument("--preset", choices=PRESETS, help="another generator than the recipe's")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--patch", type=int)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON: a list of runs, this one added")
    chosen = parser.parse_args()
    given = recipe_from_file(chosen.recipe)
    assert given.stage2 is not None, "stage 2 is what is measured"
    sizes = {n: v for n in ("batch", "patch") if (v := getattr(chosen, n))}
    stage = given.stage2.model_copy(
        update={**sizes, "warm_up": 0, "augment": None, "lpips_shift": False}
        | {"cutmix": given.stage2.cutmix.model_copy(update={"probability": 0.0})}
    )
    generator = PRESETS[chosen.preset] if chosen.preset else given.generator
    recipe = Recipe(generator=generator, stage1=None, stage2=stage, precision="fp32")
    seconds = measure(variants(recipe, stage, torch.device(chosen.device)), stage, chosen.steps)
    plain = seconds["plain"]
    gains = {
        name: median(p / s for p, s in zip(plain, found, strict=True))
        for name, found in seconds.items()
    }
    before = 1.0
    for name, gain in gains.items():
        print(f"{name:30} {median(seconds[name]):7.3f} s {gain:6.2f}x {gain / before:6.2f}x")  # noqa: T201
        before = gain
    if chosen.out:
        machine = this_machine()
        runs = json.loads(chosen.out.read_text()) if chosen.out.exists() else []
        facts = {"recipe": chosen.recipe, "preset": chosen.preset, "batch": stage.batch}
        facts |= {"patch": stage.patch, "device": chosen.device, "torch": torch.__version__}
        facts |= {"cpu": machine.cpu, "instructions": machine.instructions}
        facts |= {"threads": torch.get_num_threads()}
        rows = {
            name: {"seconds": [round(value, 4) for value in found], "gain": round(gains[name], 3)}
            for name, found in seconds.items()
        }
        chosen.out.write_text(json.dumps([*runs, {**facts, "variants": rows}], indent=1) + "\n")


if __name__ == "__main__":
    main()
