"""The metrics on the free photographs of samples/: figures in tests/fixtures/photographs.json.

They are of the code that met the references of Set5 and Set14, which may not be shipped, and hold
it to them in every checkout. `python tests/benchmarks/test_photographs.py` writes the file anew: do
so only where the tests of those references, which need ../shared, pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.benchmarks.metrics.full_reference import ssim, ssim_wang
from srtool.benchmarks.metrics.ma import ma_features
from srtool.benchmarks.metrics.niqe import block_features, contrast_normalised
from srtool.images.colour import luma, psnr
from srtool.images.imresize import imresize, make_lr, mod_crop
from srtool.images.reading import read_rgb

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "src" / "srtool" / "samples"
FIGURES = ROOT / "tests" / "fixtures" / "photographs.json"
Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
NAMES = ("astronaut", "chelsea", "coffee", "rocket")  # licences: samples/README.md


def photograph(name: str) -> NDArray[np.uint8]:
    return mod_crop(read_rgb(SAMPLES / "HR" / f"{name}.png"))


def bicubic(hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(imresize(make_lr(hr), 4, "clamp"))


def bicubic_float(hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    lr = imresize(hr.astype(np.float64), 1 / 4, "mirror")
    return np.floor(imresize(lr, 4, "mirror") + 0.5).clip(0, 255).astype(np.uint8)


def scores(name: str, upscale: Upscale) -> dict[str, float]:
    hr = photograph(name)
    a, b = luma(upscale(hr))[4:-4, 4:-4], luma(hr)[4:-4, 4:-4]
    return {"psnr": psnr(a, b), "ssim": ssim(a, b), "ssim_wang": ssim_wang(a, b)}


def features(name: str) -> dict[str, float]:
    """Means and norms of what the blind metrics see of the middle of a photograph."""
    y = luma(photograph(name))
    top, left = (side // 2 - 96 for side in y.shape)
    y = y[top : top + 192, left : left + 192]
    found = dict(zip(("ma_dct", "ma_steerable", "ma_spectrum"), ma_features(y), strict=True))
    found["niqe"] = block_features(contrast_normalised(y), 96)
    values = {}
    for key, array in found.items():
        finite = np.asarray(array, np.float64)
        values[f"{key}_mean"] = float(finite.mean())
        values[f"{key}_norm"] = float(np.sqrt((finite**2).mean()))
    return values


def digest(name: str) -> str:
    return hashlib.sha256(make_lr(photograph(name)).tobytes()).hexdigest()


def figures() -> dict[str, Any]:
    return {
        name: {
            "lr_sha256": digest(name),
            "bicubic": scores(name, bicubic),
            "bicubic-float": scores(name, bicubic_float),
            "features": features(name),
        }
        for name in NAMES
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_lr_is_what_it_was(name: str, expected: dict[str, Any]) -> None:
    assert digest(name) == expected[name]["lr_sha256"]
    kept = read_rgb(SAMPLES / "LRx4" / f"{name}.png")
    assert np.array_equal(make_lr(photograph(name)), kept)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_bicubic(name: str, expected: dict[str, Any]) -> None:
    for method, upscale in (("bicubic", bicubic), ("bicubic-float", bicubic_float)):
        assert scores(name, upscale) == pytest.approx(expected[name][method], abs=1e-6)


@pytest.mark.parametrize("name", NAMES[:2])
def test_features_of_the_blind_metrics(name: str, expected: dict[str, Any]) -> None:
    assert features(name) == pytest.approx(expected[name]["features"], rel=1e-6, abs=1e-9)


if __name__ == "__main__":
    FIGURES.write_text(json.dumps(figures(), indent=2) + "\n", encoding="utf-8")
