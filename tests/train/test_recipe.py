"""Recipes: what ships, what is inherited, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from srtool.errors import UsageError
from srtool.train.generator import PRESETS, GeneratorConfig
from srtool.train.recipe import PretrainStage, Recipe, recipe_from_file, shipped_recipes


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_recipes_parse() -> None:
    assert shipped_recipes() == ["lite.yaml", "paper.yaml", "tiny.yaml"]
    recipes = {name: recipe_from_file(name) for name in shipped_recipes()}
    assert recipes["lite.yaml"].generator == PRESETS["lite"]
    assert recipes["tiny.yaml"].generator.features == 8
    paper = recipes["paper.yaml"]
    assert paper.generator == GeneratorConfig()
    assert (paper.stage1.batch, paper.stage1.patch, paper.precision) == (16, 128, "fp32")


def test_the_paper_recipe_states_the_defaults() -> None:
    paper = recipe_from_file("paper.yaml")
    assert paper.stage1 == PretrainStage()


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    assert recipe_from_file(written(tmp_path, "# nothing\n")) == Recipe()


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
    stage = PretrainStage(learning_rate=8e-4, halve_every=100, learning_rate_floor=1.5e-4)
    expected = {1: 8e-4, 100: 8e-4, 101: 4e-4, 200: 4e-4, 201: 2e-4, 301: 1.5e-4, 9999: 1.5e-4}
    for step, rate in expected.items():
        assert stage.learning_rate_at(step) == pytest.approx(rate, rel=1e-12)
    paper = PretrainStage()
    assert paper.learning_rate_at(5_000) == 2e-4
    assert paper.learning_rate_at(5_001) == 1e-4
    assert paper.learning_rate_at(55_000) == pytest.approx(2e-4 / 1024)
    assert paper.learning_rate_at(60_001) == 1e-7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stage1: {stpes: 3}", ["stage1.stpes", "unknown key", "did you mean 'steps'?"]),
        ("sed: 3", ["sed", "unknown key", "did you mean 'seed'?"]),
        ("colour: red", ["colour", "unknown key", "generator, seed, precision"]),
        ("generator: huge", ["generator", "unknown preset 'huge'", "full, lite"]),
        ("generator: {preset: light}", ["unknown preset 'light'", "did you mean 'lite'?"]),
        ("generator: {preset: [1]}", ["unknown preset [1]"]),
        ("generator: {feature: 8}", ["unknown size 'feature'", "did you mean 'features'?"]),
        ("generator: {features: 3.5}", ["generator.features", "integer"]),
        ("generator: {features: 0}", ["generator", "features is 0"]),
        ("generator: {taps: 5}", ["generator.taps", "tuple"]),
        ("generator: {taps: [3, 1]}", ["generator", "taps (3, 1)", "1 and 23"]),
        ("generator: {head: folded}", ["generator.head", "'unshuffle' or 'plain'"]),
        ("generator:", ["generator", "dictionary"]),
        ("precision: fp16", ["precision", "'fp32' or 'bf16'"]),
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
        with complains(UsageError, name, "no such recipe", "lite.yaml, paper.yaml, tiny.yaml"):
            recipe_from_file(name)


def test_a_binary_file_is_no_recipe(tmp_path: Path, complains: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(bytes(range(256)))
    with complains(UsageError, path, "text file"):
        recipe_from_file(path)
