"""Ma features against the official code; forests against trees worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.io import savemat

from srtool.benchmarks.metrics.ma import (
    block_dct,
    forest_mean,
    gaussian_shape,
    load_ma,
    ma,
    ma_features,
)
from srtool.benchmarks.metrics.steerable import pyramid_from_image
from srtool.errors import DataError, ImageError

Array = NDArray[Any]
Complains = Callable[..., Any]


NAMES = ("lDau", "rDau", "nodestatus", "ndtree", "upper", "avnode", "mbest")
GAMMAS = [0, 1, 6, 7, 12, 13]  # lowest tenth and mean of the shapes, three scales


@pytest.mark.parametrize("name", [f"img_00{number}" for number in range(1, 6)])
def test_features_equal_those_of_the_official_code(name: str, ma_reference: dict[str, Any]) -> None:
    figures = ma_reference[name]
    f1, f2, f3 = ma_features(figures["luma"])
    expected = [np.array(figures[key]) for key in ("f1", "f2", "f3")]
    np.testing.assert_allclose(f3, expected[2], rtol=1e-6)
    np.testing.assert_allclose(f1[GAMMAS], expected[0][GAMMAS], rtol=0, atol=1e-3)
    np.testing.assert_allclose(f1, expected[0], rtol=1e-4)
    np.testing.assert_allclose(f2[:18], expected[1][:18], rtol=0, atol=1.001e-3)
    np.testing.assert_allclose(f2[18:], expected[1][18:], rtol=1e-4)


def test_block_dct_pads_with_zeros() -> None:
    image = np.random.default_rng(0).uniform(size=(10, 8))
    coefficients = block_dct(image)
    assert coefficients.shape == (4 * 3, 49)
    padded = np.zeros((16, 13))
    padded[2:12, 2:10] = image
    for index in (0, 4, 11):
        row, column = 3 * (index // 3), 3 * (index % 3)
        window = padded[row : row + 7, column : column + 7]
        np.testing.assert_allclose(
            coefficients[index].reshape(7, 7), dctn(window, norm="ortho"), atol=1e-12
        )


def test_shape_of_known_distributions() -> None:
    random = np.random.default_rng(1)
    rows = np.stack([random.normal(size=100_000), random.laplace(size=100_000)])
    np.testing.assert_allclose(gaussian_shape(rows), [2, 1], atol=0.03)
    assert gaussian_shape(np.zeros((1, 48))) == [10]


@pytest.mark.parametrize("shape", [(96, 100), (97, 101), (98, 103)])
def test_steerable_bands_keep_the_energy(shape: tuple[int, int]) -> None:
    # The filters of one scale add up to 1 in square, so the bands hold what the low-pass lost.
    image = np.random.default_rng(2).normal(size=shape)
    pyramid = pyramid_from_image(image)
    height, width = ((length + 1) // 2 for length in shape)
    assert pyramid.high_pass.shape == shape
    assert [len(bands) for bands in pyramid.bands] == [6, 6]
    assert {band.shape for band in pyramid.bands[0]} == {shape}
    assert {band.shape for band in pyramid.bands[1]} == {(height, width)}
    half = (height * width) / (shape[0] * shape[1])  # a half-size transform scales by this
    held = sum((band**2).sum() for band in pyramid.bands[0])
    held += half * sum((band**2).sum() for band in pyramid.bands[1])
    held += (pyramid.high_pass**2).sum()
    total = (image**2).sum()
    assert 0.9 * total < held < total


def test_a_flat_image_has_features_and_a_small_one_has_none(complains: Complains) -> None:
    assert all(np.isfinite(part).all() for part in ma_features(np.full((96, 96), 128.0)))
    with complains(ImageError, "84 x 84", "83 x 200"):
        ma_features(np.zeros((83, 200)))


def forest(features: int, names: tuple[str, ...] = NAMES) -> dict[str, Array]:
    """Two trees in the layout of randomforest-matlab: (nodes, trees), counted from 1.

    Tree 1: feature 1 <= 0.5 ? 10 : (last feature <= -1 ? 20 : 30). Tree 2: a lone leaf, 4.
    """
    left = np.array([[2, 0], [0, 0], [4, 0], [0, 0], [0, 0]], np.int32)
    right = np.array([[3, 0], [0, 0], [5, 0], [0, 0], [0, 0]], np.int32)
    status = np.where(left > 0, -3, -1).astype(np.int8)
    sizes = np.array([[5], [1]], np.int32)
    threshold = np.zeros((5, 2))
    threshold[[0, 2], 0] = 0.5, -1
    value = np.array([[15, 4], [10, 0], [25, 0], [20, 0], [30, 0]], float)
    best = np.array([[1, 0], [0, 0], [features, 0], [0, 0], [0, 0]], np.int32)
    return dict(zip(names, (left, right, status, sizes, threshold, value, best), strict=True))


def write_model(path: Path, forests: list[dict[str, Array]]) -> Path:
    cells = np.empty((1, 3), object)
    cells[0, :] = forests
    linear = np.array([[1.0], [0.5], [0.25], [2.0]])
    savemat(path, {"model": {"linear": linear, "rf": cells}})
    return path


@pytest.mark.parametrize("names", [NAMES, tuple("abcdefg")])
def test_forests_answer_as_computed_by_hand(tmp_path: Path, names: tuple[str, ...]) -> None:
    model = load_ma(
        write_model(tmp_path / "model.mat", [forest(count, names) for count in (18, 45, 75)])
    )
    np.testing.assert_array_equal(model.weights, [1, 0.5, 0.25, 2])
    for trees, count in zip(model.forests, (18, 45, 75), strict=True):
        features = np.zeros(count)
        features[0] = 0.5  # a value on the threshold goes left
        assert forest_mean(trees, features) == (10 + 4) / 2
        features[0] = 0.6
        assert forest_mean(trees, features) == (30 + 4) / 2
        features[-1] = -1
        assert forest_mean(trees, features) == (20 + 4) / 2


def test_known_names_count_for_more_than_their_order(tmp_path: Path) -> None:
    fields = dict(reversed(list(forest(18).items())))
    model = load_ma(write_model(tmp_path / "model.mat", [fields, forest(45), forest(75)]))
    assert forest_mean(model.forests[0], np.ones(18)) == (30 + 4) / 2


def test_score_is_the_weighted_sum(tmp_path: Path) -> None:
    model = load_ma(write_model(tmp_path / "model.mat", [forest(count) for count in (18, 45, 75)]))
    luma = np.random.default_rng(3).uniform(16, 235, (96, 96)).round()
    answers = [
        forest_mean(trees, features)
        for trees, features in zip(model.forests, ma_features(luma), strict=True)
    ]
    assert set(answers) <= {7, 12, 17}
    expected = 1 + 0.5 * answers[0] + 0.25 * answers[1] + 2 * answers[2]
    assert ma(luma, model) == pytest.approx(expected)


def test_files_that_are_no_model(tmp_path: Path, complains: Complains) -> None:
    path = tmp_path / "model.mat"
    with complains(DataError, path, "linear"):
        load_ma(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with complains(DataError, path, "version 7"):
        load_ma(path)
    savemat(path, {"other": 1})
    with complains(DataError, path, "model"):
        load_ma(path)
    savemat(path, {"model": 1})
    with complains(DataError, path, "model"):
        load_ma(path)
    stray = forest(18)
    stray["lDau"] = stray["lDau"] * 3
    with complains(DataError, path, "does not exist"):
        load_ma(write_model(path, [stray, forest(45), forest(75)]))
    with complains(DataError, path, "beyond the 18"):
        load_ma(write_model(path, [forest(19), forest(45), forest(75)]))
    short = forest(18)
    short["upper"] = short["upper"][:4]
    with complains(DataError, path, "differ"):
        load_ma(write_model(path, [short, forest(45), forest(75)]))
    del short["mbest"]
    with complains(DataError, path, "seven"):
        load_ma(write_model(path, [short, forest(45), forest(75)]))
