"""The figures of the README come out of the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from readme import RESULTS, TABLES, quality, with_figures

from srtool.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "file",
    ["README.md", "weights/README.md", "docs/benchmarks.md", "docs/deploy.md", "docs/research.md"],
)
def test_the_figures_are_those_of_the_results(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "<!-- figures: " in text
    assert with_figures(text) == text, "run `make readme`"


def test_blocks_are_replaced_and_nothing_else() -> None:
    text = "before\n<!-- figures: quality -->\nold\n<!-- end of figures -->\nafter\n"
    made = with_figures(text)
    assert made.startswith("before\n<!-- figures: quality -->\n| | engine | PSNR")
    assert made.endswith("|\n<!-- end of figures -->\nafter\n")
    assert "old" not in made
    assert with_figures(made) == made


def test_an_unknown_block_is_named() -> None:
    with pytest.raises(DataError, match="figures: beauty: expected one of quality"):
        with_figures("<!-- figures: beauty -->\n<!-- end of figures -->")


def test_quality_is_read_from_the_evaluation() -> None:
    rows = [line for line in quality(RESULTS).splitlines() if "| bicubic |" in line]
    assert [row.split(" | ")[2:4] for row in rows] == [["28.418", "0.8244"], ["26.087", "0.7845"]]


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_all_columns(name: str) -> None:
    lines = TABLES[name](RESULTS).splitlines()
    assert lines
    if lines[0].startswith("|"):
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
        assert len(lines) > 3
