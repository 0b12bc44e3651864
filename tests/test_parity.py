"""Grades and gates: the one place that says what is good enough."""

from __future__ import annotations

from typing import Any

import pytest

from srtool.parity import EXACT, EXPORTED, FAITHFUL, Fidelity, Gates


def fidelity(**changes: Any) -> Fidelity:
    exact = Fidelity(
        images=4,
        max_difference=1,
        mean_difference=0.0,
        share_different=1e-4,
        share_over_1=0.0,
        psnr_between=90.0,
        delta_psnr=0.0,
        worst_delta_psnr=0.0,
    )
    return exact.model_copy(update=changes)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({}, "exact"),
        ({"max_difference": 0, "share_different": 0.0, "psnr_between": None}, "exact"),
        ({"max_difference": 2}, "faithful"),
        ({"share_different": 1.1e-4}, "faithful"),
        ({"max_difference": 9, "psnr_between": 50.0, "delta_psnr": -0.02}, "faithful"),
        ({"max_difference": 9, "psnr_between": 50.0, "delta_psnr": None}, "faithful"),
        ({"max_difference": 2, "psnr_between": 49.99}, "lossy"),
        ({"max_difference": 2, "delta_psnr": -0.0201}, "lossy"),
        ({"max_difference": 2, "delta_psnr": 0.0201}, "lossy"),
        ({"max_difference": 2, "delta_psnr": NAN}, "lossy"),
        ({"max_difference": 2, "delta_psnr": INF}, "lossy"),
        ({"max_difference": 2, "psnr_between": NAN}, "lossy"),
        ({"max_difference": 2, "deltas": {"pi": 0.01}}, "faithful"),
        ({"max_difference": 2, "deltas": {"pi": -0.0101}}, "lossy"),
        ({"max_difference": 2, "relative_niqe": -0.02}, "faithful"),
        ({"max_difference": 2, "relative_niqe": -0.0201}, "lossy"),
        ({"max_difference": 2, "relative_niqe": 0.0201}, "lossy"),
        ({"max_difference": 2, "relative_niqe": 0.03, "deltas": {"pi": 0.0}}, "faithful"),
    ],
)
def test_grades(changes: dict[str, Any], grade: str) -> None:
    found = fidelity(**changes)
    assert found.grade == grade
    assert found.passed is (grade != "lossy")


@pytest.mark.parametrize(
    ("gates", "changes", "missed"),
    [
        (FAITHFUL, {"psnr_between": 49.9}, ["dB between"]),
        (FAITHFUL, {"delta_psnr": -0.021}, ["delta PSNR"]),
        (FAITHFUL, {"deltas": {"pi": -0.011}, "psnr_between": 9.0}, ["dB between", "delta PI"]),
        (FAITHFUL, {"relative_niqe": 0.5}, ["relative NIQE"]),
        (EXACT, {"max_difference": 2, "share_different": 0.1}, ["up to 2 levels", "share 0.1"]),
        (EXACT, {"delta_psnr": 9.0, "psnr_between": 1.0}, []),
        (EXPORTED["fp32"], {"share_different": 1.1e-4}, ["share"]),
        (EXPORTED["fp16"], {"max_difference": 2, "psnr_between": 55.0}, []),
        (EXPORTED["fp16"], {"max_difference": 3}, ["up to 3 levels"]),
        (EXPORTED["fp16"], {"psnr_between": 54.9}, ["expected at least 55"]),
        (EXPORTED["fp16"], {"delta_psnr": 0.03}, ["delta PSNR"]),
    ],
)
def test_gates_that_are_not_kept_are_named(
    gates: Gates, changes: dict[str, Any], missed: list[str]
) -> None:
    lines = fidelity(**changes).misses(gates)
    assert [word in line for word, line in zip(missed, lines, strict=True)] == [True] * len(missed)


def test_gates_that_are_not_the_default_ones_decide_what_passes_but_not_the_grade() -> None:
    near = {"max_difference": 2, "psnr_between": 55.0}
    loose, strict = Gates(min_psnr=30.0), Gates(min_psnr=60.0)
    assert [fidelity(gates=gates, **near).passed for gates in (loose, strict)] == [True, False]
    assert fidelity(gates=strict, **near).grade == "faithful"
    lossy = fidelity(gates=loose, max_difference=2, psnr_between=40.0)
    assert (lossy.passed, lossy.grade) == (True, "lossy")


def test_what_has_a_gate_and_was_not_measured_is_said() -> None:
    assert fidelity().not_measured == ["pi", "niqe"]
    assert fidelity(deltas={"niqe": 0.1}).not_measured == ["pi"]
    written = fidelity(deltas={"niqe": 0.1, "pi": 0.0}).model_dump_json()
    assert '"not_measured":[]' in written
    assert Fidelity.model_validate_json(written).not_measured == []
