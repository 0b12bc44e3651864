"""Train a recipe on one GPU within minutes: what made the networks of weights/.

    python tools/gpu_training.py fast.yaml FOLDER... --out OUT --alexnet FILE [--seconds N]

`srtool train` with another engine room: the architecture, the losses and the numbers are the
recipe's, but all photographs lie in the GPU's memory as bytes, together with smaller copies of
themselves, patches are drawn there, and a whole step is one CUDA graph. What a graph cannot hold is
refused: MoA, CutMix, and halving learning rates. With --ablation VGG16 the four trainings of the
paper's Table 2 follow one another, each from its own equal stage 1. Repeated, it continues after
the last stage that is whole.

Without a GPU it runs step by step, which is slow and shows only that it works.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photographs import DEVICE, SUFFIXES, Photographs
from safetensors.torch import load_file
from torch import Tensor, nn

from srtool.networks.generator import SCALE, Generator
from srtool.networks.loading import load_network, save_generator
from srtool.train.discriminators import Discriminator, iterate_powers, normalised_once
from srtool.train.losses import (
    Discriminators,
    Objective,
    discriminator_terms,
    generator_terms,
)
from srtool.train.perceptual import LpipsLoss, VggLoss, load_lpips
from srtool.train.recipe import AdversarialStage, PretrainStage, Recipe, recipe_from_file

VGG16_LAYERS = 29  # up to conv5_3, its activation left out
RIVAL_FLOOR = 0.1  # of the discriminators' learning rate, at the end of the cosine


class StepGraph:
    """A stage whose whole step is one CUDA graph; step number and chance are on the device.

    start: weights of the generator. perceptual: the losses "lpips" and "vgg", where asked for.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: PretrainStage | AdversarialStage,
        photographs: Photographs,
        perceptual: Mapping[str, nn.Module],
        start: Mapping[str, Tensor] | None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.stage, self.photographs = recipe, stage, photographs
        self.random = torch.Generator(DEVICE)
        self.random.manual_seed(recipe.seed)
        self.generator = Generator(recipe.generator)
        if start:
            self.generator.load_state_dict(start)
        rival = None
        weights = stage.weights
        if isinstance(stage, AdversarialStage):
            rival = Discriminator(stage.discriminator) if weights.adversarial else None
        self.objective = Objective(
            weights, {n: perceptual[n] for n in perceptual if getattr(weights, n)}
        )
        self.rival = rival
        self.rates: dict[str, Tensor] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        for name, module in (("generator", self.generator), ("rival", rival)):
            if module is None:
                continue
            module.to(DEVICE).to(memory_format=torch.channels_last)
            if DEVICE.type == "cuda":
                module.compile(dynamic=False)
            self.rates[name] = torch.zeros((), device=DEVICE)
            self.optimizers[name] = torch.optim.Adam(
                module.parameters(), self.rates[name], fused=True, capturable=DEVICE.type == "cuda"
            )
        self.average = {n: p.detach().clone() for n, p in self.generator.named_parameters()}
        self.done = torch.zeros((), device=DEVICE, dtype=torch.float64)
        self.terms: dict[str, Tensor] = {}
        self.graph = self._captured() if DEVICE.type == "cuda" else None

    def step(self) -> None:
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()

    def _step(self) -> None:
        stage = self.stage
        self.done += 1
        self._set_rates()
        lr, hr = self.photographs.draw(stage.batch, stage.patch, self.random)
        rivals = Discriminators(self.rival)
        with torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False):
            output = self.generator(lr)
            sr = output.image.float()
            with normalised_once([self.rival] if self.rival else []):
                real, fake = rivals.judge(hr), rivals.judge(sr)
                found = discriminator_terms(real, fake)
        if self.rival:
            self._backward(self.rival, sum(found.values(), torch.zeros((), device=DEVICE)), True)
        plain = Objective(self.objective.weights)
        terms = generator_terms(plain, output, hr, real, fake) | self._perceptual(sr, hr)
        weighted = [getattr(self.objective.weights, name) * term for name, term in terms.items()]
        self._backward(self.generator, torch.stack(weighted).sum(), False)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.rival:
            iterate_powers([self.rival])
        self.terms = {name: term.detach() for name, term in (terms | found).items()}
        kept = torch.clamp(self.done / (self.done + 9), max=stage.ema or 0).float()
        with torch.no_grad():
            for name, parameter in self.generator.named_parameters():
                self.average[name].lerp_(parameter, 1 - kept)

    def _set_rates(self) -> None:
        stage = self.stage
        cosine = 0.5 + 0.5 * torch.cos(math.pi * (self.done - 1) / stage.steps)
        rate = stage.learning_rate * cosine
        if isinstance(stage, AdversarialStage):
            first = stage.discriminator_learning_rate or stage.learning_rate
            if "rival" in self.rates:
                self.rates["rival"].copy_(first * (RIVAL_FLOOR + (1 - RIVAL_FLOOR) * cosine))
            rate = rate * (self.done > stage.warm_up)
        elif stage.ramp:
            rate = rate * torch.clamp(self.done / stage.ramp, max=1)
        self.rates["generator"].copy_(rate)

    def _perceptual(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """LPIPS and its substitute at patches shifted by 0 to 3 pixels, which are drawn here."""
        if not self.objective.perceptual:
            return {}
        side = self.stage.patch - SCALE
        shift = (torch.rand(2, device=DEVICE, generator=self.random) * SCALE).long()
        rows, columns = (torch.arange(side, device=DEVICE) + offset for offset in shift)
        sr, hr = (x.index_select(2, rows).index_select(3, columns) for x in (sr, hr))
        return {name: loss(sr, hr) for name, loss in self.objective.perceptual.items()}

    def _backward(self, module: nn.Module, total: Tensor, again: bool) -> None:
        parameters = list(module.parameters())
        for parameter in parameters:
            parameter.grad = None
        total.backward(inputs=parameters, retain_graph=again)  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm, foreach=True)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The graph of a step; those that warm up leave a trace in power iterations alone."""
        modules = [m for m in (self.generator, self.rival) if m]
        before = [{n: x.clone() for n, x in m.state_dict().items()} for m in modules]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.random)
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                self._step()
        with torch.no_grad():
            for module, state in zip(modules, before, strict=True):
                module.load_state_dict(state)
            for name, parameter in self.generator.named_parameters():
                self.average[name].copy_(parameter)
            for optimizer in self.optimizers.values():
                for moments in optimizer.state.values():
                    for value in moments.values():
                        value.zero_()
            self.done.zero_()
        torch.cuda.synchronize()
        return graph


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def trained(graph: StepGraph, name: str, out: Path, seconds: float) -> dict[str, Tensor]:
    """Take all the steps, or as many as `seconds` allow; save and return the averaged weights."""
    start, reported = time.perf_counter(), time.perf_counter()
    steps = 0
    for steps in range(1, graph.stage.steps + 1):
        graph.step()
        if steps % 100 and steps < graph.stage.steps:
            continue
        values = {n: round(float(x), 5) for n, x in graph.terms.items()}  # waits for the device
        now = time.perf_counter()
        if not all(map(math.isfinite, values.values())):
            raise SystemExit(f"{name}: a loss is no number at step {steps}: {values}")
        if now - reported > 30 or steps == graph.stage.steps:
            reported = now
            say(f"{name} {steps} of {graph.stage.steps}, {now - start:.0f} s: {values}")
        if now - start > seconds:
            say(f"{name}: stopped at step {steps} of {graph.stage.steps}")
            break
    generator = Generator(graph.recipe.generator)
    generator.load_state_dict(graph.average)
    facts: dict[str, Any] = {
        "recipe": json.loads(graph.recipe.model_dump_json()),
        "steps": steps,
        "seconds": round(time.perf_counter() - start, 1),
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
    }
    save_generator(out / f"{name}.safetensors", generator.eval(), facts)
    return {n: x.clone() for n, x in graph.average.items()}


@dataclass(frozen=True)
class Workshop:
    photographs: Photographs
    perceptual: Mapping[str, nn.Module]
    out: Path
    deadline: float

    def stage(
        self,
        name: str,
        recipe: Recipe,
        stage: PretrainStage | AdversarialStage,
        start: Mapping[str, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Its averaged weights; those that lie there with all their steps are taken."""
        done = self.out / f"{name}.safetensors"
        if done.is_file() and load_network(done).facts.get("steps") == stage.steps:
            say(f"{name}: is there")
            return load_file(done, device=str(DEVICE))
        graph = StepGraph(recipe, stage, self.photographs, self.perceptual, start)
        return trained(graph, name, self.out, self.deadline - time.monotonic())


