"""Two results compared: planted changes are found, noise is not, and machines are kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from srtool.benchmarks.speed.compare import DRAWS, Row, compare, ratio_of, speeds
from srtool.benchmarks.speed.result import Machine, Timing
from srtool.errors import UsageError

REFERENCE = "PyTorch eager fp32"


def noisy(seed: int, runs: int, spread: float, seconds: float = 1.0) -> list[float]:
    rng = np.random.default_rng(seed)
    values: list[float] = (seconds * np.exp(spread * rng.standard_normal(runs))).tolist()
    return values


def timing(seconds: Sequence[float]) -> Timing:
    return Timing(size=(64, 64), seconds=tuple(seconds), warm_up=0)


def row_of(comparison: Any, candidate: str) -> Row:
    rows: list[Row] = [row for row in comparison.rows if row.candidate == candidate]
    assert len(rows) == 1
    return rows[0]


# The noise


def test_constant_runs_give_the_ratio_of_medians_and_no_interval() -> None:
    found = ratio_of(speeds(timing([0.2] * 6), None, 0), speeds(timing([0.1] * 6), None, 1))
    assert (found.median, found.low, found.high) == pytest.approx((2, 2, 2))


def test_against_a_reference_what_slows_both_at_once_cancels() -> None:
    base = noisy(0, 20, 0.5)
    engine = [seconds / 4 for seconds in base]
    found = speeds(timing(engine), timing(base), 0)
    assert len(found) == DRAWS + 1
    assert found == pytest.approx(np.full(DRAWS + 1, 4.0))


def test_with_more_runs_of_the_reference_medians_are_divided() -> None:
    found = speeds(timing([0.1, 0.2, 0.3]), timing([0.5, 1.0, 2.0, 3.0]), 0)
    assert found[0] == pytest.approx(1.5 / 0.2)


def test_the_interval_is_that_of_all_resamples() -> None:
    """Of two runs, (1, 3): the median of a resample is 1, 2 or 3, with shares 1/4, 1/2, 1/4."""
    found = 1 / speeds(timing([1.0, 3.0]), None, 0)[1:]
    shares = [np.mean(np.isclose(found, value)) for value in (1, 2, 3)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_the_interval_narrows_with_the_runs() -> None:
    found = speeds(timing(noisy(1, 1000, 0.1)), None, 0)
    assert len(found) == DRAWS + 1
    assert np.std(1 / found[1:]) == pytest.approx(1.2533 * 0.1 / 1000**0.5, rel=0.2)


def test_processes_are_drawn_before_their_runs() -> None:
    """Two of three processes were fast: any of the two speeds may be the true one."""
    seconds = [1.0] * 10 + [2.0] * 10 + [1.0] * 10
    alike = 1 / speeds(timing(seconds), None, 0)[1:]
    assert np.mean(alike == 1) > 0.95
    apart = timing(seconds).model_copy(update={"rounds": (10, 10, 10)})
    found = 1 / speeds(apart, None, 0)
    assert found[0] == 1
    # Two or three draws of the slow one: 3 * (1/3)^2 * 2/3 + (1/3)^3 = 7/27
    assert np.mean(found[1:] == 2) == pytest.approx(7 / 27, abs=0.04)
    base = timing([4 * value for value in seconds]).model_copy(update={"rounds": (10, 10, 10)})
    assert speeds(apart, base, 0) == pytest.approx(np.full(DRAWS + 1, 4.0))


@pytest.mark.parametrize(("runs", "spread"), [(5, 0.1), (20, 0.1)])
def test_noise_alone_raises_few_alarms(runs: int, spread: float, make_bench: Any) -> None:
    alarms, seeds = 0, 40
    for seed in range(seeds):
        before, after = (
            make_bench({"engine": noisy(2 * seed + at, runs, spread)}) for at in range(2)
        )
        alarms += row_of(compare(before, after), "engine").verdict != "same"
    assert alarms / seeds <= 0.05


def test_a_planted_slowdown_of_a_tenth_is_found(make_bench: Any) -> None:
    found = 0
    for seed in range(20):
        before = make_bench({"engine": noisy(2 * seed, 30, 0.04)})
        after = make_bench({"engine": noisy(2 * seed + 1, 30, 0.04, 1.1)})
        found += row_of(compare(before, after), "engine").verdict == "slower"
        assert row_of(compare(after, before), "engine").verdict != "slower"
    assert found >= 19


def test_the_reference_finds_it_where_the_machine_is_restless(make_bench: Any) -> None:
    """What slows all of a round alike is ten times as large as what is planted."""
    found = 0
    for seed in range(20):
        made = []
        for at, seconds in ((0, 1.0), (1, 1.1)):
            restless = np.array(noisy(6 * seed + at, 30, 1.0))
            engine = restless * noisy(6 * seed + at + 2, 30, 0.03, seconds)
            reference = restless * noisy(6 * seed + at + 4, 30, 0.03, 3.0)
            made.append(make_bench({REFERENCE: reference.tolist(), "engine": engine.tolist()}))
        found += row_of(compare(*made), "engine").verdict == "slower"
    assert found >= 19


# Verdicts


def test_figures_by_hand(make_bench: Any) -> None:
    before = make_bench({REFERENCE: [0.4] * 5, "engine": [0.2] * 5})
    after = make_bench({REFERENCE: [0.5] * 5, "engine": [0.2] * 5})
    comparison = compare(before, after)
    row = row_of(comparison, "engine")
    assert row.ratio.median == pytest.approx(1.25)  # 2x before, 2.5x now
    assert (row.relative, row.verdict, row.runs) == (True, "faster", (5, 5))
    assert row.place == "64x64 x1"
    reference = row_of(comparison, REFERENCE)
    assert (reference.verdict, reference.relative) == ("no verdict", False)
    assert reference.ratio.median == pytest.approx(0.8)  # the machine is in another state
    assert comparison.regressions == []


def test_drift_of_the_machine_is_no_regression(make_bench: Any) -> None:
    before = make_bench({REFERENCE: [0.4] * 5, "engine": [0.2] * 5})
    after = make_bench({REFERENCE: [0.8] * 5, "engine": [0.4] * 5})
    comparison = compare(before, after)
    assert row_of(comparison, "engine").verdict == "same"
    assert comparison.regressions == []


@pytest.mark.parametrize(
    ("seconds", "tolerance", "verdict"),
    [
        (1.02, 0.03, "same"),
        (1.05, 0.03, "slower"),
        (1.05, 0.10, "same"),
        (0.98, 0.03, "same"),
        (0.95, 0.03, "faster"),
    ],
)
def test_only_what_leaves_the_tolerance_is_a_change(
    make_bench: Any, seconds: float, tolerance: float, verdict: str
) -> None:
    before, after = make_bench({"engine": [1.0] * 5}), make_bench({"engine": [seconds] * 5})
    assert row_of(compare(before, after, tolerance), "engine").verdict == verdict


def test_fewer_than_five_runs_get_no_verdict(make_bench: Any) -> None:
    few, many = make_bench({"engine": [1.0] * 4}), make_bench({"engine": [2.0] * 50})
    for pair in ((few, many), (many, few)):
        assert row_of(compare(*pair), "engine").verdict == "too few runs"
    assert compare(few, many).regressions == []


def test_on_another_machine_only_relative_speeds_count(make_bench: Any, machine: Machine) -> None:
    other = machine.model_copy(update={"cpu": "Other CPU"})
    before = make_bench({REFERENCE: [0.4] * 5, "engine": [0.2] * 5})
    after = make_bench({REFERENCE: [0.1] * 5, "engine": [0.1] * 5}, machine=other)
    comparison = compare(before, after)
    assert not comparison.same_machine
    row = row_of(comparison, "engine")
    assert (row.relative, row.verdict) == (True, "slower")  # 2x before, 1x now
    assert row.ratio.median == pytest.approx(0.5)
    assert comparison.regressions == [row]
    assert any("machines differ" in note for note in comparison.notes)


@pytest.mark.parametrize(
    "seconds", [{"engine": [2.0] * 5}, {REFERENCE: [1.0] * 5, "engine": [2.0] * 5}]
)
def test_without_a_common_reference_on_another_machine_there_is_no_verdict(
    make_bench: Any, machine: Machine, seconds: dict[str, list[float]]
) -> None:
    other = machine.model_copy(update={"cores": 1})
    comparison = compare(make_bench({"engine": [1.0] * 5}), make_bench(seconds, machine=other))
    row = row_of(comparison, "engine")
    assert (row.relative, row.verdict) == (False, "no verdict")
    assert any("nothing is judged" in note for note in comparison.notes)


def test_a_reference_of_another_version_is_none(make_bench: Any) -> None:
    before = make_bench({REFERENCE: [0.4] * 5, "engine": [0.2] * 5})
    after = make_bench({REFERENCE: [0.2] * 5, "engine": [0.2] * 5})
    network = after.networks[0]
    candidates = tuple(
        it.model_copy(update={"software": "torch 3"}) if it.name == REFERENCE else it
        for it in network.candidates
    )
    changed = network.model_copy(update={"candidates": candidates})
    comparison = compare(before, after.model_copy(update={"networks": (changed,)}))
    engine = row_of(comparison, "engine")
    assert (engine.verdict, engine.relative) == ("same", False)
    assert row_of(comparison, REFERENCE).verdict == "faster"
    assert any("no reference in common" in note for note in comparison.notes)


# What else is compared


def test_memory_that_grew_by_more_than_a_tenth_is_a_regression(
    make_bench: Any, machine: Machine
) -> None:
    before = make_bench({"engine": [1.0] * 5}, timing={"peak_memory": 1000})
    for memory, flagged in ((1100, False), (1101, True), (500, False)):
        after = make_bench({"engine": [1.0] * 5}, timing={"peak_memory": memory})
        comparison = compare(before, after)
        row = row_of(comparison, "engine")
        assert row.more_memory == pytest.approx(memory / 1000)
        assert comparison.regressions == ([row] if flagged else [])
    other = machine.model_copy(update={"gpu": "RTX 4090"})
    after = make_bench({"engine": [1.0] * 5}, timing={"peak_memory": 9000}, machine=other)
    assert compare(before, after).regressions == []


def test_what_only_one_has_is_listed(make_bench: Any) -> None:
    before = make_bench({"engine": [1.0] * 5, "gone": [1.0] * 5})
    after = make_bench({"engine": [1.0] * 5, "new": [1.0] * 5})
    assert compare(before, after).missing == (
        "only in the earlier: tiny, gone, 64x64 x1",
        "only in the later: tiny, new, 64x64 x1",
    )


def test_another_network_or_precision_of_the_same_name_is_noted(make_bench: Any) -> None:
    before = make_bench({"engine": [1.0] * 5})
    after = make_bench(
        {"engine": [1.0] * 5}, candidate={"precision": "bf16"}, measured={"flops": 2e6}, busy=1.9
    )
    notes = " / ".join(compare(before, after).notes)
    for word in ("engine computes in bf16 now", "tiny is another network", "others used 1.9 cores"):
        assert word in notes


def test_no_common_network_is_one_line(make_bench: Any, complains: Any) -> None:
    before, after = make_bench({"a": [1.0]}), make_bench({"a": [1.0]}, measured={"network": "b"})
    with complains(UsageError, "nothing to compare", "tiny", "b"):
        compare(before, after)
