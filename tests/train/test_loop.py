"""A run from first step to last: bit-exact continuation, what stops it, and what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from srtool.errors import CheckpointError, DataError, SrtoolError, UsageError
from srtool.networks.loading import load_network
from srtool.train.loop import Progress, Run, train
from srtool.train.recipe import Recipe
from srtool.train.states import load_state, states_below
from srtool.train.trainer import Training


def changed(recipe: Recipe, stages: dict[str, dict[str, Any]] | None = None, **top: Any) -> Recipe:
    values = {**recipe.model_dump(), **top}
    for name, stage in (stages or {}).items():
        values[name] = {**values[name], **stage}
    return Recipe.model_validate(values)


def newest(out: Path) -> dict[str, Any]:
    return load_state(states_below(out)[-1])


def stop_at(stage: str, step: int, error: type[BaseException]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step):
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


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """TensorBoard's curves: {name: {step: value}}, no step twice."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    curves = {}
    for name in events.Tags()["scalars"]:
        points = events.Scalars(name)
        curves[name] = {point.step: point.value for point in points}
        assert len(curves[name]) == len(points)
    return curves


@pytest.fixture
def unseen(tmp_path: Path, write_png: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 36, 3), np.uint8)
    write_png(tmp_path / "unseen" / "x.png", pixels)
    return tmp_path / "unseen"


