"""Traces of a network: found where they are, and only there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from srtool.benchmarks.metrics.full_reference import grid, weave

RANDOM = np.random.default_rng(0)
# Like a photograph: power falls with frequency.
PICTURE = 128 + 30 * np.cumsum(np.cumsum(RANDOM.standard_normal((160, 192)), 0), 1) / 1000
TEXTURE = PICTURE + RANDOM.standard_normal(PICTURE.shape)


def test_a_picture_has_the_grid_of_itself() -> None:
    assert grid(TEXTURE, TEXTURE) == 1


def test_another_texture_is_no_grid() -> None:
    other = PICTURE + 2 * RANDOM.standard_normal(PICTURE.shape)
    assert grid(other, TEXTURE) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("period", [2, 4])
def test_half_a_level_of_a_grid_is_seen(period: int) -> None:
    tile = np.zeros((period, period))
    tile[0, 0] = 1.0
    pattern = np.tile(tile, (160 // period, 192 // period))
    assert grid(TEXTURE + pattern, TEXTURE) > 2
    assert grid(TEXTURE + np.roll(pattern, 1, 0), TEXTURE) > 2


def test_images_smaller_than_a_window_have_none() -> None:
    assert math.isnan(grid(TEXTURE[:60], TEXTURE[:60]))


def test_the_weave_is_measured_on_flat_windows() -> None:
    hr = np.full((32, 48), 200.0)
    hr[:, 8:] += 40 * RANDOM.random((32, 40))
    sr = hr.copy()
    assert weave(sr, hr) == 1
    sr[:, 8:] += 9 * RANDOM.random((32, 40))  # not flat there
    assert weave(sr, hr) == 1
    sr[::2, :8] += 3  # 0 and 3: a variance of 2.25
    assert weave(sr, hr) == pytest.approx(((2.25 + 1 / 12) * 12) ** 0.5)
