"""The mixture of augmentations: pixels by hand, distributions of the draws, settings refused."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from srtool.train.data.augment import (
    KINDS,
    Box,
    Kind,
    Mixing,
    Mixture,
    forced,
    mixing_from_random,
)

ALL: tuple[Kind, ...] = ("none", *KINDS)


def gray(*rows: list[int]) -> NDArray[np.uint8]:
    """An image (h, w, 3) whose channels are the rows, 1 more in green, 2 more in blue."""
    return (np.array(rows)[..., None] + np.arange(3)).astype(np.uint8)


LR = gray([10, 10, 20], [10, 10, 20], [30, 30, 40])
HR = gray([50, 60, 70], [80, 90, 100], [110, 120, 130])
PARTNER_LR = gray([200, 200, 210], [200, 200, 210], [220, 220, 230])
PARTNER_HR = gray([150, 160, 170], [180, 190, 199], [210, 220, 230])
CENTRE = Box(1, 1, 1)


def applied(mixing: Mixing, index: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return mixing.apply(index, LR, HR, PARTNER_LR, PARTNER_HR)


def draws(config: Mixture, count: int, batch: int = 4, patch: int = 40) -> list[Mixing]:
    random = np.random.default_rng(7)
    return [mixing_from_random(config, random, batch, patch) for _ in range(count)]


def close(observed: int, count: int, probability: float) -> bool:
    """Whether `observed` of `count` lies within four standard deviations of a binomial."""
    spread = sqrt(count * probability * (1 - probability))
    return abs(observed - count * probability) <= 4 * spread


def test_none_gives_equal_copies() -> None:
    lr, hr = applied(Mixing("none", (0,)))
    assert np.array_equal(lr, LR)
    assert np.array_equal(hr, HR)
    assert not np.shares_memory(lr, LR)
    assert not np.shares_memory(hr, HR)


def test_blend_fades_both_towards_the_colour_of_the_sample() -> None:
    mixing = Mixing("blend", (0, 1), weight=0.75, colours=((0, 0, 0), (255, 100, 2.5)))
    lr, hr = applied(mixing, index=1)
    # 0.75 x 10 + 63.75, 0.75 x 11 + 25, 0.75 x 12 + 0.625
    assert lr[0, 0].tolist() == [71, 33, 10]
    # 0.75 x 130 + 63.75, 0.75 x 131 + 25, 0.75 x 132 + 0.625
    assert hr[2, 2].tolist() == [161, 123, 100]
    assert applied(mixing, index=0)[0][0, 2].tolist() == [15, 16, 16]  # 15, 15.75, 16.5


def test_rgb_exchanges_the_channels_of_both() -> None:
    lr, hr = applied(Mixing("rgb", (0,), channels=(2, 0, 1)))
    assert lr[0, 0].tolist() == [12, 10, 11]
    assert hr[1, 2].tolist() == [102, 100, 101]
    assert np.array_equal(lr[..., 1], LR[..., 0])


def test_cutout_blackens_pixels_of_lr_alone() -> None:
    lr, hr = applied(Mixing("cutout", (0, 1), dropped=((0,), (1, 5))), index=1)
    black = np.zeros((3, 3), bool)
    black[0, 1] = black[1, 2] = True
    assert np.all(lr[black] == 0)
    assert np.array_equal(lr[~black], LR[~black])
    assert np.array_equal(hr, HR)


def test_cutout_drops_from_turned_views_too() -> None:
    turned = np.rot90(LR)
    lr, _ = Mixing("cutout", (0,), dropped=((2,),)).apply(0, turned, HR, turned, HR)
    assert lr[0, 2].tolist() == [0, 0, 0]
    assert np.array_equal(lr[1:], turned[1:])
    assert np.array_equal(lr[0, :2], turned[0, :2])


def test_mixup_averages_both_with_the_partner() -> None:
    lr, hr = applied(Mixing("mixup", (1, 0), weight=0.7))
    assert lr[0, 0].tolist() == [67, 68, 69]  # 0.7 x 10 + 0.3 x 200
    assert hr[1, 2].tolist() == [130, 131, 132]  # 129.7: rounded, not cut off
    assert hr[0, 0].tolist() == [80, 81, 82]


def test_cutmix_takes_the_same_box_of_the_partner() -> None:
    box = Box(top=0, left=1, side=2)
    lr, hr = applied(Mixing("cutmix", (1, 0), box=box))
    assert lr[..., 0].tolist() == [[10, 200, 210], [10, 200, 210], [30, 30, 40]]
    assert hr[..., 0].tolist() == [[50, 160, 170], [80, 190, 199], [110, 120, 130]]


def test_cutmixup_averages_inside_the_box_or_outside() -> None:
    mixing = Mixing("cutmixup", (1, 0), weight=0.5, box=CENTRE)
    lr, hr = applied(mixing)
    assert lr[..., 0].tolist() == [[10, 10, 20], [10, 105, 20], [30, 30, 40]]
    assert hr[..., 0].tolist() == [[50, 60, 70], [80, 140, 100], [110, 120, 130]]
    lr, hr = applied(Mixing("cutmixup", (1, 0), weight=0.5, box=CENTRE, inside=False))
    assert lr[..., 0].tolist() == [[105, 105, 115], [105, 10, 115], [125, 125, 135]]
    assert hr[..., 0].tolist() == [[100, 110, 120], [130, 90, 150], [160, 170, 180]]


def test_cutblur_pastes_hr_into_lr_or_lr_into_hr_and_keeps_the_target() -> None:
    lr, hr = applied(Mixing("cutblur", (0,), box=CENTRE))
    assert lr[..., 0].tolist() == [[10, 10, 20], [10, 90, 20], [30, 30, 40]]
    assert np.array_equal(hr, HR)
    lr, hr = applied(Mixing("cutblur", (0,), box=CENTRE, inside=False))
    assert lr[..., 0].tolist() == [[50, 60, 70], [80, 10, 100], [110, 120, 130]]
    assert np.array_equal(hr, HR)


@pytest.mark.parametrize("kind", ALL)
def test_inputs_are_untouched_and_outputs_new(kind: Kind) -> None:
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    before = batch.copy()
    batch.flags.writeable = False
    for mixing in draws(forced(Mixture(), kind), 20, patch=16):
        for index in range(4):
            partner = mixing.partners[index]
            out = mixing.apply(
                index, batch[0, index], batch[1, index], batch[0, partner], batch[1, partner]
            )
            for image in out:
                assert image.dtype == np.uint8
                assert image.shape == (16, 16, 3)
                assert not np.shares_memory(image, batch)
                image[:] = 0  # new and writable
    assert np.array_equal(batch, before)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("level", [0, 255])
def test_averages_stay_between_black_and_white(kind: Kind, level: int) -> None:
    """Equal black or white images stay so under every kind that mixes pixels of them alone."""
    flat = np.full((16, 16, 3), level, np.uint8)
    for mixing in draws(forced(Mixture(), kind), 20, patch=16):
        lr, hr = mixing.apply(0, flat, flat, flat, flat)
        if kind == "blend":  # at least 0.6 of the image is kept
            assert abs(lr.astype(int) - level).max() <= 102
            assert np.array_equal(lr, hr)
        else:
            assert np.array_equal(hr, flat)
            assert kind == "cutout" or np.array_equal(lr, flat)


def test_a_generator_seed_decides_everything() -> None:
    def sequence(seed: int) -> list[Mixing]:
        random = np.random.default_rng(seed)
        return [mixing_from_random(Mixture(), random, 4, 64) for _ in range(30)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_kinds_are_chosen_evenly_and_always_applied_by_default() -> None:
    count = 2100
    kinds = Counter(mixing.kind for mixing in draws(Mixture(), count))
    assert kinds["none"] == 0
    assert {kind for kind in KINDS if not close(kinds[kind], count, 1 / 7)} == set()


def test_choice_is_a_proportion_and_probability_a_chance_of_its_own() -> None:
    choice = dict.fromkeys(KINDS, 0.0) | {"cutblur": 0.6, "rgb": 0.2}
    config = Mixture.model_validate({"choice": choice, "probability": {"cutblur": 0.5, "rgb": 1}})
    count = 2000
    kinds = Counter(mixing.kind for mixing in draws(config, count))
    assert kinds.keys() == {"none", "cutblur", "rgb"}
    assert close(kinds["rgb"], count, 0.25)
    assert close(kinds["cutblur"], count, 0.375)


def test_one_probability_serves_all_kinds() -> None:
    config = Mixture.model_validate({"probability": 0.2})
    assert config.probability.blend == config.probability.cutblur == 0.2
    count = 1500
    assert close(sum(mixing.kind == "none" for mixing in draws(config, count)), count, 0.8)


@pytest.mark.parametrize("kind", ALL)
def test_forced_makes_one_kind_certain(kind: Kind) -> None:
    config = Mixture.model_validate({"probability": 0.2, "alpha": {"cutmix": 0.3}})
    assert {mixing.kind for mixing in draws(forced(config, kind), 50)} == {kind}
    assert forced(config, kind).alpha == config.alpha


def test_blend_keeps_alpha_at_least_and_gives_each_sample_a_colour() -> None:
    mixings = draws(forced(Mixture(), "blend"), 200)
    weights = [mixing.weight for mixing in mixings]
    assert 0.6 <= min(weights) < 0.62
    assert 0.98 < max(weights) < 1
    colours = np.array([mixing.colours for mixing in mixings])
    assert colours.shape == (200, 4, 3)
    assert 0 <= colours.min() < 1
    assert 254 < colours.max() < 255
    assert len(np.unique(colours)) == colours.size


def test_rgb_draws_every_permutation() -> None:
    orders = Counter(mixing.channels for mixing in draws(forced(Mixture(), "rgb"), 600))
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)}
    assert len(orders) == 6
    assert all(close(seen, 600, 1 / 6) for seen in orders.values())


def test_cutout_drops_pixels_of_every_sample_by_alpha() -> None:
    config = Mixture.model_validate({"alpha": {"cutout": 0.1}})
    mixings = draws(forced(config, "cutout"), 20)
    dropped = [len(sample) for mixing in mixings for sample in mixing.dropped]
    assert len(dropped) == 80
    assert close(sum(dropped), 80 * 40 * 40, 0.1)
    assert len({sample for mixing in mixings for sample in mixing.dropped}) == 80
    assert {pixel for mixing in mixings for sample in mixing.dropped for pixel in sample} == set(
        range(40 * 40)
    )


@pytest.mark.parametrize("kind", ["mixup", "cutmixup"])
def test_shares_follow_a_beta_distribution(kind: Kind) -> None:
    weights = np.array([mixing.weight for mixing in draws(forced(Mixture(), kind), 2000)])
    variance = 1 / (4 * (2 * 1.2 + 1))  # of Beta(1.2, 1.2)
    assert weights.mean() == pytest.approx(0.5, abs=4 * sqrt(variance / 2000))
    assert weights.var() == pytest.approx(variance, rel=0.08)


def test_cutmixup_without_its_mixup_takes_the_partner_itself() -> None:
    config = Mixture.model_validate({"auxiliary": {"probability": 0.3}})
    mixings = draws(forced(config, "cutmixup"), 1000)
    assert close(sum(mixing.weight == 0 for mixing in mixings), 1000, 0.7)


@pytest.mark.parametrize("kind", ["cutmix", "cutmixup", "cutblur"])
def test_boxes_have_the_side_of_alpha_and_stand_anywhere(kind: Kind) -> None:
    patch, mean = 200, 0.7
    boxes = [mixing.box for mixing in draws(forced(Mixture(), kind), 1000, patch=patch)]
    sides = np.array([box.side for box in boxes])
    # The fraction of a pixel is cut off, as published: half a pixel on average.
    assert sides.mean() == pytest.approx(mean * patch - 0.5, abs=0.3)
    assert sides.std() == pytest.approx(0.01 * patch, rel=0.15)
    for starts in ([box.top for box in boxes], [box.left for box in boxes]):
        ends = np.array(starts) + sides
        assert min(starts) == 0
        assert ends.max() == patch
        assert np.mean(starts) == pytest.approx(0.15 * patch, abs=3)
        assert len({start % 4 for start in starts}) == 4
    assert any(box.top != box.left for box in boxes)


def test_boxes_of_the_whole_patch_fit_into_it() -> None:
    config = Mixture.model_validate({"alpha": {"cutmix": 1.0}})
    boxes = [mixing.box for mixing in draws(forced(config, "cutmix"), 100, patch=200)]
    assert max(box.side for box in boxes) == 200
    assert all(0 <= box.top <= 200 - box.side for box in boxes)


@pytest.mark.parametrize("kind", ["cutmixup", "cutblur"])
def test_inside_and_outside_are_even(kind: Kind) -> None:
    mixings = draws(forced(Mixture(), kind), 1000)
    assert close(sum(mixing.inside for mixing in mixings), 1000, 0.5)


def test_partners_are_a_permutation_or_the_sample_itself() -> None:
    for kind in ALL:
        partners = Counter(mixing.partners for mixing in draws(forced(Mixture(), kind), 500))
        if kind in ("mixup", "cutmix", "cutmixup"):
            assert all(sorted(order) == [0, 1, 2, 3] for order in partners)
            assert len(partners) == 24
        else:
            assert partners.keys() == {(0, 1, 2, 3)}


def test_defaults_are_the_published_ones() -> None:
    config = Mixture()
    assert set(config.probability.model_dump().values()) == {1.0}
    assert config.alpha.model_dump() == {
        "blend": 0.6,
        "cutout": 0.001,
        "mixup": 1.2,
        "cutmix": 0.7,
        "cutmixup": 0.7,
        "cutblur": 0.7,
    }
    assert config.auxiliary.model_dump() == {"probability": 1.0, "alpha": 1.2}
    assert Mixture.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"alpha": {"blend": -0.1}}, "alpha.blend"),
        ({"alpha": {"mixup": 0}}, "alpha.mixup"),
        ({"alpha": {"mixup": float("inf")}}, "alpha.mixup"),
        ({"alpha": {"cutblur": 1.1}}, "alpha.cutblur"),
        ({"alpha": {"cutout": 1.0}}, "alpha.cutout"),
        ({"alpha": {"rgb": 1.0}}, "alpha.rgb"),
        ({"probability": {"rgb": 1.5}}, "probability.rgb"),
        ({"probability": 1.5}, "probability.blend"),
        ({"probability": {"rgb": -0.5}}, "probability.rgb"),
        ({"choice": {"cutbulr": 0.5}}, "choice.cutbulr"),
        ({"choice": dict.fromkeys(KINDS, 0)}, "choice"),
        ({"auxiliary": {"alpha": -1}}, "auxiliary.alpha"),
        ({"auxiliary": {"beta": 1}}, "auxiliary.beta"),
        ({"cutblur": 0.7}, "cutblur"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Mixture.model_validate(settings)
    assert ".".join(str(part) for part in caught.value.errors()[0]["loc"]) == place
