"""What a run would take: counted on one sample, against what a whole batch does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from srtool.train.data.patches import Patches
from srtool.train.estimate import Cost, costs, estimates, kept_for_backward
from srtool.train.loop import Run, accelerator_from_recipe
from srtool.train.recipe import CutMix, Recipe
from srtool.train.trainer import Training

MIXES = {"stage2": {"cutmix": CutMix(probability=1, ramp=1)}}


def counted(recipe: Recipe) -> list[Cost]:
    return costs(recipe, Run(Path("nowhere"), Path("nothing")))


def test_a_batch_costs_as_much_as_its_samples(tiny_gan_recipe: Recipe, photographs: Path) -> None:
    """Arithmetic and parameters exactly, in a step that mixes."""
    recipe = tiny_gan_recipe
    for cost, stage in zip(counted(recipe), (recipe.stage1, recipe.stage2), strict=True):
        assert stage is not None
        training = Training(recipe, stage, accelerator_from_recipe(recipe, "cpu"))
        patches = Patches(photographs, stage.patch, stage.batch, 0, stage.augment)
        most = 0
        for step in range(1, 7):
            with FlopCounterMode(display=False) as counter:
                training.update(*patches.at(step))
            most = max(most, counter.get_total_flops())
        assert cost.flops == most
        assert cost.parameters == {
            name: sum(p.numel() for p in module.parameters())
            for name, module in training.plain.items()
        }
        held = sum(4 * 4 * count for count in cost.parameters.values())  # float32, Adam
        generator = 4 * cost.parameters["generator"]
        assert cost.lasting == held + (generator if stage.ema else 0)


def test_what_is_kept_grows_with_the_part_of_a_batch(tiny_gan_recipe: Recipe) -> None:
    """Against the count of a whole batch of five; nearly, since most may be kept at another
    moment."""
    recipe = tiny_gan_recipe
    for name in ("stage1", "stage2"):
        stage = getattr(recipe, name).model_copy(update={"batch": 10})
        parted = recipe.model_copy(update={"accumulate": 2, name: stage})
        found = next(cost for cost in counted(parted) if cost.stage == name)
        five = stage.model_copy(update={"batch": 5, **MIXES.get(name, {})})
        training = Training(recipe, five, accelerator_from_recipe(recipe, "cpu"))
        lr, hr = (
            torch.zeros((5, 3, side, side), dtype=torch.uint8)
            for side in (stage.patch // 4, stage.patch)
        )
        own = {
            x.untyped_storage().data_ptr()
            for module in training.plain.values()
            for x in module.parameters()
        }
        with kept_for_backward(own) as most:
            training.update(lr, hr)
        assert found.saved == pytest.approx(most(), rel=0.06)


def test_what_is_kept_by_hand() -> None:
    """A product keeps both factors once, a parameter costs nothing, and all of it goes again."""
    weight = torch.ones(1000, requires_grad=True)
    with kept_for_backward({weight.untyped_storage().data_ptr()}) as most:
        for _ in range(2):
            x = weight * 2.0  # keeps nothing
            y = x * x  # keeps x, twice
            z = (y * weight).sum()  # keeps y, and the parameter
            assert most() == 8000
            z.backward()  # type: ignore[no-untyped-call]
            del x, y, z
    assert most() == 8000


def test_a_stage_is_measured(tiny_recipe: Recipe, photographs: Path) -> None:
    notes: list[str] = []
    (found,) = estimates(tiny_recipe, Run(photographs, Path("nothing")), notes.append)
    assert found.seconds == found.cost.steps * found.step_seconds > 0
    assert 0 <= found.waited <= 1
    assert found.memory > found.cost.lasting
    assert len(notes) == 1
