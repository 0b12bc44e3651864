"""Recipes: what ships, what is inherited, and one line for every mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srtool.errors import UsageError
from srtool.networks.generator import PRESETS, GeneratorConfig
from srtool.train.recipe import (
    AdversarialStage,
    CutMix,
    LossWeights,
    PretrainStage,
    Recipe,
    recipe_from_file,
    shipped_recipes,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_recipes_parse() -> None:
    ablations = ["gradient_branch", "lpips", "unet"]
    names = [
        "fast.yaml",
        "fast_finish.yaml",
        "fast_no_gradient_branch.yaml",
        "fast_no_unet.yaml",
        "lite.yaml",
        "paper.yaml",
        *(f"paper_no_{part}.yaml" for part in ablations),
    ]
    assert shipped_recipes() == [*names, "tiny.yaml"]
    recipes = {name: recipe_from_file(name) for name in shipped_recipes()}
    assert recipes["lite.yaml"].generator == PRESETS["lite"]
    assert recipes["fast.yaml"].generator == PRESETS["fast"]
    assert recipes["tiny.yaml"].generator.features == 8
    paper = recipes["paper.yaml"]
    assert paper.generator == GeneratorConfig()
    assert (paper.stage1.batch, paper.stage1.patch, paper.precision) == (16, 128, "fp32")


def test_the_paper_recipe_states_the_defaults() -> None:
    paper = recipe_from_file("paper.yaml")
    assert paper.stage1 == PretrainStage()
    assert paper.stage2 == AdversarialStage()


def test_the_ablations_of_table_2_differ_in_one_thing_each() -> None:
    paper = recipe_from_file("paper.yaml").model_dump()

    def differences(name: str) -> dict[str, Any]:
        def walk(a: Any, b: Any, path: str = "") -> dict[str, Any]:
            if not isinstance(a, dict):
                return {} if a == b else {path: b}
            pairs = [walk(a[key], b[key], f"{path}.{key}".strip(".")) for key in a]
            return {key: value for pair in pairs for key, value in pair.items()}

        return walk(paper, recipe_from_file(name).model_dump())

    assert differences("paper_no_unet.yaml") == {"stage2.discriminator.kind": "encoder"}
    lpips = {"stage2.weights.lpips": 0, "stage2.weights.vgg": 0.001}
    assert differences("paper_no_lpips.yaml") == lpips
    branch = {"generator.taps": (), "stage2.weights.gradient_branch": 0}
    assert differences("paper_no_gradient_branch.yaml") == branch


def test_a_recipe_extends_another_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "middle.yaml").write_text(
        "extends: lite.yaml\nseed: 3\nstage1: {batch: 4}\ngenerator: {blocks: 6}"
    )
    path = written(tmp_path, "extends: middle.yaml\nstage1: {patch: 64}\nstage2: null")
    lite, found = recipe_from_file("lite.yaml"), recipe_from_file(path)
    assert lite.stage1 is not None
    assert found.stage1 == lite.stage1.model_copy(update={"batch": 4, "patch": 64})
    assert (found.seed, found.stage2, found.precision) == (3, None, lite.precision)
    # A size over a preset's name: the preset with that size.
    assert found.generator == replace(PRESETS["lite"], blocks=6)


def test_another_preset_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("generator: {preset: lite, blocks: 6}")
    for text in ("generator: full", "generator: {preset: full}"):
        path = written(tmp_path, f"extends: a.yaml\n{text}")
        assert recipe_from_file(path).generator == PRESETS["full"]


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lite.yaml").write_text("extends: lite.yaml\nseed: 7")
    with pytest.raises(UsageError, match="extends itself"):
        recipe_from_file(tmp_path / "lite.yaml")


def test_circles_are_refused(tmp_path: Path, complains: Any) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with complains(UsageError, "a.yaml", "extends itself", "b.yaml"):
        recipe_from_file(tmp_path / "a.yaml")


def test_cosine_learning_rate_by_hand() -> None:
    stage = PretrainStage(steps=100, learning_rate=1e-3, decay="cosine", learning_rate_floor=1e-5)
    assert stage.learning_rate_at(1) == 1e-3
    assert stage.learning_rate_at(51) == pytest.approx(1e-5 + (1e-3 - 1e-5) / 2)
    assert 1e-5 < stage.learning_rate_at(100) < 1.3e-5


def test_learning_rates_of_stage_2_by_hand() -> None:
    stage = AdversarialStage(discriminator_learning_rate=4e-4)
    halvings = {1: 1, 50_000: 1, 50_001: 2, 100_001: 4, 200_001: 8, 300_001: 16, 400_000: 16}
    for step, divisor in halvings.items():
        assert stage.learning_rate_at(step) == 1e-4 / divisor
        assert stage.discriminator_learning_rate_at(step) == pytest.approx(4e-4 / divisor)
    assert AdversarialStage().discriminator_learning_rate_at(50_001) == 5e-5


def test_the_chance_of_mixing_rises_in_a_straight_line() -> None:
    cutmix = CutMix(probability=0.5, ramp=100)
    chances = {1: 0.005, 50: 0.25, 99: 0.495, 100: 0.5, 101: 0.5, 9999: 0.5}
    assert {step: cutmix.probability_at(step) for step in chances} == pytest.approx(chances)
    assert CutMix(probability=0, ramp=100).probability_at(70) == 0
    assert CutMix(probability=1, ramp=1).probability_at(1) == 1


def test_the_weights_of_stage_1_are_those_of_l1_and_of_the_branch_where_it_is_asked_for() -> None:
    for branch in (0.0, 0.5):
        found = PretrainStage(gradient_branch=branch).weights.model_dump()
        assert {name: value for name, value in found.items() if value} == (
            {"pixel": 1, "gradient_branch": 0.5} if branch else {"pixel": 1}
        )


def test_the_weights_are_those_of_the_paper() -> None:
    """0.005 L_adv + 0.001 L_LPIPS + L_fm + 0.01 L_pix + 0.005 L_adv_GM + 0.01 L_GMpix
    + 0.5 L_GBpix."""
    assert LossWeights().model_dump() == {
        "adversarial": 0.005,
        "lpips": 0.001,
        "vgg": 0,
        "feature_matching": 1,
        "pixel": 0.01,
        "gradient_adversarial": 0.005,
        "gradient_pixel": 0.01,
        "gradient_branch": 0.5,
        "squared": 0,  # not the paper's
        "phase": 0,  # not the paper's
    }


def test_a_recipe_with_one_key_has_defaults_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 0\n")
    assert recipe_from_file(path) == Recipe()


def test_a_file_wins_over_a_shipped_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_from_file("lite.yaml").seed == 0
    (tmp_path / "lite.yaml").write_text("seed: 5")
    assert recipe_from_file("lite.yaml").seed == 5


def test_sizes_start_from_a_preset(tmp_path: Path) -> None:
    path = written(tmp_path, "generator: {preset: lite, blocks: 6, taps: [3, 6]}")
    generator = recipe_from_file(path).generator
    assert (generator.blocks, generator.taps) == (6, (3, 6))
    assert (generator.features, generator.image_skip) == (32, True)
    path = written(tmp_path, "generator: {features: 48}")
    assert recipe_from_file(path).generator == GeneratorConfig(features=48)


def test_a_recipe_survives_json(tmp_path: Path) -> None:
    for name in shipped_recipes():
        recipe = recipe_from_file(name)
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_learning_rate_by_hand() -> None:
    stage = PretrainStage(
        learning_rate=8e-4, decay="halving", halve_every=100, learning_rate_floor=1.5e-4
    )
    expected = {1: 8e-4, 100: 8e-4, 101: 4e-4, 200: 4e-4, 201: 2e-4, 301: 1.5e-4, 9999: 1.5e-4}
    for step, rate in expected.items():
        assert stage.learning_rate_at(step) == pytest.approx(rate, rel=1e-12)
    paper = PretrainStage()
    assert paper.learning_rate_at(1) == 2e-4
    assert paper.learning_rate_at(250_001) == pytest.approx((2e-4 + 1e-7) / 2)
    assert paper.learning_rate_at(500_000) == pytest.approx(1e-7, rel=1e-3)


def test_ramp_and_cosine_by_hand() -> None:
    stage = PretrainStage(steps=100, learning_rate=1e-3, decay="cosine", ramp=10)
    assert stage.learning_rate_at(1) == pytest.approx(1e-4)
    assert stage.learning_rate_at(51) == pytest.approx(1e-3 / 2 + 1e-7 / 2)
    second = AdversarialStage(
        steps=100, learning_rate=1e-3, discriminator_learning_rate=4e-3, decay="cosine"
    )
    assert second.learning_rate_at(1) == 1e-3
    assert second.learning_rate_at(51) == pytest.approx(5e-4)
    assert second.discriminator_learning_rate_at(51) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage1: {stpes: 3}", ["stage1.stpes", "unknown key", "did you mean 'steps'?"]),
        ("sed: 3", ["sed", "unknown key", "did you mean 'seed'?"]),
        ("colour: red", ["colour", "unknown key", "generator, seed"]),
        ("generator: huge", ["generator", "unknown preset 'huge'", "full, lite, fast"]),
        ("generator: {preset: light}", ["unknown preset 'light'", "did you mean 'lite'?"]),
        ("generator: {preset: [1]}", ["unknown preset [1]"]),
        ("generator: {feature: 8}", ["unknown size 'feature'", "did you mean 'features'?"]),
        ("generator: {features: 3.5}", ["generator.features", "integer"]),
        ("generator: {features: 0}", ["generator", "features is 0"]),
        ("generator: {taps: 5}", ["generator.taps", "tuple"]),
        ("generator: {taps: [3, 1]}", ["generator", "taps (3, 1)", "1 and 23"]),
        ("generator: {taps: [24]}", ["generator", "taps (24,)", "1 and 23"]),
        ("generator: {layout: thin}", ["generator.layout", "'paper' or 'fast'"]),
        ("generator: {head: plain}", ["stage1.augment", "plain head", "null"]),
        (
            "{generator: {taps: []}, stage1: {gradient_branch: 1}}",
            ["stage1.gradient_branch", "no gradient branch"],
        ),
        ("generator: {head: folded}", ["generator.head", "'unshuffle' or 'plain'"]),
        ("generator:", ["generator", "dictionary"]),
        ("precision: fp8", ["precision", "'fp32', 'bf16' or 'fp16'"]),
        ("stage2: {weights: {lpip: 0}}", ["stage2.weights.lpip", "did you mean 'lpips'?"]),
        ("stage2: {cutmix: {ramps: 5}}", ["stage2.cutmix.ramps", "did you mean 'ramp'?"]),
        ("stage2: {augment: {alfa: {}}}", ["stage2.augment.alfa", "did you mean 'alpha'?"]),
        (
            "stage2: {discriminator: {feature: 8}}",
            ["stage2.discriminator.feature", "did you mean 'features'?"],
        ),
        ("stage2: {discriminator: {kind: vgg}}", ["discriminator.kind", "'unet' or 'encoder'"]),
        ("stage2: {patch: 100}", ["stage2.patch", "multiple of 32"]),
        ("stage2: {weights: {pixel: -1}}", ["stage2.weights.pixel", "greater than or equal to 0"]),
        ("stage1: null", ["neither stage1 nor stage2"]),
        ("accumulate: 3", ["accumulate 3", "batch 16"]),
        ("{generator: {taps: []}, stage2: {}}", ["gradient_branch", "no taps", "set it to 0"]),
        ("extends: 3", ["extends", "name of a recipe", "3"]),
        ("extends: papr.yaml", ["papr.yaml", "no such recipe", "paper.yaml"]),
        ("stage1: {patch: 30}", ["stage1.patch", "multiple of 4"]),
        ("stage1: {ema: 1.0}", ["stage1.ema", "less than 1"]),
        ("stage1: {betas: [0.9, 1.5]}", ["stage1.betas.1", "less than 1"]),
        ("stage1: {learning_rate: .inf}", ["stage1.learning_rate", "finite"]),
        ("stage1: {steps: many}", ["stage1.steps", "integer"]),
        ("stage1: 5", ["stage1", "dictionary"]),
        ("seed: 99999999999999999999", ["seed", "less than"]),
        ("on: 1", ["Keys should be strings"]),
        ("[lite]", ["mapping of keys", "list"]),
        ("seed: [", ["is not YAML", "line 1"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, complains: Any, text: str, words: list[str]
) -> None:
    path = written(tmp_path, text)
    with complains(UsageError, path, *words):
        recipe_from_file(path)


def test_a_missing_recipe_lists_the_shipped_ones(tmp_path: Path, complains: Any) -> None:
    for name in ("lite", tmp_path, tmp_path / "lite.yaml"):
        with complains(UsageError, name, "no such recipe", "lite.yaml, paper.yaml, paper_no"):
            recipe_from_file(name)


def test_a_binary_file_is_no_recipe(tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(bytes(range(256)))
    with complains(UsageError, path, "text file"):
        recipe_from_file(path)


ALL_ZERO = ", ".join(f"{name}: 0" for name in LossWeights.model_fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "{}",
        f"extends: tiny.yaml\nstage2: {{weights: {{{ALL_ZERO}}}}}",
        "[" * 5000,
    ],
)
def test_recipes_that_teach_nothing(tmp_path: Path, complains: Any, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with complains(UsageError, path):
        recipe_from_file(path)
