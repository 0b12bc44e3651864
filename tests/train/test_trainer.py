"""The trainer: bit-exact continuation, what stops it, and what it writes down."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srtool.errors import CheckpointError, DataError, SrtoolError, UsageError
from srtool.psnr import psnr_y
from srtool.train.checkpoint import load_network, load_state
from srtool.train.data import Patches, load_dataset
from srtool.train.generator import Generator
from srtool.train.recipe import Recipe
from srtool.train.trainer import (
    Progress,
    Training,
    device_from_name,
    train,
    upscale_uint8,
    validate,
)

CPU = torch.device("cpu")


def changed(recipe: Recipe, stage1: dict[str, Any] | None = None, **top: Any) -> Recipe:
    """The recipe with other values, in stage1 or at the top, checked."""
    values = recipe.model_dump()
    return Recipe.model_validate(
        {**values, **top, "stage1": {**values["stage1"], **(stage1 or {})}}
    )


def stop_at(step: int, error: type[BaseException]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise error

    return report


def same(a: Any, b: Any) -> bool:
    """Equality of nested states, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def scalars(out: Path) -> dict[str, dict[int, float]]:
    """TensorBoard's curves: {name: {step: value}}, no step twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        curves[name] = {point.step: point.value for point in points}
        assert len(curves[name]) == len(points)
    return curves


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_run_continues_bit_by_bit(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, precision: str, ema: float | None
) -> None:
    recipe = changed(tiny_recipe, {"ema": ema}, precision=precision)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    losses: list[float] = []
    train(recipe, photographs, straight, report=lambda p: losses.append(p.loss))
    again: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, photographs, broken, report=stop_at(3, KeyboardInterrupt))
    assert load_state(broken / "state.pth")["step"] == 3
    weights = train(recipe, photographs, broken, report=lambda p: again.append(p.loss))
    assert again == losses[3:]
    assert same(load_state(straight / "state.pth"), load_state(broken / "state.pth"))
    assert weights == broken / "generator.safetensors"
    assert weights.read_bytes() == (straight / "generator.safetensors").read_bytes()


def test_more_steps_continue_a_finished_run(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    train(tiny_recipe, photographs, straight)
    train(changed(tiny_recipe, {"steps": 3}), photographs, longer)
    train(changed(tiny_recipe, validate_every=2, save_every=2), photographs, longer)
    for key in ("generator", "ema", "optimizer", "step"):
        states = [load_state(out / "state.pth")[key] for out in (straight, longer)]
        assert same(*states), key


def test_validation_does_not_disturb_training(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, write_png: Any
) -> None:
    unseen = np.random.default_rng(0).integers(0, 256, (32, 36, 3), np.uint8)
    write_png(tmp_path / "unseen" / "x.png", unseen)
    states = []
    for validation in (None, tmp_path / "unseen"):
        out = tmp_path / str(bool(validation))
        train(changed(tiny_recipe, validate_every=2), photographs, out, validation)
        states.append(load_state(out / "state.pth"))
    assert same(*states)


def test_a_finished_run_is_left_alone(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    weights = train(tiny_recipe, photographs, tmp_path / "out")
    before = weights.stat().st_mtime_ns
    reports: list[Progress] = []
    gone = photographs.rename(tmp_path / "renamed") / "gone"  # the images are not even read
    assert train(tiny_recipe, gone, tmp_path / "out", report=reports.append) == weights
    assert reports == []
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("stage1", "top", "words"),
    [
        ({}, {"seed": 1}, "seed was 0, is 1"),
        ({"batch": 3}, {}, "stage1.batch was 2, is 3"),
        ({"learning_rate": 0.5}, {}, "stage1.learning_rate"),
        ({"ema": None}, {}, "stage1.ema was 0.9, is None"),
        ({}, {"generator": "lite"}, "generator.blocks was 3, is 5"),
    ],
)
def test_another_recipe_is_refused(
    tiny_recipe: Recipe, tmp_path: Path, complains: Any, stage1: Any, top: Any, words: str
) -> None:
    state = Training(tiny_recipe, CPU).state()
    other = Training(changed(tiny_recipe, stage1, **top), CPU)
    with complains(UsageError, tmp_path / "state.pth", words, "--out"):
        other.restore(state, tmp_path / "state.pth")


def test_a_damaged_state_is_not_overwritten(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    state = tmp_path / "state.pth"
    state.write_text("damaged")
    with complains(CheckpointError, state):
        train(tiny_recipe, photographs, tmp_path)
    assert state.read_text() == "damaged"


def test_an_interrupt_waits_for_the_end_of_an_update(
    tiny_recipe: Recipe, photographs: Path
) -> None:
    patches = Patches(photographs, 16, 2, 0)
    interrupted, straight = Training(tiny_recipe, CPU), Training(tiny_recipe, CPU)
    interrupted.optimizer.register_step_post_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupted.update(*patches.at(1))
    straight.update(*patches.at(1))
    assert same(interrupted.state(), straight.state())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_average_by_hand(tiny_recipe: Recipe, photographs: Path) -> None:
    patches = Patches(photographs, 16, 2, 0)
    training = Training(changed(tiny_recipe, {"ema": 0.15}), CPU)
    expected = training.generator.head.weight.detach().clone()
    for step, decay in ((1, 0.1), (2, 0.15)):  # step / (step + 9), at most 0.15
        training.update(*patches.at(step))
        expected = decay * expected + (1 - decay) * training.generator.head.weight.detach()
        assert torch.allclose(training.averaged().head.weight, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(training.averaged().head.weight, training.generator.head.weight)


def test_each_step_runs_at_its_learning_rate(tiny_recipe: Recipe, photographs: Path) -> None:
    """Adam's first step moves every weight by the learning rate, whatever the gradient."""
    batch = Patches(photographs, 16, 2, 0).at(1)
    training = Training(tiny_recipe, CPU)
    bias = training.generator.get_parameter("fusion.image.bias")
    training.update(*batch)
    assert bias.abs().max().item() == pytest.approx(1e-3, rel=1e-3)
    used = []
    for _ in range(5):
        training.update(*batch)
        used.append(training.optimizer.param_groups[0]["lr"])
    assert used == [1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4]


