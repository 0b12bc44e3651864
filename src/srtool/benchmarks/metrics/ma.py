"""The Ma metric: no-reference quality of super-resolved images (Ma et al. 2017).

Three regression forests, one per group of features, and a linear combination of their answers.
The trained model is the authors' file; srtool reads it and ships none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from srtool.benchmarks.metrics.ma_features import ma_features
from srtool.errors import DataError

__all__ = ["Forest", "MaModel", "forest_mean", "load_ma", "ma", "ma_features"]

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
