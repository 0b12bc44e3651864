"""SSIM and PSNR of bicubic Set5 and Set14 against the reference figures, and by definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate
from scipy.signal import convolve2d

from srtool.benchmarks.metrics.full_reference import gaussian, ssim, ssim_terms, ssim_wang
from srtool.errors import ImageError
from srtool.images.colour import psnr

Array = NDArray[Any]
Complains = Callable[..., Any]
Bicubic = Callable[[str, str, int], tuple[Array, Array]]


METHODS = ["lr_uint8", "lr_float"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_bicubic_gets_the_reference_figures(
    method: str, name: str, count: int, bicubic: Bicubic, reference: dict[str, Any]
) -> None:
    expected = reference[method][name]
    scores = []
    for number in range(1, count + 1):
        sr, hr = bicubic(method, name, number)
        figures = expected["images"][number - 1]
        scores.append((psnr(sr, hr), ssim(sr, hr), ssim_wang(sr, hr)))
        for key, score, tolerance in zip(
            ("psnr", "ssim", "ssim_wang"), scores[-1], (1e-3, 1e-4, 1e-4), strict=True
        ):
            assert score == pytest.approx(figures[key], abs=tolerance), (number, key)
    mean = np.mean(scores, 0)
    assert mean[0] == pytest.approx(expected["mean"]["psnr"], abs=1e-3)
    assert mean[1] == pytest.approx(expected["mean"]["ssim"], abs=1e-4)
    assert mean[2] == pytest.approx(expected["mean"]["ssim_wang"], abs=1e-4)


def test_the_papers_bicubic_column(bicubic: Bicubic) -> None:
    pairs = [bicubic("lr_float", "Set5", number) for number in range(1, 6)]
    assert round(np.mean([psnr(*pair) for pair in pairs]), 3) == 28.420
    assert round(np.mean([ssim_wang(*pair) for pair in pairs]), 4) == 0.8245


def test_terms_follow_the_definition() -> None:
    random = np.random.default_rng(0)
    a = random.uniform(16, 235, (23, 31))
    b = a + random.normal(0, 10, a.shape)
    window = np.outer(gaussian(11, 1.5), gaussian(11, 1.5))

    def mean(image: Array) -> Array:
        return convolve2d(image, window, "valid")

    variance = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    covariance = mean(a * b) - mean(a) * mean(b)
    luminance, contrast_structure = ssim_terms(a, b)
    assert luminance.shape == (13, 21)
    power = mean(a) ** 2 + mean(b) ** 2
    np.testing.assert_allclose(luminance, (2 * mean(a) * mean(b) + 6.5025) / (power + 6.5025))
    np.testing.assert_allclose(
        contrast_structure, (2 * covariance + 58.5225) / (variance + 58.5225)
    )
    assert ssim(a, b) == pytest.approx((luminance * contrast_structure).mean())


@pytest.mark.parametrize(("shape", "factor"), [((383, 500), 1), ((384, 401), 2), ((645, 700), 3)])
def test_wang_reduces_by_the_rounded_short_side_over_256(
    shape: tuple[int, int], factor: int
) -> None:
    random = np.random.default_rng(1)
    a = random.uniform(16, 235, shape)
    b = a + random.normal(0, 20, shape)
    box = np.full((factor, factor), 1 / factor**2)
    # SciPy's window sits half a pixel before the centre for even sizes, MATLAB's half after it
    origin = -1 if factor == 2 else 0
    reduced = [
        correlate(image, box, mode="reflect", origin=origin)[::factor, ::factor] for image in (a, b)
    ]
    assert ssim_wang(a, b) == pytest.approx(ssim(*reduced), rel=1e-12)


def test_an_image_equals_itself() -> None:
    image = np.random.default_rng(2).uniform(16, 235, (300, 520))
    assert ssim(image, image) == pytest.approx(1)
    assert ssim_wang(image, image) == pytest.approx(1)


def test_images_that_cannot_be_scored(complains: Complains) -> None:
    with complains(ImageError, "11 x 11", "10 x 40"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))
    with pytest.raises(ValueError, match="one shape"):
        ssim(np.zeros((40, 40)), np.zeros((40, 41)))
