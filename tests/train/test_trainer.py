"""One step of training: what it computes, what it changes, and what it refuses."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from srtool.errors import AssetError, UsageError
from srtool.networks.generator import gradient_map
from srtool.train.data.patches import Patches
from srtool.train.loop import accelerator_from_recipe
from srtool.train.losses import (
    Discriminators,
    discriminator_terms,
    generator_terms,
    mixed_from_mask,
)
from srtool.train.recipe import Recipe
from srtool.train.trainer import Training

TERMS = {
    "pixel", "gradient_branch", "gradient_pixel", "adversarial", "feature_matching",
    "gradient_adversarial", "total", "encoder", "decoder", "gradient_relativistic",
}  # fmt: skip


def changed(recipe: Recipe, stage: dict[str, Any] | None = None, **top: Any) -> Recipe:
    """The recipe with other values, at the top and in the stage that `training` runs, checked."""
    values = {**recipe.model_dump(), **top}
    name = "stage2" if recipe.stage2 else "stage1"
    values[name] = {**values[name], **(stage or {})}
    return Recipe.model_validate(values)


def training(recipe: Recipe) -> Training:
    """The last stage of a recipe, on the CPU."""
    stage = recipe.stage2 or recipe.stage1
    assert stage is not None
    return Training(recipe, stage, accelerator_from_recipe(recipe, "cpu"))


def step(run: Training, images: tuple[Tensor, Tensor]) -> dict[str, float]:
    """One update; what its losses are, once they are looked at."""
    return {name: value.item() for name, value in run.update(*images).items()}


def same(a: Any, b: Any) -> bool:
    """Equality of nested states, tensors bit by bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def batch(photographs: Path) -> tuple[Tensor, Tensor]:
    return Patches(photographs, 16, 2, 0).at(1)


@pytest.fixture
def gan_batch(photographs: Path) -> tuple[Tensor, Tensor]:
    return Patches(photographs, 32, 2, 0).at(1)


@pytest.mark.parametrize(
    ("top", "stage", "words"),
    [
        ({"seed": 1}, {}, "seed was 0, is 1"),
        ({}, {"batch": 4}, "stage1.batch was 2, is 4"),
        ({}, {"learning_rate": 0.5}, "stage1.learning_rate"),
        ({}, {"ema": None}, "stage1.ema was 0.9, is None"),
        ({"generator": "lite"}, {}, "generator.blocks was 2, is 5"),
        ({"clip_norm": 1.0}, {}, "clip_norm was None, is 1.0"),
    ],
)
def test_another_recipe_is_refused(
    tiny_recipe: Recipe, tmp_path: Path, complains: Any, top: Any, stage: Any, words: str
) -> None:
    state = training(tiny_recipe).state()
    other = training(changed(tiny_recipe, stage, **top))
    with complains(UsageError, tmp_path / "state.pth", words, "--out"):
        other.restore(state, tmp_path / "state.pth")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("gan", [False, True])
def test_an_interrupt_waits_for_the_end_of_an_update(
    tiny_recipe: Recipe, tiny_gan_recipe: Recipe, photographs: Path, gan: bool, number: int
) -> None:
    recipe = tiny_gan_recipe if gan else tiny_recipe
    images = Patches(photographs, 32, 2, 0).at(1)
    interrupted, straight = training(recipe), training(recipe)
    interrupted.optimizers["generator"].optimizer.register_step_post_hook(
        lambda *_: signal.raise_signal(number)
    )
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted.update(*images)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    straight.update(*images)
    assert same(interrupted.state(), straight.state())


def test_the_average_by_hand(tiny_recipe: Recipe, photographs: Path) -> None:
    patches = Patches(photographs, 16, 2, 0)
    run = training(changed(tiny_recipe, {"ema": 0.15}))
    expected = run.generator.head.weight.detach().clone()
    for step, decay in ((1, 0.1), (2, 0.15)):  # step / (step + 9), at most 0.15
        run.update(*patches.at(step))
        expected = decay * expected + (1 - decay) * run.generator.head.weight.detach()
        assert torch.allclose(run.averaged().head.weight, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(run.averaged().head.weight, run.generator.head.weight)


def test_each_step_runs_at_its_learning_rate(
    tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]
) -> None:
    """Adam's first step moves every weight by the learning rate, whatever the gradient."""
    run = training(tiny_recipe)
    bias = run.generator.get_parameter("fusion.image.bias")
    run.update(*batch)
    assert bias.abs().max().item() == pytest.approx(1e-3, rel=1e-3)
    used = []
    for _ in range(5):
        run.update(*batch)
        used.append(run.optimizers["generator"].param_groups[0]["lr"])
    assert used == [1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4]


