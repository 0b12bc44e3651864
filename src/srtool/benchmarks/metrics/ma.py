"""The Ma metric: no-reference quality of super-resolved images (Ma et al. 2017).

Features of three kinds (block DCT, oriented bands, tile spectrum), a regression forest for each,
and a linear combination of the forests' answers. The trained model is the authors' file; srtool
reads it and ships none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.ndimage import correlate1d
from scipy.special import gammaln

from srtool.benchmarks.metrics.full_reference import gaussian, ssim_terms
from srtool.benchmarks.metrics.steerable import normalised_bands, pyramid_from_image, resize_to
from srtool.errors import DataError, ImageError

Array = NDArray[np.float64]
Index = NDArray[np.int32]

FEATURES = (18, 45, 75)
# What a forest needs of its struct: place among the fields, name in randomforest-matlab.
_FIELDS = ((0, "lDau"), (1, "rDau"), (6, "mbest"), (4, "upper"), (5, "avnode"))

_UNREADABLE = (
    OSError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    NotImplementedError,  # MATLAB 7.3 files are HDF5, which SciPy does not read
    MatReadError,
)

SMALLEST = 84  # pixels; below it the third scale has fewer than 25 tiles
_SCALES = 3
_BLOCK, _BORDER = 3, 2
_WINDOW = _BLOCK + 2 * _BORDER
_TILE = 5

# Shapes that a generalised Gaussian can be given, and variance / mean magnitude^2 of each.
_GRID = np.arange(30, 10001) / 1000
_RATIO = np.exp(gammaln(1 / _GRID) + gammaln(3 / _GRID) - 2 * gammaln(2 / _GRID))

_DCT = dct(np.eye(_WINDOW), axis=0, norm="ortho")
# The 48 frequencies in three sectors of 16, by the first column of each row: around the
# horizontal axis, around the vertical axis, around the diagonal.
_HORIZONTAL = np.arange(_WINDOW) >= np.array([1, 2, 4, 5, 7, 7, 7])[:, None]
_DIAGONAL = ~(_HORIZONTAL | _HORIZONTAL.T)
_DIAGONAL[0, 0] = False
_SECTORS = tuple(np.flatnonzero(sector) for sector in (_HORIZONTAL, _HORIZONTAL.T, _DIAGONAL))


@dataclass(frozen=True)
class Forest:
    """Regression trees, one per column; every array is (nodes, trees), node 0 is the root.

    left, right: daughters, counted from 0; -1 in a leaf. feature: what a node splits on, counted
    from 0. threshold: left where the feature is at most that. value: prediction of a leaf.
    """

    left: Index
    right: Index
    feature: Index
    threshold: Array
    value: Array


@dataclass(frozen=True)
class MaModel:
    """Forests for f1 (18,), f2 (45,) and f3 (75,), and the weights (4,) of 1 and their answers."""

    forests: tuple[Forest, Forest, Forest]
    weights: Array


def load_ma(path: str | Path) -> MaModel:
    """Read the authors' `model.mat`: struct `model` with `linear` (4 x 1) and `rf` (1 x 3 cell).

    Raises DataError where the file is missing, is no MATLAB file or its trees do not fit.
    """
    try:
        model = loadmat(str(path))["model"][0, 0]
        weights = np.asarray(model["linear"], np.float64).reshape(4)
        first, second, third = (
            _forest_from_struct(struct, features)
            for struct, features in zip(model["rf"].ravel(), FEATURES, strict=True)
        )
    except _UNREADABLE as error:
        raise DataError(
            f"{path} is not the model of the Ma metric ({error}); expected a MATLAB file of "
            "version 7 or older with the struct `model`, fields linear (4 x 1) and rf (1 x 3), "
            "as its authors released it"
        ) from error
    return MaModel((first, second, third), weights)


def ma(luma: Array, model: MaModel) -> float:
    """Quality on a scale of 0 to 10, higher is better.

    luma: (H, W) float64, 16..235, rounded, border shaved, at least 84 x 84 (else ImageError).
    """
    scores = [
        forest_mean(forest, features)
        for forest, features in zip(model.forests, ma_features(luma), strict=True)
    ]
    return float(np.array([1.0, *scores]) @ model.weights)


def forest_mean(forest: Forest, features: Array) -> float:
    """Mean prediction of all trees for one feature vector (n,)."""
    trees = np.arange(forest.left.shape[1])
    node = np.zeros_like(trees)
    for _ in range(len(forest.left)):
        left = forest.left[node, trees]
        leaf = left < 0
        if leaf.all():
            break
        goes_left = features[forest.feature[node, trees]] <= forest.threshold[node, trees]
        node = np.where(leaf, node, np.where(goes_left, left, forest.right[node, trees]))
    return float(forest.value[node, trees].mean())


def _forest_from_struct(struct: Any, features: int) -> Forest:
    """Forest from a MATLAB struct in the layout of randomforest-matlab.

    Fields are found by their names, or by their order where the names are others. Daughters and
    features count from 1, daughter 0 marks a leaf. Checked so that no walk can leave its tree.
    """
    record = struct[0, 0]
    names = record.dtype.names
    if len(names) < 7:
        raise ValueError(f"a forest has the fields {names}, expected at least seven")
    known = all(name in names for _, name in _FIELDS)
    arrays = [record[name if known else names[place]] for place, name in _FIELDS]
    left, right, feature = (np.asarray(array, np.int32) - 1 for array in arrays[:3])
    threshold, value = (np.asarray(array, np.float64) for array in arrays[3:])
    if any(array.shape != left.shape for array in arrays):
        raise ValueError(f"the arrays of a forest differ: {[array.shape for array in arrays]}")
    inner = left >= 0
    if right[inner].min(initial=0) < 0 or max(left.max(), right.max()) >= len(left):
        raise ValueError("a tree points to a node that does not exist")
    if feature[inner].min(initial=0) < 0 or feature[inner].max(initial=0) >= features:
        raise ValueError(f"a tree splits on a feature beyond the {features} there are")
    return Forest(left, right, feature, threshold, value)


def ma_features(luma: Array) -> tuple[Array, Array, Array]:
    """Features of one image; equal those of the released `feature_all`.

    luma: (H, W) float64, 16..235, border shaved, at least 84 x 84; smaller raises ImageError.
    Returns f1 (18,) local frequency, f2 (45,) global frequency, f3 (75,) spatial features.
    """
    if luma.ndim != 2:
        raise ValueError(f"the Ma metric takes one (H, W) luma plane, got shape {luma.shape}")
    if min(luma.shape) < SMALLEST:
        raise ImageError(
            f"the Ma metric needs at least {SMALLEST} x {SMALLEST} pixels, this image has "
            f"{luma.shape[0]} x {luma.shape[1]}: leave it out of the evaluation"
        )
    luma = luma.astype(np.float64)
    scales = gaussian_pyramid(luma / 255)
    f1 = np.concatenate([dct_features(image) for image in scales])
    f3 = np.concatenate([tile_spectrum(image) for image in scales])
    return f1, steerable_features(luma), f3


def gaussian_pyramid(image: Array) -> list[Array]:
    """(H, W) and two further scales, each blurred (3 x 3, sigma 0.5, zeros outside) and decimated
    by two from the second pixel on."""
    scales = [image]
    window = gaussian(3, 0.5)
    for _ in range(_SCALES - 1):
        blurred = correlate1d(scales[-1], window, axis=0, mode="constant")
        blurred = correlate1d(blurred, window, axis=1, mode="constant")
        scales.append(blurred[1::2, 1::2])
    return scales


def dct_features(image: Array) -> Array:
    """Six features of the 7 x 7 DCT around every 3 x 3 block: (H, W) in 0..1 -> (6,).

    Shape of the coefficients (mean of the lowest tenth, mean), their coefficient of variation
    and its variance between three orientations (mean of the highest tenth, mean).
    """
    coefficients = block_dct(image)
    shapes = gaussian_shape(coefficients[:, 1:])
    variation = _variation(coefficients[:, 1:], 1e-7)
    sectors = np.stack([_variation(coefficients[:, sector], 1e-8) for sector in _SECTORS])
    orientation = sectors.var(0, ddof=1)
    features = [_lowest_tenth(shapes), shapes.mean()]
    for values in (variation, orientation):
        features += [_highest_tenth(values), values.mean()]
    return np.array(features)


def block_dct(image: Array) -> Array:
    """`blkproc(image, [3 3], [2 2], @dct2)`: (H, W) -> (ceil(H / 3) * ceil(W / 3), 49)."""
    counts = [-(-length // _BLOCK) for length in image.shape]
    pads = [
        (_BORDER, _BORDER + _BLOCK * count - length)
        for count, length in zip(counts, image.shape, strict=True)
    ]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pads), (_WINDOW, _WINDOW))
    rows = windows[::_BLOCK, ::_BLOCK] @ _DCT.T
    return np.asarray((_DCT @ rows).reshape(-1, _WINDOW * _WINDOW))


def gaussian_shape(values: Array) -> Array:
    """Moment fit of a generalised Gaussian to each row: (N, n) -> shapes (N,), 0.03 .. 10 by 0.001.

    A row without any spread has ratio 0 and so gets the last shape of the grid.
    """
    deviation = values - values.mean(1, keepdims=True)
    variance = (deviation**2).sum(1) / (values.shape[1] - 1)
    ratio = variance / (np.abs(deviation).mean(1) ** 2 + 1e-7)
    # _RATIO falls along the grid: look up the two neighbours, keep the nearer, the first on a tie
    upper = np.searchsorted(-_RATIO, -ratio).clip(1, len(_GRID) - 1)
    first = np.abs(_RATIO[upper - 1] - ratio) <= np.abs(_RATIO[upper] - ratio)
    return np.asarray(_GRID[upper - first])


def _variation(values: Array, epsilon: float) -> Array:
    """Coefficient of variation of the magnitudes of each row: (N, n) -> (N,)."""
    magnitudes = np.abs(values)
    return np.asarray(magnitudes.std(1, ddof=1) / (magnitudes.mean(1) + epsilon))


def _lowest_tenth(values: Array) -> float:
    return float(np.sort(values)[: -(-len(values) // 10)].mean())


def _highest_tenth(values: Array) -> float:
    # `sorted(fix(0.9 n) : end)`, counted from 1: one more than a tenth
    return float(np.sort(values)[9 * len(values) // 10 - 1 :].mean())


def steerable_features(luma: Array) -> Array:
    """Features of the steerable pyramid: (H, W) in 0..255 -> (45,).

    Shapes of the 12 normalised bands and of both scales of each orientation together (6);
    contrast-structure similarity of the 12 bands to the high-pass band and of each pair of
    normalised orientations at full size (15).
    """
    pyramid = pyramid_from_image(luma)
    fine, coarse = normalised_bands(pyramid)
    both = [np.concatenate([a.ravel(), b.ravel()]) for a, b in zip(fine, coarse, strict=True)]
    shapes = [gaussian_shape(band.reshape(1, -1))[0] for band in (*fine, *coarse, *both)]
    high_pass = pyramid.high_pass
    structure = [
        _contrast_structure(resize_to(band, high_pass.shape), high_pass)
        for bands in pyramid.bands
        for band in bands
    ]
    structure += [_contrast_structure(a, b) for a, b in combinations(fine, 2)]
    return np.array(shapes + structure)


def _contrast_structure(a: Array, b: Array) -> float:
    return float(ssim_terms(a, b)[1].mean())


def tile_spectrum(image: Array) -> Array:
    """Singular values, descending, of the matrix of distinct 5 x 5 tiles: (H, W) -> (25,)."""
    padded = np.pad(image, [(0, -length % _TILE) for length in image.shape])
    rows, columns = (length // _TILE for length in padded.shape)
    tiles = padded.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).reshape(-1, _TILE**2)
    return np.asarray(np.linalg.svd(tiles, compute_uv=False), np.float64)