def vgg16_from_file(path: Path) -> nn.Module:
    """The layers of VGG16 up to conv5_3, without its activation."""
    from torchvision.models import vgg16  # type: ignore[import-untyped]

    with torch.device("meta"):
        features: nn.Module = vgg16(weights=None).features[:VGG16_LAYERS]
    state = {n.removeprefix("features."): x.float() for n, x in load_file(path).items()}
    features.load_state_dict(state, assign=True)
    return features


def vgg_strength(workshop: Workshop, recipe: Recipe, weights: Mapping[str, Tensor]) -> float:
    """By what to multiply VGG16's loss, so that its gradient is as long as that of LPIPS."""
    generator = Generator(recipe.generator).to(DEVICE)
    generator.load_state_dict(weights)
    random, ratios = torch.Generator(DEVICE), []
    for _ in range(10):
        lr, hr = workshop.photographs.draw(8, 96, random)
        with torch.no_grad():
            sr = generator(lr).image.float()
        norms = []
        for name in ("lpips", "vgg"):
            x = sr.clone().requires_grad_(True)
            norms.append(float(torch.autograd.grad(workshop.perceptual[name](x, hr), x)[0].norm()))
        ratios.append(norms[0] / norms[1])
    return float(np.median(ratios))


def ablation(workshop: Workshop, recipe: Recipe) -> None:
    """Table 2: full, without U-Net, without LPIPS, without gradient branch."""
    first, second = recipe.stage1, recipe.stage2
    assert first is not None
    assert second is not None
    without = recipe.model_copy(update={"generator": replace(recipe.generator, taps=())})
    start = workshop.stage("stage1", recipe, first, None)
    plain = first.model_copy(update={"gradient_branch": 0.0})
    lone = workshop.stage("stage1_no_gradient_branch", without, plain, None)
    strength = vgg_strength(workshop, recipe, start)
    say(f"VGG16 for LPIPS at {strength:.4f} of its weight")
    weights = second.weights
    vgg = weights.model_copy(update={"lpips": 0.0, "vgg": weights.lpips * strength})
    unsupervised = weights.model_copy(update={"gradient_branch": 0.0})
    encoder = second.discriminator.model_copy(update={"kind": "encoder"})
    variants: dict[str, tuple[Recipe, dict[str, Any], dict[str, Tensor]]] = {
        "full": (recipe, {}, start),
        "no_lpips": (recipe, {"weights": vgg}, start),
        "no_unet": (recipe, {"discriminator": encoder}, start),
        "no_gradient_branch": (without, {"weights": unsupervised}, lone),
    }
    for name, (of, update, before) in variants.items():
        workshop.stage(name, of, second.model_copy(update=update), before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+", help="folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--alexnet", type=Path, required=True, help="its convolutions, for LPIPS")
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--ablation", type=Path, metavar="VGG16", help="its convolutions")
    parser.add_argument("--steps", type=int, nargs=2, help="of stage 1 and of stage 2")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop and save after these")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    recipe = recipe_from_file(args.recipe)
    stages = {"stage1": recipe.stage1, "stage2": recipe.stage2}
    if args.steps:
        changed = {
            name: stage.model_copy(update={"steps": steps})
            for (name, stage), steps in zip(stages.items(), args.steps, strict=True)
            if stage
        }
        recipe = recipe.model_copy(update=changed)
    perceptual: dict[str, nn.Module] = {"lpips": LpipsLoss(load_lpips(args.alexnet))}
    if args.ablation:
        perceptual["vgg"] = VggLoss(vgg16_from_file(args.ablation))
    folders = [sorted(folder.iterdir()) for folder in args.photographs]
    paths = [p for folder in folders for p in folder if p.suffix in SUFFIXES]
    photographs = Photographs(paths)
    say(f"{len(paths)} photographs, {photographs.count} with their smaller copies")
    args.out.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(
        photographs, {n: m.to(DEVICE) for n, m in perceptual.items()}, args.out, deadline
    )
    if args.ablation:
        ablation(workshop, recipe)
        return
    weights = load_file(args.start) if args.start else None
    for name, stage in (("stage1", recipe.stage1), ("stage2", recipe.stage2)):
        if stage is not None:
            weights = workshop.stage(name, recipe, stage, weights)


if __name__ == "__main__":
    main()
