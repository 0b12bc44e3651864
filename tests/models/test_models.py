"""The networks that ship: made from weights/, and taken by name in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError
from srtool.files import sha256
from srtool.manifest import read_manifest
from srtool.models import FOLDER, cards, engine_path, model_names, model_path
from srtool.runtime.opening import open_engine

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_a_network_that_ships_is_what_its_weights_are(card: Any) -> None:
    manifest = read_manifest(card.path)  # EngineError where it is another file
    assert manifest is not None
    assert manifest.companion is not None
    companion = read_manifest(FOLDER / manifest.companion)
    assert companion is not None
    weights = ROOT / "weights" / f"{card.name}.safetensors"
    assert manifest.model.weights_sha256 == companion.model.weights_sha256 == sha256(weights)
    assert {"onnxruntime fp32", "openvino fp32"} <= manifest.fidelity.keys()
    for found in (*manifest.fidelity.values(), *companion.fidelity.values()):
        assert found.passed
        assert found.grade != "lossy"


def test_cards_have_figures_and_nothing_else_lies_there() -> None:
    assert len(cards()) >= 2
    for card in cards():
        assert card.parameters > 0
        assert card.mflop > 0
        for means in card.figures.values():
            assert 20 < means["psnr"] < 50
    engines = {f"{card.name}{end}" for card in cards() for end in (".onnx", ".float32.onnx")}
    assert {path.name for path in FOLDER.glob("*.onnx")} == engines
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 22e6


def test_a_name_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = model_names()[0]
    assert engine_path() == engine_path(first) == model_path(first)
    assert engine_path("x4.onnx") == Path("x4.onnx")  # a file, there or not
    assert engine_path(f"./{first}") == Path(first)
    Path(first).write_bytes(b"")
    assert engine_path(first) == Path(first)
    with pytest.raises(EngineError) as caught:
        engine_path("x4-lit")
    assert [name for name in model_names() if name not in str(caught.value)] == []


def test_infer_and_evaluate_take_names(
    run: Callable[..., Any], tmp_path: Path, photographs: Path, write_png: Any
) -> None:
    import pyvips

    write_png(tmp_path / "in" / "a.png", np.full((20, 24, 3), 90, np.uint8))
    for options in ([], ["--engine", model_names()[1]]):
        result = run("infer", "in", *options, "--overwrite", "--json")
        assert result.code == 0, result.err
        assert Path(json.loads(result.out)["engine"]).parent == FOLDER
        image = pyvips.Image.new_from_file(str(tmp_path / "upscaled" / "a.png"))
        assert (image.width, image.height) == (96, 80)
    result = run("evaluate", photographs, "--engine", model_names()[0], "--metrics", "psnr")
    assert result.code == 0, result.err
    assert model_names()[0] in result.out
    assert run("infer", "in", "--engine", "x4-huge").code == 2


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_companion_is_the_same_network(backend: Any) -> None:
    """It has its weights out of the other file: 16-bit images meet them on every backend."""
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (1, 24, 32, 3), np.uint8, endpoint=True)
    for card in cards():
        with open_engine(card.path, backend, "fp32") as engine:
            levels = engine.upscale_batch(image).astype(np.float32)
            fine = engine.upscale_batch(image / np.float32(255)).clip(0, 1) * 255
        assert np.abs(levels - fine).max() < 0.51


def test_models_are_listed(run: Callable[..., Any]) -> None:
    listed = run("models").out
    assert [name for name in model_names() if name not in listed] == []
    found = json.loads(run("models", "--json").out)
    assert [Path(card["path"]) for card in found] == [card.path for card in cards()]