def test_both_sides_have_their_own_learning_rates(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    run = training(changed(tiny_gan_recipe, {"discriminator_learning_rate": 4e-3}))
    used = []
    for _ in range(5):
        run.update(*gan_batch)
        used.append([o.param_groups[0]["lr"] for o in run.optimizers.values()])
    assert used == [[1e-3, 4e-3]] * 2 + [[5e-4, 2e-3]] * 2 + [[2.5e-4, 1e-3]]


def test_loss_falls_on_one_batch(tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]) -> None:
    run = training(changed(tiny_recipe, {"learning_rate": 5e-3, "halve_every": 1000}))
    losses = [step(run, batch)["total"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_discriminators_learn_to_tell(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    """Against a generator that all but stands still."""
    rates = {"learning_rate": 1e-9, "discriminator_learning_rate": 1e-2, "halve_at": ()}
    run = training(changed(tiny_gan_recipe, rates))
    first = step(run, gan_batch)
    for _ in range(40):
        last = step(run, gan_batch)
    for name in ("encoder", "decoder", "gradient_relativistic"):
        assert last[name] < 0.8 * first[name], name


def test_the_first_loss_by_hand(tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]) -> None:
    lr, hr = batch
    run = training(tiny_recipe)
    large = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        image = run.averaged()(large / 255).image
    expected = (image - hr / 255).abs().mean().item()
    found = step(run, (lr, hr))
    assert found.keys() == {"pixel", "total"}
    assert found["pixel"] == pytest.approx(expected, rel=1e-5)
    assert found["total"] == found["pixel"]


def test_the_terms_of_the_first_step_by_hand(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    assert tiny_gan_recipe.stage2 is not None
    run = training(tiny_gan_recipe)
    lr, hr = gan_batch[0].repeat_interleave(4, 2).repeat_interleave(4, 3) / 255, gan_batch[1] / 255
    with torch.no_grad():
        made = run.averaged()(lr)
    found = step(run, gan_batch)
    assert found.keys() - {"consistency"} == TERMS
    differences = {
        "pixel": made.image - hr,
        "gradient_pixel": gradient_map(made.image) - gradient_map(hr),
        "gradient_branch": made.gradient - gradient_map(hr),
    }
    for name, difference in differences.items():
        assert found[name] == pytest.approx(difference.abs().mean().item(), rel=1e-4), name
    weights = tiny_gan_recipe.stage2.weights.model_dump()
    total = sum(weights[name] * found[name] for name in found if name in weights)
    assert found["total"] == pytest.approx(total, rel=1e-5)


def test_every_parameter_moves_in_stage_2(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    run = training(tiny_gan_recipe)
    before = {
        f"{n}.{key}": p.detach().clone()
        for n, module in run.plain.items()
        for key, p in module.named_parameters()
    }
    for _ in range(2):
        run.update(*gan_batch)
    after = {f"{n}.{k}": p for n, m in run.plain.items() for k, p in m.named_parameters()}
    still = [name for name in after if torch.equal(before[name], after[name])]
    # Hinge losses of HR and SR push the bias of logits both ways alike until one passes its margin.
    assert set(still) <= {"discriminator.image_logits.bias", "discriminator.pixel_logits.bias"}


def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]
) -> None:
    whole, parted = training(tiny_recipe), training(changed(tiny_recipe, accumulate=2))
    terms = [step(run, batch) for run in (whole, parted)]
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    for (name, p), q in zip(
        whole.generator.named_parameters(), parted.generator.parameters(), strict=True
    ):
        if p.grad is None or q.grad is None:
            assert p.grad is None and q.grad is None, name  # noqa: PT018
        else:
            assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-7), name


def test_stage_2_in_parts_has_the_gradients_of_the_whole(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    """All but the relativistic terms, which look at a part at a time."""
    recipe = changed(tiny_gan_recipe, {"batch": 4})
    weights = {**recipe.stage2.weights.model_dump(), "gradient_adversarial": 0}  # type: ignore[union-attr]
    recipe = changed(recipe, {"weights": weights, "cutmix": {"probability": 1, "ramp": 1}})
    images = tuple(torch.cat((x, x.flip(3))) for x in gan_batch)
    whole, parted = training(recipe), training(changed(recipe, accumulate=2))
    terms = [step(run, images) for run in (whole, parted)]  # type: ignore[arg-type]
    assert "consistency" in terms[0]
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)
    for a, b in zip(
        gradients([*whole.plain.values()]), gradients([*parted.plain.values()]), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-3 * b.abs().max().item())


def test_gradients_are_clipped(tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]) -> None:
    def norm(run: Training) -> float:
        grads = [p.grad for p in run.generator.parameters() if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item()

    free, clipped = training(tiny_recipe), training(changed(tiny_recipe, clip_norm=1e-3))
    for run in (free, clipped):
        run.update(*batch)
    assert norm(free) > 2e-3
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_bf16_computes_in_bf16_and_keeps_float32_weights(
    tiny_recipe: Recipe, batch: tuple[Tensor, Tensor]
) -> None:
    run = training(changed(tiny_recipe, precision="bf16"))
    seen: list[torch.dtype] = []
    run.generator.trunk_conv.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    run.update(*batch)
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in run.generator.parameters()} == {torch.float32}


def gradients(modules: list[torch.nn.Module]) -> list[Tensor]:
    return [p.grad.clone() for m in modules for p in m.parameters() if p.grad is not None]


