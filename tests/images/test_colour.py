"""Luma and PSNR against figures worked out by hand and against published results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.images.colour import luma, psnr, psnr_y


def flat(*rgb: int, side: int = 12) -> NDArray[np.uint8]:
    return np.full((side, side, len(rgb)), rgb, np.uint8)


@pytest.mark.parametrize(
    ("rgb", "exact"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 235.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
    ],
)
def test_luma_is_studio_swing_bt601(rgb: tuple[int, int, int], exact: float) -> None:
    assert luma(flat(*rgb), rounded=False)[0, 0] == pytest.approx(exact, abs=1e-9)
    assert luma(flat(*rgb))[0, 0] == round(exact)


def test_luma_of_gray_is_that_of_equal_channels_and_alpha_is_ignored() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = luma(np.stack([gray] * 3, -1))
    assert np.array_equal(luma(gray), expected)
    assert np.array_equal(luma(np.stack([gray, gray, gray, gray.T], -1)), expected)


def test_luma_refuses_floats() -> None:
    with pytest.raises(ValueError, match="float64"):
        luma(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_psnr_by_hand() -> None:
    a, b = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    assert psnr(a, b) == float("inf")
    assert psnr(a, b + 255) == pytest.approx(0.0)  # no wrap-around of uint8
    b[:4] = 2  # mse 2
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 2))
    assert psnr(a / 255, b / 255, peak=1.0) == pytest.approx(psnr(a, b))
    with pytest.raises(ValueError, match="equal shapes"):
        psnr(a, b[:4])


def test_psnr_y_shaves_four_pixels_off_each_side() -> None:
    a = flat(90, 100, 110, side=16)
    for edge in (np.s_[3], np.s_[-4], np.s_[:, 3], np.s_[:, -4]):
        b = a.copy()
        b[edge] = 0
        assert psnr_y(a, b) == float("inf")
        assert psnr_y(a, b, border=3) < 30
    b = a.copy()
    b[4, 4] = 0
    assert psnr_y(a, b) < 50
    assert psnr_y(a, b, border=0) > psnr_y(a, b)  # the same error over more pixels


def test_published_rcan_results(shared: Path) -> None:
    from srtool.images.reading import read_rgb

    folder = shared / "data" / "rcan-set5-x4"
    names = [path.name.removesuffix("_HR_x4.png") for path in (folder / "HR").iterdir()]
    pairs = [
        (read_rgb(folder / f"SR/{n}_RCAN_x4.png"), read_rgb(folder / f"HR/{n}_HR_x4.png"))
        for n in names
    ]
    for rounded, published in ((False, 32.634), (True, 32.611)):
        mean = np.mean([psnr_y(sr, hr, rounded=rounded) for sr, hr in pairs])
        assert mean == pytest.approx(published, abs=0.0006)
