"""Figures of the tables, and which of them are marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.quality import best_of, parity_table, quality_table
from srtool.benchmarks.report.tables import EMPTY, Cell, Group, Table, date_text, figure
from srtool.benchmarks.report.timings import timing_table
from srtool.benchmarks.speed.result import Measured


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, EMPTY),
        (0.0, "0"),
        (float("inf"), "∞"),
        (1.0, "1.00"),
        (9.996, "10.0"),
        (0.00099962, "0.00100"),
        (-0.0123456, "−0.0123"),
        (93912.4, "93\u202f900"),
        (999.9, "1\u202f000"),
    ],
)
def test_significant_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_dates() -> None:
    assert date_text("2026-11-23T18:00:00+02:00") == "2026-11-23 16:00 UTC"
    assert date_text("yesterday") == "yesterday"


def test_the_best_of_a_row() -> None:
    assert best_of(["30.1", "n/a", "29.2", "30.1"], lower=False) == [True, False, False, True]
    assert best_of(["30.1", "∞"], lower=False) == [False, True]
    assert best_of(["3.1", "2.9"], lower=True) == [False, True]
    assert best_of(["3.1", EMPTY], lower=True) == [False, False]  # nothing to compare with


def row(table: Table, group: int, start: str) -> list[Cell]:
    (found,) = [r for r in table.groups[group].rows if r[0].text.startswith(start)]
    return list(found)


def test_the_layout_of_table_1(evaluation_of: Callable[..., Evaluation]) -> None:
    table = quality_table("evaluated", evaluation_of())
    assert table.columns[:4] == ("metric", "bicubic", "lite", "other")
    assert table.columns[4:] == ("Bicubic", "SRGAN", "SFTGAN", "ESRGAN", "USRGAN", "Ours")
    assert [group.title for group in table.groups] == ["Set5, 5 images"]
    psnr = row(table, 0, "PSNR")
    assert [cell.text for cell in psnr[:5]] == [
        "PSNR\u00a0↑",
        "28.400",
        "30.123",
        "29.500",
        "28.420",
    ]
    assert [cell.best for cell in psnr] == [False, False, True, False] + [False] * 4 + [True, False]
    niqe = row(table, 0, "NIQE")
    assert [cell.text for cell in niqe[1:5]] == ["7.5200", "6.0100", "∞", EMPTY]
    assert [cell.best for cell in niqe[1:4]] == [False, True, False]
    assert [cell.text for cell in row(table, 0, "PI")[1:5]] == ["n/a"] * 3 + ["7.3699"]


def test_a_mean_over_fewer_images(evaluation_of: Callable[..., Evaluation]) -> None:
    found = evaluation_of()
    found.counts["Set5"]["lite"]["psnr"] = 3
    assert [cell.note for cell in row(quality_table("x", found), 0, "PSNR")[:4]] == [
        "", "", "of 3", ""]  # fmt: skip


def test_a_data_set_that_the_paper_has_not(evaluation_of: Callable[..., Evaluation]) -> None:
    found = evaluation_of()
    for content in (found.datasets, found.mean, found.counts):
        content["mine"] = content.pop("Set5")  # type: ignore[attr-defined]
    table = quality_table("x", found)
    assert table.columns == ("metric", "bicubic", "lite", "other")
    assert table.spans == ()


def test_parity(parity: Any) -> None:
    table = parity_table("parity.json", parity)
    good, bad = table.groups[0].rows
    texts = dict(zip(table.columns, [cell.text for cell in good], strict=True))
    assert texts["verdict"] == "passes"
    assert texts["PSNR, dB"] == "95.25"
    assert texts["ΔPSNR-Y, dB"] == "+0.0001"
    assert "ΔPI" not in texts  # was not taken
    assert [cell.text for cell in bad[2:4]] == ["fails: no GPU", EMPTY]


def test_timings(network: Measured) -> None:
    table = timing_table(network)
    assert [group.title for group in table.groups] == ["128×128", "256×256", "480×270", "960×540"]
    assert "W" not in table.columns  # nothing has a power
    first = {cells[0].text: cells for cells in table.groups[0].rows}
    column = table.columns.index("p50, ms")
    side = network.side("openvino bf16")
    assert side is not None
    assert first["openvino bf16"][column].text == figure(1e3 * side.timings[0].p50)
    assert [name for name, cells in first.items() if cells[column].best] == ["openvino bf16"]
    assert "ncnn" not in [cells[0].text for cells in table.groups[3].rows]


def test_columns_without_figures() -> None:
    rows = ((Cell("a"), Cell(EMPTY), Cell("1")), (Cell("b"), Cell(EMPTY), Cell(EMPTY)))
    table = Table("", ("name", "x", "y"), (Group("", rows),)).without_empty_columns()
    assert table.columns == ("name", "y")
    assert [cell.text for cell in table.groups[0].rows[1]] == ["b", EMPTY]
