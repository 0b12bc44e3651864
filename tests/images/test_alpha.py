"""Colours that nobody sees leave no trace in what is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.images.imresize import imresize
from srtool.images.picture import bled


def disc(side: int = 96) -> NDArray[np.uint8]:
    """Alpha of a disc with a hard edge."""
    y, x = np.mgrid[:side, :side]
    return np.where(np.hypot(y - side / 2, x - side / 2) < side / 3, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0), (255, 255, 255), (120, 0, 255)])
def test_no_fringes(hidden: tuple[int, int, int]) -> None:
    alpha = disc()
    colours = np.where(alpha[..., None] > 0, 255, np.array(hidden)).astype(np.uint8)
    large = imresize(bled(colours, alpha), 4.0).astype(float)
    cover = imresize(alpha, 4.0)[..., None] / 255.0
    on_white = cover * large + (1 - cover) * 255
    assert on_white.min() > 250


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (17, 31), (64, 64)])
def test_what_is_seen_stays_and_the_rest_comes_from_it(shape: tuple[int, int], dtype: Any) -> None:
    random = np.random.default_rng(shape)
    low, high = (10, 200) if dtype == np.uint8 else (1000, 60000)
    colours = random.integers(low, high, (*shape, 3)).astype(dtype)
    alpha = random.integers(0, 3, shape).astype(dtype)
    made = bled(colours, alpha)
    assert made.dtype == dtype
    seen = alpha > 0
    assert np.array_equal(made[seen], colours[seen])
    if seen.any() and not seen.all():
        assert (made >= colours[seen].min(0)).all()
        assert (made <= colours[seen].max(0)).all()


def test_nothing_to_do() -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    assert bled(colours, np.full((4, 4), 9, np.uint8)) is colours
    assert bled(colours, np.zeros((4, 4), np.uint8)) is colours
