"""imresize against MATLAB facts worked out by hand, LR sets in circulation, reference figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from srtool.images.colour import psnr_y
from srtool.images.imresize import imresize, make_lr, mod_crop

# cubic(k / 4 + 1 / 8), k = 0..7: what a reduction by 4 gives to the pixels on each side, times 4.
REDUCTION = (
    np.array(
        [
            0.9638671875,
            0.7275390625,
            0.3896484375,
            0.0908203125,
            -0.0478515625,
            -0.0732421875,
            -0.0439453125,
            -0.0068359375,
        ]
    )
    / 4
)
# cubic(1.625), cubic(0.625), cubic(0.375), cubic(1.375): the first of four phases when enlarging.
ENLARGEMENT = np.array([-0.0439453125, 0.3896484375, 0.7275390625, -0.0732421875])


def read(path: Path) -> NDArray[np.uint8]:
    """(H, W) for a gray file, (H, W, 3) otherwise."""
    pixels: NDArray[np.uint8] = pyvips.Image.new_from_file(str(path)).numpy()
    return pixels


def column(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)[:, None]


def test_weights_when_reducing_by_four() -> None:
    """Output pixel 4 (from 0) of 40 sits between input pixels 17 and 18, kernel 16 wide."""
    response = [imresize(np.eye(40)[:, [n]], 0.25)[4, 0] for n in range(40)]
    expected = np.zeros(40)
    expected[10:26] = np.concatenate((REDUCTION[::-1], REDUCTION))
    assert np.allclose(response, expected, rtol=0, atol=1e-15)


def test_weights_when_enlarging_by_four() -> None:
    """Output pixel 12 (from 0) sits at 2.625 of the input pixels 0..8."""
    response = [imresize(np.eye(9)[:, [n]], 4)[12, 0] for n in range(9)]
    assert np.allclose(response, [0, *ENLARGEMENT, 0, 0, 0, 0], rtol=0, atol=1e-15)


def test_edges_by_hand() -> None:
    far, near, own, other = ENLARGEMENT
    a, b = 10.0, 70.0
    clamped, mirrored = (imresize(column(a, b), 4, edges)[0, 0] for edges in ("clamp", "mirror"))
    assert clamped == pytest.approx((far + near + own) * a + other * b, abs=1e-12)
    assert mirrored == pytest.approx((near + own) * a + (far + other) * b, abs=1e-12)


def test_mirrored_and_clamped_differ_at_the_edges_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.float64)
    for scale, rim in ((0.25, 2), (4, 6)):
        differ = imresize(image, scale, "clamp") != imresize(image, scale, "mirror")
        assert not differ[rim:-rim, rim:-rim].any()
        assert differ[0].all()
        assert differ[-1].all()
        assert differ[:, 0].all()
        assert differ[:, -1].all()


def test_a_mirror_repeats_when_the_image_is_smaller_than_the_kernel() -> None:
    """Two pixels: the 16 weights fall on a, b, b, a, a, b, b, a ... symmetrically."""
    assert imresize(column(0, 8, 8, 0), 0.25, "mirror")[0, 0] == pytest.approx(
        2 * 8 * (REDUCTION[[0, 3, 4, 7]].sum())
    )


def test_uint8_is_rounded_after_each_pass() -> None:
    """The outer of four pixels weighs 0.259: 6 -> 1.55 -> 2 and then 0.52 -> 1, but 6 * 0.067
    would round to 0."""
    image = np.zeros((4, 4), np.uint8)
    image[0, 0] = 6
    assert imresize(image, 0.25).tolist() == [[1]]
    assert imresize(image.astype(np.float64), 0.25)[0, 0] == pytest.approx(6 * 0.259033203125**2)


def test_the_vertical_pass_comes_first() -> None:
    """2 -> 0.52 -> 1 in three columns, then 0.74 -> 1; horizontally first, 1.48 -> 1 -> 0.26."""
    image = np.zeros((4, 4), np.uint8)
    image[0, :3] = 2
    assert imresize(image, 0.25).tolist() == [[1]]
    assert imresize(image.T, 0.25).tolist() == [[0]]


def test_halves_are_rounded_up() -> None:
    image = np.array([[1, 1, 0, 0]] * 4, np.uint8)  # weights 0.259 + 0.241
    assert imresize(image, 0.25).tolist() == [[1]]
    assert imresize(3 * image, 0.25).tolist() == [[2]]  # to even would be 2 as well
    assert imresize(5 * image, 0.25).tolist() == [[3]]  # to even would be 2


def test_floats_are_neither_rounded_nor_clipped_but_bytes_are() -> None:
    step = np.repeat(np.array([0, 255], np.uint8), 12)[:, None] * np.ones((1, 24), np.uint8)
    enlarged = imresize(step.astype(np.float32), 4)
    assert enlarged.dtype == np.float64
    assert enlarged.min() < -5
    assert enlarged.max() > 260
    assert np.any(enlarged % 1)
    clipped = imresize(step, 4)
    assert clipped.dtype == np.uint8
    assert np.array_equal(clipped, np.floor(enlarged + 0.5).clip(0, 255))  # one pass is flat


def test_sizes_round_up_and_channels_stand_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 14, 3), np.uint8)
    small = imresize(image, 0.25)
    assert small.shape == (3, 4, 3)
    assert small.flags.c_contiguous
    assert imresize(image, 4).shape == (36, 56, 3)
    for channel in range(3):
        assert np.array_equal(small[..., channel], imresize(image[..., channel], 0.25))


@pytest.mark.parametrize("scale", [4, 2, 0.5, 0.25, 0.3])
def test_flat_stays_flat(scale: float) -> None:
    flat = np.full((12, 15), 137.0)
    assert np.allclose(imresize(flat, scale), 137.0, rtol=0, atol=1e-12)


def test_mod_crop_cuts_at_the_bottom_and_right() -> None:
    image = np.arange(11 * 9).reshape(11, 9)
    assert np.array_equal(mod_crop(image, 4), image[:8, :8])
    assert np.array_equal(make_lr(image.astype(np.uint8)), make_lr(image[:8, :8].astype(np.uint8)))


@pytest.mark.parametrize(("dataset", "count"), [("Set5", 5), ("Set14", 14)])
def test_lr_images_equal_those_in_circulation(shared: Path, dataset: str, count: int) -> None:
    folder = shared / "data" / dataset
    files = sorted((folder / "HR").iterdir())
    assert len(files) == count
    for path in files:
        made, published = make_lr(read(path)), read(folder / "LRx4" / path.name)
        assert np.array_equal(made, published), path


def bicubic_uint8(hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = imresize(make_lr(hr), 4)
    return out


def bicubic_float(hr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    enlarged = imresize(imresize(hr.astype(np.float64), 0.25, "mirror"), 4, "mirror")
    rounded: NDArray[np.uint8] = np.floor(enlarged + 0.5).clip(0, 255).astype(np.uint8)
    return rounded


@pytest.mark.parametrize("dataset", ["Set5", "Set14"])
@pytest.mark.parametrize(
    ("figures", "bicubic"), [("lr_uint8", bicubic_uint8), ("lr_float", bicubic_float)]
)
def test_bicubic_psnr_is_that_of_an_independent_implementation(
    shared: Path, dataset: str, figures: str, bicubic: Any
) -> None:
    content = json.loads((shared / "reference" / "bicubic_set5_set14.json").read_text())
    expected = [image["psnr"] for image in content[figures][dataset]["images"]]
    images = [mod_crop(read(path)) for path in sorted((shared / "data" / dataset / "HR").iterdir())]
    found = [psnr_y(bicubic(hr), hr) for hr in images]
    assert found == pytest.approx(expected, abs=0.001)
