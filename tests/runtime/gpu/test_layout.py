"""What fits into a GPU's memory, and what is given up first when it does not."""

from __future__ import annotations

import pytest

from srtool.manifest import ModelFacts, Profile, Shape
from srtool.runtime.gpu.layout import (
    Layout,
    buffer_bytes,
    fitting,
    layouts_from_profiles,
    shape_in,
)

FACTS = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="", halo=16)
PROFILE = Profile(min=(1, 16, 16), opt=(4, 256, 192), max=(8, 512, 512))


def described(layout: Layout | None) -> tuple[int, int, int, int] | None:
    return layout and (*layout.shape, layout.slots)


def test_it_gives_up_the_batch_then_the_tile_then_the_lanes() -> None:
    layout: Layout | None = Layout(5, 100, 64, 3, least=(20, 30))
    steps = []
    while layout is not None:
        steps.append(described(layout))
        layout = layout.smaller()
    assert steps == [
        (5, 100, 64, 3),
        (2, 100, 64, 3),
        (1, 100, 64, 3),
        (1, 50, 32, 3),
        (1, 25, 30, 3),
        (1, 20, 30, 3),
        (1, 20, 30, 1),
    ]


def test_batches_that_the_network_does_not_take_and_sides_that_it_must_have() -> None:
    layout = Layout(4, 72, 40, 1, least=(16, 16), least_batch=2, step=8)
    half = layout.smaller()
    assert described(half) == (2, 72, 40, 1)
    assert half is not None
    assert described(half.smaller()) == (2, 32, 16, 1)


def test_what_the_profiles_were_tuned_for_the_largest_first() -> None:
    small = Profile(min=(1, 8, 8), opt=(2, 64, 64), max=(2, 64, 64))
    found = layouts_from_profiles([small, PROFILE], FACTS)
    assert [layout.shape for layout in found] == [(4, 256, 192), (2, 64, 64)]
    assert found[0].least == (48, 48)  # three halos


@pytest.mark.parametrize(
    ("side", "shapes"),
    [(128, [(8, 128, 128)]), (192, [(5, 192, 192)]), (512, [(1, 512, 512)]), (513, []), (8, [])],
)
def test_the_side_that_the_user_wants(side: int, shapes: list[Shape]) -> None:
    found = layouts_from_profiles([PROFILE], FACTS, side)
    assert [layout.shape for layout in found] == shapes


@pytest.mark.parametrize(
    ("sides", "shape"),
    [
        ((256, 192), (1, 256, 192)),
        ((3, 100), (1, 16, 100)),
        ((512, 512), (1, 512, 512)),
        ((513, 4), None),
    ],
)
def test_shapes_of_a_profile(sides: tuple[int, int], shape: Shape | None) -> None:
    assert shape_in(PROFILE, *sides) == shape


def test_bytes_of_a_batch_and_its_result() -> None:
    assert buffer_bytes((2, 10, 20), FACTS) == 2 * 10 * 20 * 3 * 17
    wide = FACTS.model_copy(update={"io": "float32", "scale": 2})
    assert buffer_bytes((1, 10, 20), wide) == 10 * 20 * 3 * 4 * 5


def scratch(shape: Shape) -> int:
    return 1000 * shape[0] * shape[1] * shape[2]


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (10.0, (4, 256, 192, 3)),
        (3.4, (4, 256, 192, 3)),
        (2.3, (4, 256, 192, 2)),
        (2.1, (2, 256, 192, 3)),
        (1.2, (2, 256, 192, 2)),
        (0.6, (1, 256, 192, 2)),
        (0.3, (1, 256, 192, 1)),
        (0.1, (1, 128, 96, 1)),
        (0.0, (1, 48, 48, 1)),  # nothing fits: the smallest
    ],
)
def test_what_fits(slots: float, expected: tuple[int, int, int, int]) -> None:
    """Memory counted in slots of the main shape."""
    choices = layouts_from_profiles([PROFILE], FACTS)
    main = choices[0].shape
    free = round(slots * (scratch(main) + buffer_bytes(main, FACTS)))
    assert described(fitting(choices, FACTS, scratch, free)) == expected


def test_where_the_scratch_memory_is_the_same_for_all_a_lane_is_given_up() -> None:
    """TensorRT 8.6 knows what its largest shape takes, and no other."""
    choices = layouts_from_profiles([PROFILE], FACTS)
    found = fitting(choices, FACTS, lambda shape: 1 << 30, round(1.3 * (1 << 30)))
    assert described(found) == (4, 256, 192, 1)


def test_a_smaller_profile_is_the_next_best() -> None:
    small = Profile(min=(1, 8, 8), opt=(3, 64, 64), max=(3, 64, 64))
    choices = layouts_from_profiles([PROFILE, small], FACTS)
    free = round(3 * 1.2 * scratch((3, 64, 64)))
    assert described(fitting(choices, FACTS, scratch, free)) == (3, 64, 64, 3)
