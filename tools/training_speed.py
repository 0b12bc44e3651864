"""How much faster a training step of srtool is than the plain loop that scripts use.

python tools/training_speed.py --preset lite

The plain loop is eager PyTorch: float32, contiguous tensors, Adam. Both sides make the same
stage 1 step on the same batch, in turn, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from srtool.networks.generator import PRESETS, Generator
from srtool.train.loop import accelerator_from_recipe
from srtool.train.recipe import PretrainStage, Recipe
from srtool.train.trainer import Training

WARM_UP = 2


def plain_loop(recipe: Recipe, device: torch.device) -> Callable[[Tensor, Tensor], object]:
    """One step of the loop that reference implementations use."""
    generator = Generator(recipe.generator).to(device)
    optimizer = torch.optim.Adam(generator.parameters(), 2e-4)

    def step(lr: Tensor, hr: Tensor) -> float:
        low = F.interpolate(lr.to(device).float() / 255, scale_factor=4.0, mode="nearest")
        loss = (generator(low).image - hr.to(device).float() / 255).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def ratios(recipe: Recipe, device: str, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of every measured step: of the plain loop and of srtool."""
    stage = recipe.stage1
    assert stage is not None
    accelerator = accelerator_from_recipe(recipe, device)
    training = Training(recipe, stage, accelerator)
    plain = plain_loop(recipe, accelerator.device)
    random = torch.Generator().manual_seed(0)
    side = stage.patch // 4
    lr = torch.randint(256, (stage.batch, 3, side, side), generator=random, dtype=torch.uint8)
    hr = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + steps):
        for made, step in zip(seconds, (plain, training.update), strict=True):
            start = time.perf_counter()
            step(lr, hr)  # both end with .item(), so the GPU has finished
            if number >= WARM_UP:
                made.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="lite")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    recipe = Recipe(
        generator=PRESETS[chosen.preset],
        precision=chosen.precision,
        compile=chosen.compile,
        stage1=PretrainStage(batch=chosen.batch, patch=chosen.patch),
    )
    plain, ours = ratios(recipe, chosen.device, chosen.steps)
    each = sorted(p / o for p, o in zip(plain, ours, strict=True))
    print(  # noqa: T201
        f"{chosen.preset}, {chosen.batch} patches of {chosen.patch}: plain fp32 "
        f"{statistics.median(plain):.3f} s, srtool {chosen.precision} "
        f"{statistics.median(ours):.3f} s a step; {statistics.median(each):.2f}x "
        f"({each[0]:.2f}-{each[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
