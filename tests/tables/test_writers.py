"""One table on a terminal, in Markdown, LaTeX and HTML: the same figures in each."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from srtool.tables.table import EMPTY, Cell, Group, Table, table_of_texts
from srtool.tables.writers import html, latex, markdown, print_table, text_of

TABLE = Table(
    "PSNR & SSIM of <x4> [bold]_a_",
    ("engine", "PSNR\u00a0↑", "speed"),
    (
        Group("Set5", ((Cell("a|b_c"), Cell("31.06", best=True), Cell("3.30×", note="3 to 4")),)),
        Group(
            "Set14",
            (
                (Cell("<script>"), Cell("27.97"), Cell(EMPTY)),
                (Cell("100 % {x}"), Cell("−1.5"), Cell("1")),
            ),
        ),
    ),
    remarks=("Against PyTorch *eager*, 50 %.",),
)


def drawn(table: Table, width: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_table(table, Console(file=buffer, width=width, highlight=False))
    buffer.flush()
    buffer.seek(0)
    return buffer.read()


# The terminal


def test_a_terminal_shows_every_cell_once() -> None:
    out = drawn(TABLE)
    for text in ("Set5", "Set14", "a|b_c", "31.06", "3.30× (3 to 4)", "<script>", "100 % {x}"):
        assert out.count(text) == 1, text
    assert TABLE.caption in out  # marks of rich are not taken for any
    assert TABLE.remarks[0] in out


@pytest.mark.parametrize("width", [30, 40, 60, 100])
def test_columns_that_do_not_fit_stand_below_with_their_words(width: int) -> None:
    columns = ("name", *(f"figure {number}" for number in range(6)))
    rows = [(name, *(f"{name}{number}.000" for number in range(6))) for name in ("a", "b")]
    out = drawn(table_of_texts(columns, rows), width)
    assert max(map(len, out.splitlines())) <= width
    for name, *figures in rows:
        assert [figure for figure in figures if out.count(figure) != 1] == []
        assert len(re.findall(rf"^{name} ", out, re.MULTILINE)) == out.count("name")
    assert (out.count("name") == 1) is (width >= 60)


def test_a_terminal_of_an_old_code_page_gets_plain_signs() -> None:
    out = drawn(TABLE, encoding="ascii")
    assert "3.30x (3 to 4)" in out
    assert "-1.5" in out


# Text


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown() -> None:
    text = markdown(TABLE)
    head, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert cells_of(head) == ["", "engine", "PSNR\u00a0↑", "speed"]
    assert cells_of(rule) == ["---", "---", "---:", "---:"]
    assert [cells_of(row) for row in rows] == [
        ["Set5", r"a\|b_c", "**31.06**", "3.30× (3 to 4)"],
        ["Set14", "&lt;script>", "27.97", ""],
        ["Set14", "100 % {x}", "−1.5", "1"],
    ]
    assert text.endswith(TABLE.remarks[0])


def test_latex() -> None:
    text = latex(TABLE)
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "&" in line]
    assert rows[1:] == [
        r"a|b\_c & \textbf{31.06} & 3.30$\times$ (3 to 4) \\",
        r"<script> & 27.97 &  \\",
        r"100 \% \{x\} & $-$1.5 & 1 \\",
    ]
    assert r"\caption{PSNR \& SSIM of <x4> [bold]\_a\_}" in text
    assert text.count(r"\midrule") == 2
    assert r"\begin{tabular}{lrr}" in text
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_can_be_set(tmp_path: Path) -> None:
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{latex(TABLE)}"
    (tmp_path / "a.tex").write_text(rf"{document}\end{{document}}", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


class _Read(HTMLParser):
    """The texts of cells, row by row, and whether every tag is closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.titles: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.titles.append(dict(attrs).get("data-title"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "tr" in self.open and data.strip():
            self.rows[-1][-1] += data


def test_html_is_whole_and_escaped() -> None:
    read = _Read()
    read.feed(html(TABLE))
    assert read.open == []
    assert read.rows == [
        ["engine", "PSNR\u00a0↑", "speed"],
        ["Set5"],
        ["a|b_c", "31.06", "3.30×3 to 4"],
        ["Set14"],
        ["<script>", "27.97", EMPTY],
        ["100 % {x}", "−1.5", "1"],
    ]
    assert read.titles.count("speed") == 3
    assert 'class="best"' in html(TABLE)


@pytest.mark.parametrize(("form", "writer"), [("md", markdown), ("latex", latex), ("html", html)])
def test_formats_by_name(form: str, writer: Callable[[Table], str]) -> None:
    assert text_of(TABLE, form) == writer(TABLE)  # type: ignore[arg-type]


def test_importing_tables_loads_nothing_heavy() -> None:
    code = (
        "import sys, srtool.tables.writers; "
        "print([name for name in ('rich', 'numpy', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
