"""Every term of the losses against figures worked out by hand; CutMix's boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srtool.train import losses as terms
from srtool.train.discriminators import Judgement


def column(*logits: float) -> Tensor:
    return torch.tensor(logits).reshape(-1, 1)


def picture(*rows: list[float]) -> Tensor:
    """(1, 1, H, W)."""
    return torch.tensor(rows)[None, None]


# The generator


def test_distances_of_images() -> None:
    a = picture([0.0, 0.5], [1.0, 0.25])
    b = picture([0.5, 0.5], [0.0, 1.0])
    # |differences| 0.5, 0, 1, 0.75
    assert terms.l1_loss(a, b).item() == 2.25 / 4
    assert terms.squared_loss(a, b).item() == (0.25 + 0 + 1 + 0.5625) / 4


def test_the_phase_loss_sees_grids_alone() -> None:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 64, 64)
    tile = torch.zeros(4, 4)
    tile[1, 2] = 1.0  # 15/16 there and 1/16 at the fifteen others, from the mean
    grid = tile.repeat(16, 16)
    assert terms.phase_loss(hr, hr).item() == 0
    assert terms.phase_loss(hr + 0.5, hr).item() == pytest.approx(0, abs=1e-6)
    assert terms.phase_loss(hr + grid, hr).item() == pytest.approx(30 / 16 / 16, rel=1e-5)
    noise = terms.phase_loss(hr + 0.1 * torch.randn_like(hr), hr).item()
    assert noise < 0.1 / 8  # the mean of 64 values


def test_adversarial_loss() -> None:
    image = torch.tensor([[[[1.0, 2.0]]], [[[3.0, -4.0]]]])  # mean 0.5
    pixels = torch.tensor([[[[-3.0]]], [[[1.0]]]])  # mean -1
    assert terms.adversarial_loss(Judgement(image, pixels, ())).item() == -(0.5 - 1)
    assert terms.adversarial_loss(Judgement(image, None, ())).item() == -0.5


def test_feature_matching_is_a_mean_over_blocks_not_over_values() -> None:
    fake = [torch.tensor([1.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])]
    real = [torch.tensor([2.0, 2.0]), torch.tensor([0.5, 0.5, 2.5, 2.5])]
    # blocks: (1 + 3) / 2 and 0.5; over all values it would be (4 + 2) / 6
    assert terms.feature_matching_loss(fake, real).item() == (2 + 0.5) / 2


def test_feature_matching_teaches_the_features_of_sr_alone() -> None:
    fake, real = torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])
    for x in (fake, real):
        x.requires_grad_()
    terms.feature_matching_loss([fake], [real]).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    assert fake.grad.tolist() == [-0.5, 0.5]
    assert real.grad is None


def test_feature_matching_needs_as_many_blocks_on_both_sides() -> None:
    with pytest.raises(ValueError, match="longer"):
        terms.feature_matching_loss([torch.ones(1)], [torch.ones(1), torch.ones(1)])


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FAKE, REAL = column(0.0, 1.0), column(2.0, 5.0)  # means 0.5 and 3.5


def test_relativistic_loss_of_the_generator() -> None:
    # real - 0.5 is 1.5 and 4.5; fake - 3.5 is -3.5 and -2.5
    real = (math.log(1 - s(1.5)) + math.log(1 - s(4.5))) / 2
    fake = (math.log(s(-3.5)) + math.log(s(-2.5))) / 2
    expected = -(real + fake) / 2
    assert expected == pytest.approx(3.0803, abs=5e-5)  # (1.7014 + 4.5110 + 3.5298 + 2.5789) / 4
    assert terms.relativistic_loss(FAKE, REAL).item() == pytest.approx(expected, rel=1e-6)


def test_relativistic_loss_of_the_discriminator() -> None:
    real = (math.log(s(1.5)) + math.log(s(4.5))) / 2
    fake = (math.log(1 - s(-3.5)) + math.log(1 - s(-2.5))) / 2
    expected = -(real + fake) / 2
    assert expected == pytest.approx(0.0803, abs=5e-5)  # (0.2014 + 0.0110 + 0.0298 + 0.0789) / 4
    found = terms.relativistic_loss(REAL, FAKE)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # the means become 1.5 and 4.5: softplus of real - 1.5 and of 4.5 - fake
        ((FAKE, REAL), (0.5, 3.5, 4.5, 3.5)),
        # softplus of fake - 4.5 and of 1.5 - real
        ((REAL, FAKE), (-4.5, -3.5, -0.5, -3.5)),
    ],
)
def test_relativistic_losses_take_the_mean_they_are_given(
    arguments: tuple[Tensor, Tensor], expected: tuple[float, ...]
) -> None:
    found = terms.relativistic_loss(*arguments, lambda x: x.mean() + 1)
    by_hand = sum(math.log(1 + math.exp(x)) for x in expected) / 4
    assert found.item() == pytest.approx(by_hand, rel=1e-6)


def test_the_relativistic_mean_carries_gradients() -> None:
    """One more logit of SR far from all others still moves by its share of the mean."""
    fake, real = column(-60.0, 60.0).requires_grad_(), column(2.0, 2.0)
    terms.relativistic_loss(fake, real).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    # of real - mean: -s(2) / 2 for each, and half of the whole; of mean - fake: -s(62) / 2, -s(-58)
    through_mean = -s(2) / 2 / 2
    assert fake.grad[:, 0].tolist() == pytest.approx([through_mean - 0.25, through_mean], abs=1e-6)


# The discriminators


def test_hinge_loss() -> None:
    real = torch.tensor([2.0, 0.5, -1.0, 1.0])  # short of 1 by 0, 0.5, 2, 0
    fake = torch.tensor([-3.0, 0.0, 2.0])  # above -1 by 0, 1, 3
    assert terms.hinge_loss(real, fake).item() == pytest.approx(2.5 / 4 + 4 / 3)


def test_consistency_loss() -> None:
    mask = picture([1, 0], [0, 1])
    real, fake = picture([1.0, 2.0], [3.0, 4.0]), picture([5.0, 6.0], [7.0, 8.0])
    mixed = picture([1.0, 5.0], [9.0, 4.0])
    # expected 1, 6, 7, 4: off by 0, 1, 2, 0
    assert terms.consistency_loss(mixed, real, fake, mask).item() == (1 + 4) / 4


@pytest.mark.parametrize(("size", "consistent"), [(1, True), (3, False)])
def test_consistency_of_a_discriminator_that_sees_single_pixels(
    size: int, consistent: bool
) -> None:
    torch.manual_seed(0)
    discriminator = nn.Conv2d(3, 1, size, padding=size // 2)
    hr, sr = torch.rand(2, 2, 3, 16, 16)
    mask = terms.cutmix_masks(np.random.default_rng(0), 2, 16)
    assert 0 < mask.mean() < 1
    mixed = torch.where(mask == 1, hr, sr)
    with torch.no_grad():
        judged = [discriminator(image) for image in (mixed, hr, sr)]
    assert (terms.consistency_loss(*judged, mask).item() < 1e-12) is consistent


# Number formats


def all_terms(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Every term on (2, 1, 2, 2) logits, which stand for images and features as well."""
    mask = torch.tensor([[[[1, 0], [0, 1]]]] * 2, dtype=real.dtype)
    matrix = (real.flatten(0, 2)[:, :1], fake.flatten(0, 2)[:, :1])
    return {
        "l1": terms.l1_loss(fake, real),
        "squared": terms.squared_loss(fake, real),
        "phase": terms.phase_loss(fake.repeat(1, 1, 2, 2), real.repeat(1, 1, 2, 2)),
        "adversarial": terms.adversarial_loss(Judgement(fake, fake, ())),
        "adversarial without decoder": terms.adversarial_loss(Judgement(fake, None, ())),
        "feature_matching": terms.feature_matching_loss([fake, fake], [real, real]),
        "relativistic generator": terms.relativistic_loss(matrix[1], matrix[0]),
        "relativistic discriminator": terms.relativistic_loss(*matrix),
        "hinge": terms.hinge_loss(real, fake),
        "consistency": terms.consistency_loss(fake, real, fake, mask),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_widened_before_anything_else(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 2, 1, 2, 2).to(dtype)
    narrow, wide = all_terms(real, fake), all_terms(real.float(), fake.float())
    for name, value in narrow.items():
        assert value.dtype is torch.float32, name
        assert value.shape == (), name
        assert torch.equal(value, wide[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_stay_finite(dtype: torch.dtype, sign: int) -> None:
    signs = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).expand(2, 1, 2, 2)
    real = (sign * 1e4 * signs).to(dtype).requires_grad_()
    fake = (-sign * 1e4 * signs).to(dtype).requires_grad_()
    for name, value in all_terms(real, fake).items():
        assert value.isfinite(), name
        found = torch.autograd.grad(value, (real, fake), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in found), name


def test_extreme_relativistic_losses() -> None:
    real, fake = column(1e4, 1e4), column(-1e4, -1e4)
    assert terms.relativistic_loss(fake, real).item() == pytest.approx(2e4)
    assert terms.relativistic_loss(real, fake).item() == 0
    assert terms.relativistic_loss(fake, real).item() == pytest.approx(2e4)


# CutMix


def masks_of(count: int, side: int, seed: int = 0) -> NDArray[np.float32]:
    found = terms.cutmix_masks(np.random.default_rng(seed), count, side)
    assert found.dtype is torch.float32
    assert found.shape == (count, 1, side, side)
    masks: NDArray[np.float32] = found[:, 0].numpy()
    return masks


def is_box(region: NDArray[np.bool_]) -> bool:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not rows.size:
        return False
    around = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(around.all())


def test_masks_hold_one_box_inside_or_outside() -> None:
    masks = masks_of(300, 24)
    assert set(np.unique(masks)) == {0, 1}
    assert all(is_box(mask == 1) or is_box(mask == 0) for mask in masks)
    # a box that touches no edge: 0 or 1 all around tells which of both is HR
    rings = [{*m[0], *m[-1], *m[:, 0], *m[:, -1]} for m in masks if 0 < m.sum() < m.size]
    inside, outside = sum(r == {0} for r in rings), sum(r == {1} for r in rings)
    assert inside + outside > 40
    assert abs(inside - outside) < 4 * math.sqrt(inside + outside)


def test_boxes_cover_a_uniform_share_about_a_uniform_centre_and_are_cut_at_the_edges() -> None:
    """A box of share a has half a side of sqrt(a) / 2. It reaches over the middle of the image if
    its centre is that near in both directions: with probability a, 1/2 on average. It reaches
    over a corner with probability a / 4, 1/8 on average, because it is cut and not moved."""
    count, side = 6000, 33
    masks = masks_of(count, side, seed=1) == 1
    boxes = np.stack([m if is_box(m) else ~m for m in masks if is_box(m) != is_box(~m)])
    assert len(boxes) > 0.97 * count
    tolerance = 4 * math.sqrt(1 / 8 * 7 / 8 / count) + 1 / side / 4  # pixels are not points
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert boxes[:, y, x].mean() == pytest.approx(1 / 8, abs=tolerance)
    assert boxes[:, side // 2, side // 2].mean() == pytest.approx(1 / 2, abs=0.03)
    # (sqrt(a) - a / 4)^2 remains on average of a box of share a; over all a, 1/2 - 1/5 + 1/48
    assert boxes.mean() == pytest.approx(0.3208, abs=0.015)


def test_the_share_reaches_from_nothing_to_the_whole_image() -> None:
    whole = masks_of(4000, 16, seed=2).mean((1, 2))
    assert whole.min() < 0.02
    assert whole.max() > 0.98


def test_masks_follow_the_seed_and_differ_within_a_batch() -> None:
    first = masks_of(6, 32, seed=3)
    assert np.array_equal(first, masks_of(6, 32, seed=3))
    assert not np.array_equal(first, masks_of(6, 32, seed=4))
    assert len({mask.tobytes() for mask in first}) == 6
