"""NIQE: no-reference quality as the distance from natural statistics (Mittal et al. 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.ndimage import correlate
from scipy.special import gammaln

from srtool.errors import DataError, ImageError
from srtool.images.imresize import imresize

Array = NDArray[np.float64]

BLOCK = 96
FEATURES = 36
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

# Shapes that an asymmetric generalised Gaussian can be given, and the moment ratio of each.
_GRID = np.arange(200, 10001) / 1000
_RATIO = np.exp(2 * gammaln(2 / _GRID) - gammaln(1 / _GRID) - gammaln(3 / _GRID))


@dataclass(frozen=True)
class NiqeModel:
    """Statistics of pristine photographs: mean (36,) and covariance (36, 36), float64."""

    mean: Array
    covariance: Array


def load_niqe(path: str | Path) -> NiqeModel:
    """Read the authors' `modelparameters.mat` (mu_prisparam, cov_prisparam).

    Raises DataError where the file is missing, is no MATLAB file or holds other shapes.
    """
    try:
        stored = loadmat(str(path))
        mean = np.asarray(stored["mu_prisparam"], np.float64).reshape(FEATURES)
        covariance = np.asarray(stored["cov_prisparam"], np.float64).reshape(FEATURES, FEATURES)
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError) as error:
        raise DataError(
            f"{path} is not NIQE's pristine model ({error}); expected a MATLAB file with "
            "mu_prisparam (1 x 36) and cov_prisparam (36 x 36), as NIQE's authors released it"
        ) from error
    return NiqeModel(mean, covariance)


def niqe(luma: Array, model: NiqeModel) -> float:
    """Naturalness Image Quality Evaluator; lower is better.

    luma: (H, W) float64, 16..235, rounded, border shaved. Parts of blocks at the bottom and right
        are left out. Fewer than two whole 96 x 96 blocks, or a flat image, raise ImageError.
    Follows `computequality(im, 96, 96, 0, 0, mu, cov)`.
    """
    rows, columns = (length // BLOCK for length in luma.shape)
    if rows * columns < 2:
        raise ImageError(
            f"NIQE needs two whole {BLOCK} x {BLOCK} blocks, this image has "
            f"{luma.shape[0]} x {luma.shape[1]} pixels: leave it out of the evaluation"
        )
    image = luma[: rows * BLOCK, : columns * BLOCK].astype(np.float64)
    fine = block_features(contrast_normalised(image), BLOCK)
    half = imresize(image, 0.5, "mirror")
    coarse = block_features(contrast_normalised(half), BLOCK // 2)
    features = np.concatenate([fine, coarse], 1)

    complete = features[~np.isnan(features).any(1)]
    if len(complete) < 2:
        raise ImageError(
            f"NIQE needs two blocks with texture, this image of {luma.shape[0]} x {luma.shape[1]} "
            "pixels is flat: leave it out of the evaluation"
        )
    mean = np.nanmean(features, 0)
    covariance = np.cov(complete, rowvar=False)
    offset = model.mean - mean
    return float(np.sqrt(offset @ np.linalg.pinv((model.covariance + covariance) / 2) @ offset))


def contrast_normalised(image: Array) -> Array:
    """(I - mu) / (sigma + 1) over a 7 x 7 window, sigma 7/6, edges repeated: (H, W) -> (H, W)."""
    mean = _blur(image)
    deviation = np.sqrt(np.abs(_blur(image * image) - mean * mean))
    return np.asarray((image - mean) / (deviation + 1))


def _blur(image: Array) -> Array:
    """`imfilter(image, fspecial('gaussian', 7, 7/6), 'replicate')`: (H, W) -> (H, W).

    In flat areas I - mu is pure rounding and its signs enter the features, so two things are kept
    as in the released code although they change mu by 1e-14 only: the window is normalised in two
    dimensions, and its 49 terms are added in one go, column by column, the last one first. A window
    made of two one-dimensional ones moves NIQE by up to 0.26 (Set14 image 13).
    """
    x = np.arange(-3, 4)
    kernel = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (7 / 6) ** 2))
    kernel /= kernel.sum()
    turned = np.ascontiguousarray(image.T[::-1, ::-1])
    return np.asarray(correlate(turned, kernel, mode="nearest")[::-1, ::-1].T)


def block_features(coefficients: Array, size: int) -> Array:
    """The 18 features of each block: (H, W) -> (blocks, 18); NaN where a block has no sign change.

    Shape and mean scale of the coefficients; then shape, mean, left and right scale of their
    products with four neighbours, which wrap around inside the block.
    """
    rows, columns = (length // size for length in coefficients.shape)
    blocks = coefficients.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)
    shape, left, right = asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        shape, left, right = asymmetric_gaussian(blocks * np.roll(blocks, shift, (1, 2)))
        mean = (right - left) * np.exp(gammaln(2 / shape) - gammaln(1 / shape))
        features += [shape, mean, left, right]
    return np.stack(features, 1)


def asymmetric_gaussian(blocks: Array) -> tuple[Array, Array, Array]:
    """Moment fit of an asymmetric generalised Gaussian to each block (Lasmar et al. 2009).

    blocks: (N, n, n). Returns shape (grid 0.2 .. 10, step 0.001), left and right scale, all (N,).
    """
    values = blocks.reshape(len(blocks), -1)
    squares = values * values
    negative, positive = values < 0, values > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt((squares * negative).sum(1) / negative.sum(1))
        right = np.sqrt((squares * positive).sum(1) / positive.sum(1))
        skew = left / right
        ratio = np.abs(values).mean(1) ** 2 / squares.mean(1)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    distance = (_RATIO - ratio[:, None]) ** 2
    shape = _GRID[np.argmin(distance, 1)]  # NaN gives the first entry, as MATLAB's min does
    spread = np.exp((gammaln(1 / shape) - gammaln(3 / shape)) / 2)
    return shape, left * spread, right * spread
