"""NIQE of bicubic Set5 and Set14 against the reference figures and the official code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat
from scipy.special import gamma

from srtool.benchmarks.metrics.niqe import (
    NiqeModel,
    asymmetric_gaussian,
    block_features,
    contrast_normalised,
    load_niqe,
    niqe,
)
from srtool.errors import DataError, ImageError

Array = NDArray[Any]
Complains = Callable[..., Any]
Bicubic = Callable[[str, str, int], tuple[Array, Array]]


@pytest.fixture(scope="module")
def model(shared: Path) -> NiqeModel:
    return load_niqe(shared / "assets" / "niqe_modelparameters.mat")


@pytest.mark.parametrize("method", ["lr_uint8", "lr_float"])
@pytest.mark.parametrize(("name", "count"), [("Set5", 5), ("Set14", 14)])
def test_bicubic_gets_the_reference_figures(
    method: str,
    name: str,
    count: int,
    bicubic: Bicubic,
    reference: dict[str, Any],
    model: NiqeModel,
) -> None:
    expected = reference[method][name]
    scores = [niqe(bicubic(method, name, number)[0], model) for number in range(1, count + 1)]
    for number, score in enumerate(scores, 1):
        # No image needs the wider band that flat areas would excuse: see `_blur`.
        assert score == pytest.approx(expected["images"][number - 1]["niqe"], abs=0.01), number
    assert np.mean(scores) == pytest.approx(expected["mean"]["niqe"], abs=0.01)


def test_equals_the_official_code(ma_reference: dict[str, Any], model: NiqeModel) -> None:
    for name, figures in ma_reference.items():
        score = niqe(figures["luma"], model)
        assert score == pytest.approx(figures["niqe"], abs=1e-3), name


def test_fit_finds_the_shape_of_a_gaussian_and_its_two_scales() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=(2, 400, 400)))
    values[0, ::2] *= -3
    values[1, ::2] *= -1
    shape, left, right = asymmetric_gaussian(values)
    # the scale that belongs to a standard deviation s and shape a is s sqrt(G(1/a) / G(3/a))
    np.testing.assert_allclose(shape[1], 2, atol=0.05)
    spread = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    np.testing.assert_allclose(left, np.array([3, 1]) * spread, rtol=0.02)
    np.testing.assert_allclose(right, spread, rtol=0.02)


def test_neighbours_wrap_around_inside_their_own_block() -> None:
    random = np.random.default_rng(1)
    blocks = random.normal(size=(4, 8, 8))
    image = np.block([[blocks[0], blocks[1]], [blocks[2], blocks[3]]])
    together = block_features(image, 8)
    assert together.shape == (4, 18)
    for block, features in zip(blocks, together, strict=True):
        np.testing.assert_allclose(block_features(block, 8)[0], features)


def test_contrast_normalisation_repeats_the_edge() -> None:
    image = np.random.default_rng(2).uniform(16, 235, (20, 30))
    wide = contrast_normalised(np.pad(image, 5, mode="edge"))[5:-5, 5:-5]
    np.testing.assert_allclose(contrast_normalised(image), wide, atol=1e-12)


def test_partial_blocks_are_left_out() -> None:
    random = np.random.default_rng(3)
    model = NiqeModel(np.zeros(36), np.eye(36))
    image = random.uniform(16, 235, (96 + 40, 192 + 95)).round()
    assert niqe(image, model) == niqe(image[:96, :192], model)


def test_images_that_cannot_be_scored(complains: Complains) -> None:
    model = NiqeModel(np.zeros(36), np.eye(36))
    with complains(ImageError, "96 x 96", "100 x 191"):
        niqe(np.zeros((100, 191)), model)
    with complains(ImageError, "flat", "192 x 192"):
        niqe(np.full((192, 192), 128.0), model)


def test_files_that_are_no_model(tmp_path: Path, complains: Complains) -> None:
    missing = tmp_path / "missing.mat"
    with complains(DataError, missing, "mu_prisparam"):
        load_niqe(missing)
    other = tmp_path / "other.mat"
    savemat(other, {"mu_prisparam": np.zeros((1, 35)), "cov_prisparam": np.eye(36)})
    with complains(DataError, other, "36"):
        load_niqe(other)
    text = tmp_path / "text.mat"
    text.write_text("not a MATLAB file" * 20)
    with complains(DataError, text, "36"):
        load_niqe(text)
