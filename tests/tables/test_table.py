"""How figures are written, and what a table leaves out."""

from __future__ import annotations

import pytest

from srtool.tables.table import (
    EMPTY,
    Cell,
    Group,
    Table,
    best_of,
    count,
    date_text,
    figure,
    table_of_texts,
    times,
)


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


def test_words() -> None:
    assert [count(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert times(3.3, 3.0, 3.6) == Cell("3.30×", note="3.00 to 3.60")
    assert times(None) == Cell(EMPTY)


def test_the_best_of_a_row() -> None:
    assert best_of(["30.1", "n/a", "29.2", "30.1"], lower=False) == [True, False, False, True]
    assert best_of(["30.1", "∞"], lower=False) == [False, True]
    assert best_of(["3.1", "2.9"], lower=True) == [False, True]
    assert best_of(["−3.1", "2.9"], lower=True) == [True, False]
    assert best_of(["3.1", EMPTY], lower=True) == [False, False]  # nothing to compare with


def test_columns_without_figures() -> None:
    rows = ((Cell("a"), Cell(EMPTY), Cell("1")), (Cell("b"), Cell(EMPTY), Cell(EMPTY)))
    table = Table("", ("name", "x", "y"), (Group("", rows),)).without_empty_columns()
    assert table.columns == ("name", "y")
    assert [cell.text for cell in table.rows[1]] == ["b", EMPTY]
    whole = table_of_texts(("a", "b"), [("1", "2")])
    assert whole.without_empty_columns() is whole