@pytest.mark.parametrize(
    ("precision", "ema", "at"),
    [
        ("fp32", None, ("stage1", 3)),
        ("fp32", 0.9, ("stage2", 3)),
        ("bf16", 0.9, ("stage2", 3)),
        ("bf16", None, ("stage1", 6)),  # between the stages
        ("fp32", 0.9, ("stage2", 6)),
    ],
)
def test_an_interrupted_run_continues_bit_by_bit(
    tiny_gan_recipe: Recipe,
    photographs: Path,
    tmp_path: Path,
    precision: str,
    ema: float | None,
    at: tuple[str, int],
) -> None:
    recipe = changed(
        tiny_gan_recipe, {"stage1": {"ema": ema}, "stage2": {"ema": ema}}, precision=precision
    )
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    losses: list[dict[str, float]] = []
    train(recipe, Run(photographs, straight), lambda p: losses.append(p.losses))
    again: list[dict[str, float]] = []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Run(photographs, broken), stop_at(*at, KeyboardInterrupt))
    assert (newest(broken)["stage"], newest(broken)["step"]) == at
    weights = train(recipe, Run(photographs, broken), lambda p: again.append(p.losses))
    done = at[1] + (6 if at[0] == "stage2" else 0)
    assert again == losses[done:]
    assert same(newest(straight), newest(broken))
    assert weights == broken / "generator.safetensors"
    for name in ("generator.safetensors", "stage1.safetensors"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name


def test_stage_2_begins_with_the_averaged_weights_of_stage_1(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, dict[str, torch.Tensor]] = {}
    update = Training.update

    def watched(self: Training, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        state = {k: v.clone() for k, v in self.generator.state_dict().items()}
        begun.setdefault(self.name, state)
        return update(self, *batch)

    monkeypatch.setattr(Training, "update", watched)
    train(tiny_gan_recipe, Run(photographs, tmp_path))
    shipped = load_network(tmp_path / "stage1.safetensors")
    assert same(dict(shipped.module.state_dict()), begun["stage2"])
    assert shipped.facts["stage"] == "stage1"
    assert load_network(tmp_path / "generator.safetensors").facts["stage"] == "stage2"


def test_one_stage_alone_from_given_weights(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    both = train(tiny_gan_recipe, Run(photographs, tmp_path / "both"))
    first = tmp_path / "both" / "stage1.safetensors"
    run = Run(photographs, tmp_path / "second", start_from=first, only_stage=2)
    second = train(tiny_gan_recipe, run)
    assert second.read_bytes() == both.read_bytes()
    only_first = train(tiny_gan_recipe, Run(photographs, tmp_path / "first", only_stage=1))
    assert load_network(only_first).facts["stage"] == "stage1"


def test_weights_of_another_architecture_are_refused(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any, compact_weights: Path
) -> None:
    weights = train(tiny_recipe, Run(photographs, tmp_path / "a"))
    larger = changed(tiny_recipe, generator={**tiny_recipe.generator.as_dict(), "features": 8})
    with complains(CheckpointError, weights, "features is 6", "recipe's is 8"):
        train(larger, Run(photographs, tmp_path / "b", start_from=weights))
    with complains(CheckpointError, compact_weights, "no generator of srtool"):
        train(tiny_recipe, Run(photographs, tmp_path / "b", start_from=compact_weights))
    assert not (tmp_path / "b").exists()


def test_a_stage_that_the_recipe_lacks_is_refused(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    with complains(UsageError, "stage2", "only stage1", "--stage"):
        train(tiny_recipe, Run(photographs, tmp_path, only_stage=2))


def test_more_steps_continue_a_finished_run(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    train(tiny_recipe, Run(photographs, straight))
    train(changed(tiny_recipe, {"stage1": {"steps": 3}}), Run(photographs, longer))
    train(changed(tiny_recipe, validate_every=2, save_every=2), Run(photographs, longer))
    for key in ("generator", "ema", "optimizers", "step"):
        assert same(newest(straight)[key], newest(longer)[key]), key


def test_validation_does_not_disturb_training(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path, unseen: Path
) -> None:
    recipe = changed(tiny_gan_recipe, validate_every=2)
    for validation in (None, unseen):
        train(recipe, Run(photographs, tmp_path / str(bool(validation)), validation))
    assert same(newest(tmp_path / "False"), newest(tmp_path / "True"))


def test_a_finished_run_is_left_alone(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    weights = train(tiny_recipe, Run(photographs, tmp_path / "out"))
    before = weights.stat().st_mtime_ns
    reports: list[Progress] = []
    gone = photographs.rename(tmp_path / "renamed") / "gone"  # the images are not even read
    assert train(tiny_recipe, Run(gone, tmp_path / "out"), reports.append) == weights
    assert reports == []
    assert weights.stat().st_mtime_ns == before


def test_the_last_states_and_the_best_weights_are_kept(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path, unseen: Path
) -> None:
    recipe = changed(tiny_gan_recipe, save_every=1, validate_every=1, keep=3)
    scores: dict[tuple[str, int], float] = {}

    def report(p: Progress) -> None:
        assert p.validation is not None
        scores[p.stage, p.step] = p.validation.scores["darkness"]
        psnrs[p.stage, p.step] = p.validation.psnr_y

    psnrs: dict[tuple[str, int], float] = {}
    metrics = {"darkness": lambda image: 255 - float(image.mean())}
    run = Run(photographs, tmp_path, unseen, metrics=metrics)
    with pytest.raises(ZeroDivisionError):
        train(recipe, run, lambda p: (report(p), stop_at("stage2", 1, ZeroDivisionError)(p)))  # type: ignore[func-returns-value]
    best = load_network(tmp_path / "best.safetensors").facts
    assert (best["stage"], best["steps"]) == ("stage2", 1)
    names = [path.name for path in states_below(tmp_path)]
    assert names == ["stage1-00000005.pth", "stage1-00000006.pth", "stage2-00000001.pth"]
    train(recipe, run, report)
    best = load_network(tmp_path / "best.safetensors").facts
    in_stage2 = {step: score for (stage, step), score in scores.items() if stage == "stage2"}
    assert best["stage"] == "stage2"
    assert best["steps"] == min(in_stage2, key=lambda step: in_stage2[step])
    assert best["validation"]["psnr_y"] == psnrs["stage2", best["steps"]]
    assert len(states_below(tmp_path)) == 3


def test_a_damaged_state_is_not_overwritten(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    recipe = changed(tiny_recipe, save_every=2)
    train(recipe, Run(photographs, tmp_path / "out"))
    state = states_below(tmp_path / "out")[-1]
    state.write_text("damaged")
    with complains(CheckpointError, state, "delete it", "the one before"):
        train(recipe, Run(photographs, tmp_path / "out"))
    assert state.read_text() == "damaged"
    state.unlink()  # as it says
    steps: list[int] = []
    train(recipe, Run(photographs, tmp_path / "out"), lambda p: steps.append(p.step))
    assert steps == [5, 6]


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    recipe = changed(tiny_recipe, {"stage1": {"learning_rate": 1e30}}, save_every=1)
    with complains(SrtoolError, "at step 2", "learning rate of stage1"):
        train(recipe, Run(photographs, tmp_path))
    assert newest(tmp_path)["step"] == 1
    assert load_network(tmp_path / "generator.safetensors").facts["steps"] == 1


@pytest.mark.parametrize("ends", ["save", "validation", "interrupt"])
def test_steps_that_nobody_looked_at_are_looked_at_before_anything_is_written(
    tiny_gan_recipe: Recipe,
    photographs: Path,
    unseen: Path,
    tmp_path: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    """A GPU's queue runs ahead of the losses; here nobody reads them before they are needed. The
    generator itself stays sound."""
    update = Training.update

    def damaged(self: Training, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = update(self, *batch)
        if self.name == "stage2" and self.step == 2:
            losses["decoder"] = losses["decoder"] * float("nan")
        if ends == "interrupt" and self.name == "stage2" and self.step == 4:
            signal.raise_signal(signal.SIGINT)
        return losses

    monkeypatch.setattr(Training, "update", damaged)
    every = {"save": (6, 100), "validation": (100, 5), "interrupt": (100, 100)}[ends]
    recipe = changed(tiny_gan_recipe, save_every=every[0], validate_every=every[1])
    seen: list[tuple[str, int]] = []
    run = Run(photographs, tmp_path, unseen, look_every=1e9)
    with complains(SrtoolError, "(decoder)", "nan at step 2 of stage2", "learning rate of stage2"):
        train(recipe, run, lambda p: seen.append((p.stage, p.step)))
    assert seen == [("stage1", step) for step in range(1, 7)]
    assert (newest(tmp_path)["stage"], newest(tmp_path)["step"]) == ("stage1", 6)
    assert load_network(tmp_path / "generator.safetensors").facts["stage"] == "stage1"
    assert load_network(tmp_path / "best.safetensors").facts["stage"] == "stage1"


def test_what_is_looked_at_late_is_the_same(
    tiny_gan_recipe: Recipe, photographs: Path, unseen: Path, tmp_path: Path
) -> None:
    recipe = changed(tiny_gan_recipe, validate_every=4)
    reports: list[list[Progress]] = []
    for out, every in (("each", 0.0), ("late", 1e9)):
        reports.append([])
        run = Run(photographs, tmp_path / out, unseen, look_every=every)
        train(recipe, run, reports[-1].append)
    for each, late in zip(*reports, strict=True):
        assert (each.stage, each.step, each.losses) == (late.stage, late.step, late.losses)
        assert (each.validation is None) == (late.validation is None) == (each.step not in (4, 6))
    assert same(newest(tmp_path / "each"), newest(tmp_path / "late"))
    for stage in ("stage1", "stage2"):
        curves = [scalars(tmp_path / out / "tensorboard" / stage) for out in ("each", "late")]
        assert curves[0] == curves[1]


def test_weights_that_overflow_are_never_saved(
    tiny_recipe: Recipe,
    photographs: Path,
    tmp_path: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    update = Training.update

    def overflow(self: Training, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = update(self, *batch)
        self.generator.head.weight.data[0, 0] = float("inf") if self.step == 2 else 0.0
        return losses

    monkeypatch.setattr(Training, "update", overflow)
    with complains(SrtoolError, "overflowed by step 2", "learning rate of stage1"):
        train(changed(tiny_recipe, save_every=1), Run(photographs, tmp_path))
    assert newest(tmp_path)["step"] == 1
    assert load_network(tmp_path / "generator.safetensors").facts["steps"] == 1


def test_validation_images_must_be_unseen(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path, complains: Any
) -> None:
    copies = tmp_path / "copies" / "HR"
    copies.mkdir(parents=True)
    (copies / "other-name.png").write_bytes((photographs / "2.png").read_bytes())
    with complains(DataError, tmp_path / "copies", "shares images", photographs):
        train(tiny_recipe, Run(photographs, tmp_path / "out", tmp_path / "copies"))


def test_a_full_disk_is_told_before_and_during_training(
    tiny_recipe: Recipe,
    photographs: Path,
    tmp_path: Path,
    complains: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Usage:
        free = 10_000

    monkeypatch.setattr("srtool.train.states.shutil.disk_usage", lambda path: Usage)
    with complains(UsageError, tmp_path / "out", "MB free", "keep"):
        train(tiny_recipe, Run(photographs, tmp_path / "out"))
    monkeypatch.undo()

    def full(state: Any, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    recipe = changed(tiny_recipe, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Run(photographs, tmp_path / "out"), stop_at("stage1", 2, KeyboardInterrupt))
    monkeypatch.setattr("srtool.train.states.torch.save", full)
    with complains(SrtoolError, "stage1-00000004.pth", "disk is full", "kept"):
        train(recipe, Run(photographs, tmp_path / "out"))
    monkeypatch.undo()
    assert newest(tmp_path / "out")["step"] == 2


def test_curves_and_reports(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path, unseen: Path
) -> None:
    """A crash after step 5 falls back to the checkpoint of step 3; no curve shows a step twice."""
    recipe = changed(tiny_gan_recipe, {"stage1": {"steps": 7}}, save_every=3, validate_every=2)
    out, reports = tmp_path / "out", list[Progress]()
    run = Run(photographs, out, unseen, metrics={"mean": lambda image: float(image.mean())})
    with pytest.raises(ZeroDivisionError):
        train(recipe, run, stop_at("stage1", 5, ZeroDivisionError))
    train(recipe, run, reports.append)
    first = [p for p in reports if p.stage == "stage1"]
    assert [p.step for p in first] == [4, 5, 6, 7]
    assert [p.validation is None for p in first] == [False, True, False, False]
    assert [p.step for p in reports if p.stage == "stage2"] == [1, 2, 3, 4, 5, 6]
    assert all(p.seconds > 0 and 0 <= p.waited <= p.seconds for p in reports)
    curves = {stage: scalars(out / "tensorboard" / stage) for stage in ("stage1", "stage2")}
    assert list(curves["stage1"]["loss/pixel"]) == [1, 2, 3, 4, 5, 6, 7]
    assert list(curves["stage1"]["validation/psnr_y"]) == [2, 4, 6, 7]
    assert list(curves["stage2"]["validation/mean"]) == [2, 4, 6]
    for p in reports:
        here = curves[p.stage]
        assert {name for name in here if name.startswith("loss/")} >= {
            f"loss/{n}" for n in p.losses
        }
        for name, value in p.losses.items():
            assert here[f"loss/{name}"][p.step] == pytest.approx(value, rel=1e-6)
        assert here["learning_rate"][p.step] == pytest.approx(p.learning_rate, rel=1e-6)
        if p.validation is not None:
            figures = {"psnr_y": p.validation.psnr_y, **p.validation.scores}
            figures["psnr_y_deployed"] = p.validation.deployed_psnr_y
            for name, value in figures.items():
                assert here[f"validation/{name}"][p.step] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_what_is_written_is_readable_as_the_umask_says(
    tiny_recipe: Recipe, photographs: Path, unseen: Path, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        train(tiny_recipe, Run(photographs, tmp_path / "out", unseen))
    finally:
        os.umask(before)
    files = {path.name: path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"generator.safetensors", "stage1.safetensors", "best.safetensors"} <= files.keys()
    assert {path.suffix for path in files.values()} >= {".pth", ".safetensors"}
    assert {oct(path.stat().st_mode & 0o777) for path in files.values()} == {oct(mode)}


def test_the_result_says_how_it_was_made(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    network = load_network(train(tiny_gan_recipe, Run(photographs, tmp_path / "out")))
    assert network.architecture == "srtool"
    assert Recipe.model_validate(network.facts["recipe"]) == tiny_gan_recipe
    assert (network.facts["stage"], network.facts["steps"]) == ("stage2", 6)
    assert network.facts["images"] == 3


COMMAND = [sys.executable, "-m", "srtool", "train", "recipe.yaml", "--device", "cpu"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def write_recipe(recipe: Recipe, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(recipe.model_dump_json())  # JSON is YAML


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with as many threads as in `ENVIRONMENT`: sums of another order round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_kill_in_the_middle_of_a_save_loses_nothing(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    """The process is killed, with no chance to tidy up, while it is writing a state."""
    recipe = changed(tiny_recipe, save_every=2)
    write_recipe(recipe, tmp_path)
    code = (
        "import os, signal, sys, torch\n"
        "from srtool.train import states\n"
        "save = torch.save\n"
        "def cut(content, path):\n"
        "    save(content, path)\n"
        "    if content['step'] == 4:\n"
        "        os.truncate(path, os.path.getsize(path) // 2)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "states.torch.save = cut\n"
        "from srtool.cli.main import main\n"
        "sys.argv = ['srtool', *sys.argv[1:]]\n"
        "main()\n"
    )
    arguments = [*COMMAND[3:], "--data", str(photographs), "--out", "out"]
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=ENVIRONMENT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert newest(tmp_path / "out")["step"] == 2
    steps: list[int] = []
    train(recipe, Run(photographs, tmp_path / "out"), lambda p: steps.append(p.step))
    assert steps == [3, 4, 5, 6]
    straight = train(recipe, Run(photographs, tmp_path / "straight"))
    assert straight.read_bytes() == (tmp_path / "out" / "generator.safetensors").read_bytes()


@pytest.mark.slow
def test_sigterm_saves_as_an_interrupt_does(
    tiny_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    write_recipe(changed(tiny_recipe, {"stage1": {"steps": 100_000}}), tmp_path)
    process = subprocess.Popen(
        [*COMMAND, "--data", str(photographs), "--out", "out"], cwd=tmp_path, env=ENVIRONMENT
    )
    try:
        board = tmp_path / "out" / "tensorboard" / "stage1"
        deadline = time.monotonic() + 120
        while not board.is_dir() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()
    assert newest(tmp_path / "out")["step"] > 0


@pytest.mark.slow
def test_two_processes_train_as_one_does(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    """The same losses and weights as one process on the same batches, through accelerate launch."""
    recipe = changed(tiny_gan_recipe, {"stage1": {"steps": 3}, "stage2": {"steps": 3}})
    write_recipe(recipe, tmp_path)
    losses: list[tuple[str, dict[str, float]]] = []
    train(recipe, Run(photographs, tmp_path / "one"), lambda p: losses.append((p.stage, p.losses)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    subprocess.run(
        [*launch, *COMMAND[2:], "--data", str(photographs), "--out", "two"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=True,
    )
    for stage in ("stage1", "stage2"):
        curves = scalars(tmp_path / "two" / "tensorboard" / stage)
        single = [found for name, found in losses if name == stage]
        for step, found in enumerate(single, start=1):
            for name, value in found.items():
                assert curves[f"loss/{name}"][step] == pytest.approx(value, rel=2e-3), (name, step)
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert two["step"] == 3
    for name, weight in one["generator"].items():
        assert torch.allclose(weight, two["generator"][name], atol=2e-3), name


@pytest.mark.gpu
def test_a_run_continues_on_the_gpu(
    tiny_gan_recipe: Recipe, photographs: Path, tmp_path: Path
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    run = Run(photographs, tmp_path, device="cuda")
    with pytest.raises(KeyboardInterrupt):
        train(tiny_gan_recipe, run, stop_at("stage2", 3, KeyboardInterrupt))
    train(changed(tiny_gan_recipe), run)
    assert newest(tmp_path)["step"] == 6
