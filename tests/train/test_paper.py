"""The paper's own recipe, at its full size: slow, and only on small patches here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from srtool.train.data.patches import Patches
from srtool.train.loop import accelerator_from_recipe
from srtool.train.recipe import Recipe, recipe_from_file, shipped_recipes
from srtool.train.trainer import Training

TERMS = {
    "pixel", "gradient_branch", "gradient_pixel", "lpips", "adversarial", "feature_matching",
    "gradient_adversarial", "total", "encoder", "decoder", "gradient_relativistic",
}  # fmt: skip


@pytest.fixture
def random_alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asset folder with an AlexNet of random weights: the real one is not shipped."""
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    torch.save(network.state_dict(), tmp_path / "alexnet-owt-7be5be79.pth")
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("random_alexnet")
def test_twenty_steps_of_the_paper(photographs: Path) -> None:
    """Stage 2 on patches of 32: finite losses, and every parameter moves."""
    paper = recipe_from_file("paper.yaml").model_dump()
    small: dict[str, Any] = {**paper["stage2"], "patch": 32, "batch": 2}
    recipe = Recipe.model_validate({**paper, "stage2": small})
    assert recipe.stage2 is not None
    training = Training(recipe, recipe.stage2, accelerator_from_recipe(recipe, "cpu"))
    before = {
        f"{name}.{key}": p.detach().clone()
        for name, module in training.plain.items()
        for key, p in module.named_parameters()
    }
    patches = Patches(photographs, 32, 2, recipe.seed, recipe.stage2.augment)
    for step in range(1, 21):
        losses = training.update(*patches.at(step))
        assert losses.keys() - {"consistency"} == TERMS
        assert all(math.isfinite(value) for value in losses.values()), losses
    after = {f"{n}.{k}": p for n, m in training.plain.items() for k, p in m.named_parameters()}
    still = {name for name in after if torch.equal(before[name], after[name])}
    # Hinge losses of HR and SR push the bias of logits both ways alike until one passes its margin.
    assert still <= {"discriminator.image_logits.bias", "discriminator.pixel_logits.bias"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_takes_a_step(
    name: str, tiny_recipe: Recipe, photographs: Path
) -> None:
    """Shrunk in every size, and without the perceptual networks; all else as it ships."""
    values = recipe_from_file(name).model_dump()
    taps = tiny_recipe.generator.taps if values["generator"]["taps"] else ()
    values["generator"] = {**tiny_recipe.generator.as_dict(), "taps": taps}
    for stage in ("stage1", "stage2"):
        if values[stage]:
            values[stage] |= {"patch": 32, "batch": 2}
    values["stage2"]["warm_up"] = 0
    values["stage2"]["weights"] |= {"lpips": 0, "vgg": 0}
    values["stage2"]["discriminator"]["features"] = 2
    values["stage2"]["gradient_discriminator"]["features"] = 2
    recipe = Recipe.model_validate(values)
    for stage in recipe.stages.values():
        training = Training(recipe, stage, accelerator_from_recipe(recipe, "cpu"))
        patches = Patches(photographs, 32, 2, 0, stage.augment)
        losses = training.update(*patches.at(1))
        assert all(math.isfinite(value) for value in losses.values())
    assert ("decoder" in losses) == ("no_unet" not in name and "finish" not in name)
    assert ("gradient_branch" in losses) == ("no_gradient_branch" not in name)
