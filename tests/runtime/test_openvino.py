"""OpenVINO's session: the form for any shape, the forms for one, and when each of them runs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.manifest import ModelFacts
from srtool.runtime.backends import openvino
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import KEPT, OpenVino, OpenVinoSession
from srtool.runtime.opening import open_engine
from srtool.runtime.tiling import Tiling, upscale_tiled

FACTS = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="test", halo=8)
FLOATS = FACTS.model_copy(update={"io": "float32"})
PIXELS = 20 * 12  # of a batch of `images`


def images(width: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (1, 12, width, 3)).astype(np.uint8)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often networks were compiled, and how often their memory was given back."""
    counts: Counter[str] = Counter()
    real = openvino._Compiled

    class Counted(real):  # type: ignore[misc, valid-type]
        def __init__(self, model: Any, settings: Any, output: int) -> None:
            counts["any" if model.is_dynamic() else "one"] += 1
            super().__init__(model, settings, output)

        def release(self) -> None:
            counts["released"] += 1
            super().release()

    monkeypatch.setattr(openvino, "_Compiled", Counted)
    monkeypatch.setattr(openvino, "WORTH", 3 * PIXELS)
    return counts


def test_a_shape_that_comes_often_gets_a_network_of_its_own(
    compact_engine: Path, compiled: Counter[str]
) -> None:
    session = OpenVino().open(compact_engine, FACTS)
    expected = OnnxRuntime().open(compact_engine, FACTS).run(images())
    for number in range(1, 6):
        session.prepare(images().shape, 1)
        found = session.run(images())
        assert np.abs(found.astype(int) - expected).max() <= 1
        assert compiled["one"] == (number >= 3), number
    assert compiled == {"any": 1, "one": 1, "released": 1}


def test_what_is_announced_at_once_is_worth_it_from_the_first(
    compact_engine: Path, compiled: Counter[str]
) -> None:
    session = OpenVino().open(compact_engine, FACTS)
    session.prepare(images().shape, 3)
    assert compiled["one"] == 0  # not before it comes
    session.run(images())
    assert compiled["one"] == 1


def test_a_row_that_is_broken_begins_anew(compact_engine: Path, compiled: Counter[str]) -> None:
    session = OpenVino().open(compact_engine, FACTS)
    for width in [20, 20, 24] * 4:
        session.prepare(images(width).shape, 1)
        session.run(images(width))
    assert compiled == {"any": 1}


def test_what_nobody_announced_runs_in_the_form_for_any_shape(
    compact_engine: Path, compiled: Counter[str]
) -> None:
    session = OpenVino().open(compact_engine, FACTS)
    for _ in range(10):
        session.run(images())
    session.prepare(images().shape, 100)
    session.run(images(24))
    assert compiled == {"any": 1}


def test_networks_are_kept_and_only_one_holds_memory(
    compact_engine: Path, compiled: Counter[str]
) -> None:
    session = OpenVino().open(compact_engine, FACTS)

    def come(widths: range) -> None:
        for width in widths:
            session.prepare(images(width).shape, 10)
            session.run(images(width))

    come(range(20, 20 + KEPT))
    assert compiled == {"any": 1, "one": KEPT, "released": KEPT}
    come(range(20, 20 + KEPT))
    assert compiled["one"] == KEPT
    assert compiled["released"] == 2 * KEPT
    come(range(20 + KEPT, 21 + KEPT))  # in place of the one that was used longest ago
    come(range(21, 22))
    assert compiled["one"] == KEPT + 1
    come(range(20, 21))
    assert compiled["one"] == KEPT + 2


def test_batches_and_floats_have_shapes_of_their_own(
    compact_engine: Path, compiled: Counter[str]
) -> None:
    engine = open_engine(compact_engine, "openvino", "fp32")
    reference = open_engine(compact_engine, "onnxruntime")
    two = np.concatenate([images(), 255 - images()])
    for pixels in (two, two / np.float32(255)):
        engine.prepare(two.shape, pixels.dtype, 10)
        found, expected = engine.upscale_batch(pixels), reference.upscale_batch(pixels)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert np.abs(found.astype(np.float64) - expected).max() <= (
            1 if pixels.dtype == np.uint8 else 1e-5
        )
    assert compiled == {"any": 2, "one": 2, "released": 2}


def test_the_tiles_of_an_image_are_announced(compact_engine: Path, compiled: Counter[str]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    engine = open_engine(compact_engine, "openvino", "fp32")
    small = upscale_tiled(image[:20, :12], engine)
    assert compiled == {"any": 1}
    whole = upscale_tiled(image, engine)  # many times WORTH by itself
    assert compiled["one"] == 1
    tiled = upscale_tiled(image, engine, Tiling(40))
    assert compiled["one"] == 2
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert small.shape == (80, 48, 3)


def test_memory_is_given_back(nearest_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(openvino, "WORTH", 1)
    session: OpenVinoSession = OpenVino().open(nearest_onnx(), FLOATS)
    large, small = np.zeros((1, 1200, 1200, 3), np.float32), np.zeros((1, 8, 8, 3), np.float32)
    for batch in (large, small):
        session.prepare(batch.shape, 1)
        session.run(batch)
        held = psutil.Process().memory_info().rss
        if batch is large:
            most = held
    assert most - held > 100e6  # the large result alone has 276 MB


def test_an_interrupt_while_openvino_is_imported(compact_engine: Path, photographs: Path) -> None:
    """It comes out of compiled modules as an ImportError, for which another library would run."""
    program = """
import os, signal, sys
from srtool.cli import main as cli

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "openvino._pyopenvino":
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
cli.main()
"""
    asked = ["infer", str(photographs / "0.png"), "--engine", str(compact_engine), "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", program, *asked],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130, done.stderr