@pytest.mark.parametrize("warm_up", [0, 1])
def test_one_judgement_of_each_image_gives_both_sides_their_gradients(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor], warm_up: int
) -> None:
    """Against every side by itself, as the paper writes it down: a frozen discriminator while the
    generator learns, images without a graph while the discriminators do."""
    run = training(changed(tiny_gan_recipe, {"warm_up": warm_up}))
    assert run.accelerator.num_processes == 1
    asked: list[Tensor] = []
    generator, rivals = run.plain["generator"], [*run.rivals.values()]
    # Copies that share nothing with what the step moves
    frozen, taught = (copy.deepcopy(rivals) for _ in range(2))
    alone = copy.deepcopy(generator)
    lr, hr = gan_batch[0].repeat_interleave(4, 2).repeat_interleave(4, 3) / 255, gan_batch[1] / 255
    output = alone(lr)
    for module in frozen:
        module.requires_grad_(False)
    judges = Discriminators(*frozen)
    terms = generator_terms(run.objective, output, hr, judges.judge(hr), judges.judge(output.image))
    weights = run.objective.weights.model_dump()
    total = sum(weights[name] * term for name, term in terms.items())
    total.backward()  # type: ignore[union-attr]
    judges = Discriminators(*taught)
    sr = output.image.detach()
    run.plain["discriminator"].register_forward_pre_hook(lambda m, given: asked.append(given[0]))
    run.update(*gan_batch)
    mixed = None
    if len(asked) == 3:
        difference = (hr - sr).abs().amax(1, keepdim=True)
        mask = ((asked[2] - sr).abs().amax(1, keepdim=True) > difference / 2).float()
        mixed = mixed_from_mask(taught[0], mask, hr, sr)
    of_rivals = discriminator_terms(judges.judge(hr), judges.judge(sr), mixed)
    sum(of_rivals.values()).backward()  # type: ignore[union-attr]
    assert [torch.allclose(x, hr, atol=1e-6) for x in asked] == [True, False, False][: len(asked)]
    expected = gradients([alone]) if not warm_up else []
    for found, wanted in (
        (gradients([generator]), expected),
        (gradients(rivals), gradients(taught)),
    ):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-3 * b.abs().max().item())


def test_the_ablations_have_the_terms_they_should(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    encoder = changed(tiny_gan_recipe, {"discriminator": {"kind": "encoder", "features": 2}})
    assert training(encoder).update(*gan_batch).keys() == TERMS - {"decoder"}
    assert tiny_gan_recipe.stage2 is not None
    weights = {**tiny_gan_recipe.stage2.weights.model_dump(), "gradient_branch": 0}
    sizes = {**tiny_gan_recipe.generator.as_dict(), "taps": ()}
    single = changed(tiny_gan_recipe, {"weights": weights}, generator=sizes)
    found = training(single).update(*gan_batch)
    assert found.keys() - {"consistency"} == TERMS - {"gradient_branch"}


@pytest.mark.parametrize(("name", "asset"), [("lpips", "alexnet"), ("vgg", "vgg19")])
def test_a_missing_backbone_is_told_at_the_start(
    tiny_gan_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complains: Any,
    name: str,
    asset: str,
) -> None:
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path))
    assert tiny_gan_recipe.stage2 is not None
    weights = {**tiny_gan_recipe.stage2.weights.model_dump(), name: 0.001}
    with complains(AssetError, f"srtool assets fetch {asset}"):
        training(changed(tiny_gan_recipe, {"weights": weights}))


def test_compiling_changes_no_names(tiny_recipe: Recipe) -> None:
    """Checkpoints of compiled and plain runs continue one another."""
    plain, compiled = training(tiny_recipe), training(changed(tiny_recipe, compile=True))
    assert compiled.state()["generator"].keys() == plain.state()["generator"].keys()
    compiled.restore(plain.state(), Path("state.pth"))


def test_fp16_needs_a_gpu(tiny_recipe: Recipe, complains: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with complains(UsageError, "fp16", "GPU", "bf16 or fp32"):
        accelerator_from_recipe(changed(tiny_recipe, precision="fp16"), "cpu")


def test_a_device_is_found_or_refused_in_one_line(tiny_recipe: Recipe, complains: Any) -> None:
    assert isinstance(accelerator_from_recipe(tiny_recipe, "auto"), Accelerator)
    for name in ("gpu", "cuda:99", "meta:x"):
        with complains(UsageError, name, "no such device"):
            accelerator_from_recipe(tiny_recipe, name)


def test_the_generator_rests_while_the_discriminators_warm_up(
    tiny_gan_recipe: Recipe, gan_batch: tuple[Tensor, Tensor]
) -> None:
    run = training(changed(tiny_gan_recipe, {"warm_up": 2}))
    before = {k: v.clone() for k, v in run.generator.state_dict().items()}
    judged = run.plain["discriminator"].get_parameter("first.weight").detach().clone()
    for _ in range(2):
        found = run.update(*gan_batch)
        assert found.keys() - {"consistency"} == {"encoder", "decoder", "gradient_relativistic"}
    assert same(before, run.generator.state_dict())
    assert same(before, run.ema)
    assert not torch.equal(judged, run.plain["discriminator"].get_parameter("first.weight"))
    assert "total" in run.update(*gan_batch)
    assert not same(before, run.generator.state_dict())
