"""Warm-up, rounds in turn, ratios."""

from __future__ import annotations

from collections.abc import Callable

from srtool.benchmarks.speed.rounds import interleaved, ratios, rotated, warm_up
from srtool.errors import EngineError


def times(*seconds: float) -> Callable[[], float]:
    """A run that takes these, one after the other, the last for ever."""
    left = list(seconds)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_warm_up_ends_when_three_runs_agree() -> None:
    assert warm_up(times(9.0, 2.0, 1.0, 1.04, 1.02, 1.0), 1000) == 5
    assert warm_up(times(1.0), 1000) == 3


def test_warm_up_never_takes_more_than_half_the_budget_after_its_first_run() -> None:
    assert warm_up(times(50.0, 4.0, 2.0, 4.0, 2.0, 4.0), 10) == 3
    assert warm_up(times(50.0), 10) == 2


def test_warm_up_that_never_becomes_stable_ends() -> None:
    assert warm_up(times(*([1.0, 2.0] * 20)), 1e9) == 12


def test_warm_up_lasts_as_long_as_sensors_need() -> None:
    assert warm_up(times(0.1), 1000, least=2.05) == 21


def test_sides_run_in_turn_and_each_round_begins_with_another() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> Callable[[], float]:
        def run() -> float:
            order.append(name)
            return seconds

        return run

    sides = {"a": side("a", 1.0), "b": side("b", 2.0), "c": side("c", 3.0)}
    seconds, failed = interleaved(sides, 9.0)
    assert "".join(order) == "abcbcacababcbca"
    assert seconds == {"a": (1.0,) * 5, "b": (2.0,) * 5, "c": (3.0,) * 5}
    assert not failed


def test_at_least_so_many_rounds() -> None:
    seconds, _ = interleaved({"a": times(100.0)}, 1.0)
    assert seconds == {"a": (100.0,) * 5}
    seconds, _ = interleaved({"a": times(100.0)}, 1.0, fewest=2)
    assert seconds == {"a": (100.0,) * 2}


def test_a_side_that_fails_is_left_out_and_the_others_go_on() -> None:
    runs = 0

    def failing() -> float:
        nonlocal runs
        runs += 1
        if runs == 2:
            raise EngineError("out of memory")
        return 1.0

    seconds, failed = interleaved({"a": failing, "b": times(1.0)}, 2.5)
    assert failed == {"a": "out of memory"}
    assert list(seconds) == ["b"]
    assert len(seconds["b"]) >= 5


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([1.0, 2.0], [3.0, 3.0]) == [3.0, 1.5]
    assert ratios([1.0], [3.0, 9.0]) == [3.0]  # one of them was left out later on


def test_rotated() -> None:
    assert rotated(["a", "b", "c"], 4) == ["b", "c", "a"]
    assert rotated([], 3) == []