def test_loss_falls_on_one_batch(tiny_recipe: Recipe, photographs: Path) -> None:
    batch = Patches(photographs, 16, 2, 0).at(1)
    training = Training(changed(tiny_recipe, {"learning_rate": 5e-3, "halve_every": 1000}), CPU)
    losses = [training.update(*batch).item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_first_loss_by_hand(tiny_recipe: Recipe, photographs: Path) -> None:
    lr, hr = Patches(photographs, 16, 2, 0).at(1)
    training = Training(tiny_recipe, CPU)
    large = lr.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        image = training.averaged()(large / 255).image
    expected = (image - hr / 255).abs().mean().item()
    assert training.update(lr, hr).item() == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    recipe = changed(tiny_recipe, {"learning_rate": 1e30}, save_every=1)
    with complains(SrtoolError, "at step 2", "stage1.learning_rate"):
        train(recipe, photographs, tmp_path)
    assert load_state(tmp_path / "state.pth")["step"] == 1
    assert load_network(tmp_path / "generator.safetensors").facts["steps"] == 1


def test_weights_that_overflow_are_never_saved(
    tiny_recipe: Recipe,
    photographs: Path,
    tmp_path: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = Training.update

    def overflow(self: Training, lr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        loss = update(self, lr, hr)
        self.generator.head.weight.data[0, 0] = float("inf") if self.step == 2 else 0.0
        return loss

    monkeypatch.setattr(Training, "update", overflow)
    with complains(SrtoolError, "overflowed by step 2", "stage1.learning_rate"):
        train(changed(tiny_recipe, save_every=1), photographs, tmp_path)
    assert load_state(tmp_path / "state.pth")["step"] == 1
    assert load_network(tmp_path / "generator.safetensors").facts["steps"] == 1


def test_validation_images_must_be_unseen(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    copies = tmp_path / "copies" / "HR"
    copies.mkdir(parents=True)
    (copies / "other-name.png").write_bytes((photographs / "2.png").read_bytes())
    with complains(DataError, tmp_path / "copies", "shares images", photographs):
        train(tiny_recipe, photographs, tmp_path / "out", tmp_path / "copies")


def test_validation_figure_is_that_of_the_deployed_form(
    tiny_recipe: Recipe, photographs: Path
) -> None:
    """With a silent last layer the image skip alone is left: nearest-upsampling."""
    generator = Generator(changed(tiny_recipe, generator={"preset": "lite"}).generator)
    torch.nn.init.zeros_(generator.fusion.image.weight)
    pairs = load_dataset(photographs)
    expected = [psnr_y(p.lr.repeat(4, axis=0).repeat(4, axis=1), p.hr) for p in pairs]
    assert validate(generator, pairs) == pytest.approx(np.mean(expected), abs=1e-9)


def test_upscaling_rounds_and_clips(tiny_recipe: Recipe) -> None:
    generator = Generator(changed(tiny_recipe, generator={"head": "plain"}).generator)
    torch.nn.init.zeros_(generator.fusion.image.weight)
    levels = torch.tensor([99.4, 99.6, 300.0])
    for bias, expected in ((levels / 255, [99, 100, 255]), (-levels, [0, 0, 0])):
        generator.get_parameter("fusion.image.bias").data = bias
        image = upscale_uint8(generator, np.zeros((2, 3, 3), np.uint8))
        assert image.shape == (8, 12, 3)
        assert image.dtype == np.uint8
        assert (image == expected).all()


def test_curves_and_reports(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, write_png: Any
) -> None:
    """A crash after step 5 falls back to the checkpoint of step 3; no curve shows a step twice."""
    unseen = np.random.default_rng(0).integers(0, 256, (32, 36, 3), np.uint8)
    write_png(tmp_path / "unseen" / "x.png", unseen)
    recipe = changed(tiny_recipe, {"steps": 7}, save_every=3, validate_every=2)
    out, reports = tmp_path / "out", list[Progress]()
    with pytest.raises(ZeroDivisionError):
        train(recipe, photographs, out, tmp_path / "unseen", stop_at(5, ZeroDivisionError))
    train(recipe, photographs, out, tmp_path / "unseen", reports.append)
    assert [p.step for p in reports] == [4, 5, 6, 7]
    assert [p.psnr_y is None for p in reports] == [False, True, False, False]
    assert {p.steps for p in reports} == {7}
    assert all(p.seconds > 0 for p in reports)
    curves = scalars(out)
    assert curves.keys() == {"loss/l1", "learning_rate", "validation/psnr_y"}
    assert list(curves["loss/l1"]) == [1, 2, 3, 4, 5, 6, 7]
    assert list(curves["validation/psnr_y"]) == [2, 4, 6, 7]
    for p in reports:
        assert p.learning_rate == recipe.stage1.learning_rate_at(p.step)
        assert curves["loss/l1"][p.step] == pytest.approx(p.loss, rel=1e-6)
        assert curves["learning_rate"][p.step] == pytest.approx(p.learning_rate, rel=1e-6)
        if p.psnr_y is not None:
            assert curves["validation/psnr_y"][p.step] == pytest.approx(p.psnr_y, rel=1e-6)


def test_the_result_says_how_it_was_made(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    network = load_network(train(tiny_recipe, photographs, tmp_path / "out"))
    assert network.architecture == "srtool"
    assert Recipe.model_validate(network.facts["recipe"]) == tiny_recipe
    assert (network.facts["steps"], network.facts["images"]) == (6, 3)


@pytest.mark.gpu
def test_a_run_continues_on_the_gpu(tiny_recipe: Recipe, photographs: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, photographs, tmp_path, None, stop_at(3, KeyboardInterrupt), "cuda")
    train(tiny_recipe, photographs, tmp_path, device="cuda")
    assert load_state(tmp_path / "state.pth")["step"] == 6


def test_a_device_is_found_or_refused_in_one_line() -> None:
    assert device_from_name("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:99", "meta:x"):
        with pytest.raises(UsageError, match="no such device") as error:
            device_from_name(name)
        assert "\n" not in str(error.value)
