"""Tables on a terminal, and as text for documents: Markdown for READMEs, LaTeX for papers, HTML for
the report."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Literal

from srtool.tables.table import EMPTY, Cell, Row, Table

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["md", "latex", "html"]

WIDE = 200  # columns, where the output is no terminal
_FOLDED, _UNFOLDED = 22, 36  # characters that a cell of words takes at least and at most
_GAP = 2
# Signs that old code pages lack.
_PLAIN = str.maketrans(
    {"–": "-", "−": "-", "×": "x", "Δ": "d", "↑": "^", "↓": "v", "∞": "inf", "≥": ">="}
    | dict.fromkeys("\u202f\u00a0", " ")
    | {"\u2011": "-"}
)
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "∞": r"$\infty$",
        "≥": r"$\geq$",
        "±": r"$\pm$",
        "–": "--",
        "\u202f": r"\,",
        "\u00a0": "~",
        "\u2011": "-",
    }
)


def print_table(table: Table, console: Console | None = None) -> None:
    """Draw a table with its caption and remarks. Titles of groups stand in a column of their own;
    the columns of words are repeated where the others need a second table."""
    console = console or this_console()
    if table.caption:
        print_line(table.caption, console)
    table = table.with_titles(repeated=False)
    widths = [_width(table, at) for at in range(len(table.columns))]
    words, figures = list(range(table.words)), list(range(table.words, len(table.columns)))
    room = console.width - sum(widths[at] for at in words)
    parts: list[list[int]] = [[]]
    for at in figures:
        if parts[-1] and sum(widths[other] for other in [*parts[-1], at]) > room:
            parts.append([])
        parts[-1].append(at)
    for number, part in enumerate(parts):
        if number:
            console.print()
        whole = len(parts) == 1
        _draw(table if whole else table.with_columns([*words, *part]), console)
    for remark in table.remarks:
        print_line(remark, console)


def print_line(text: str, console: Console | None = None) -> None:
    """A line that the terminal may break, and a file keeps whole."""
    console = console or this_console()
    console.print(_shown(text, console), markup=False, soft_wrap=True)


def this_console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def _width(table: Table, at: int) -> int:
    """The least that a column takes, with the gap to the next one."""
    texts = [_text(row[at]) for row in table.rows]
    longest = max((len(text) for text in texts), default=0)
    title = table.columns[at]
    if at < table.words:
        return min(max(longest, len(title)), _FOLDED) + _GAP
    return max(longest, *(len(word) for word in title.split(" "))) + _GAP


def _draw(table: Table, console: Console) -> None:
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, padding=(0, _GAP, 0, 0), show_header=any(table.columns))
    for at, title in enumerate(table.columns):
        words = at < table.words
        drawn.add_column(
            Text(_shown(title, console)),
            justify="left" if words else "right",
            no_wrap=False,
            overflow="fold",
            max_width=_UNFOLDED if words else None,
            min_width=None if words else _width(table, at) - _GAP,
        )
    for group in table.groups:
        for row in group.rows:
            drawn.add_row(
                *(
                    Text(_shown(_text(cell), console), style="bold" if cell.best else "")
                    for cell in row
                )
            )
        drawn.add_section()
    console.print(drawn)


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def _shown(text: str, console: Console) -> str:
    encoding = console.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def text_of(table: Table, form: Format) -> str:
    return {"md": markdown, "latex": latex, "html": html}[form](table)


def markdown(table: Table, caption: bool = True) -> str:
    """A pipe table. Titles of groups become a first column, empty cells stay empty."""
    titled = table.with_titles(repeated=True)
    rule = ["---"] * titled.words + ["---:"] * (len(titled.columns) - titled.words)
    rows = (map(_markdown, row) for row in titled.rows)
    lines = [[_markdown(Cell(title)) for title in titled.columns], rule, *rows]
    text = "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines
    )
    before = f"{table.caption}\n\n" if caption and table.caption else ""
    after = "".join(f"\n\n{remark}" for remark in table.remarks) if caption else ""
    return f"{before}{text}{after}"


def _markdown(cell: Cell) -> str:
    text = _noted(cell).replace("\\", "\\\\").replace("|", r"\|").replace("\n", " ")
    text = text.replace("<", "&lt;").replace("*", r"\*")
    return f"**{text}**" if cell.best else text


def _noted(cell: Cell) -> str:
    text = "" if cell.text == EMPTY else cell.text
    return f"{text} ({cell.note})" if cell.note else text


def latex(table: Table) -> str:
    r"""A `tabular` of the package booktabs, in a `table` with its caption."""
    columns = len(table.columns)
    form = "l" * table.words + "r" * (columns - table.words)
    lines = [r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{_escaped(table.caption)}}}"] if table.caption else []
    lines += [rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
    lines += [_latex_row(_escaped(title) for title in table.columns)]
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title:
            lines.append(
                rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{_escaped(group.title)}}}}} \\"
            )
        lines += [_latex_row(map(_latex, row)) for row in group.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\\ {{\footnotesize {_escaped(remark)}}}" for remark in table.remarks]
    return "\n".join([*lines, r"\end{table}"])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(cell: Cell) -> str:
    text = _escaped(_noted(cell))
    return rf"\textbf{{{text}}}" if cell.best else text


def _escaped(text: str) -> str:
    return text.translate(_LATEX)


def html(table: Table) -> str:
    """A <table> in a region that scrolls where it must, its remarks below. Each cell carries the
    title of its column as `data-title`: on a narrow page each row can stand as a list."""
    caption = escape(table.caption)
    titles = "".join(
        f'<th scope="col"{_class(at, table.words, Cell(""))}>{escape(title)}</th>'
        for at, title in enumerate(table.columns)
    )
    bodies = []
    for group in table.groups:
        rows = "\n".join(_html_row(table, row) for row in group.rows)
        if group.title:
            rows = (
                f'<tr class="group"><th scope="rowgroup" colspan="{len(table.columns)}">'
                f"<span>{escape(group.title)}</span></th></tr>\n{rows}"
            )
        bodies.append(f"<tbody>\n{rows}\n</tbody>\n")
    remarks = "".join(f'\n<p class="remark">{escape(remark)}</p>' for remark in table.remarks)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">\n<table>\n'
        f"<caption>{caption}</caption>\n<thead>\n<tr>{titles}</tr>\n</thead>\n"
        f"{''.join(bodies)}</table>\n</div>{remarks}"
    )


def _html_row(table: Table, row: Row) -> str:
    cells = []
    for at, (title, cell) in enumerate(zip(table.columns, row, strict=True)):
        tag, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
        note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
        empty = " hidden-narrow" if cell.text in (EMPTY, "") else ""
        cells.append(
            f'<{tag}{scope}{_class(at, table.words, cell, empty)} data-title="{escape(title)}">'
            f"{escape(cell.text)}{note}</{tag}>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _class(at: int, words: int, cell: Cell, more: str = "") -> str:
    name = "word" if at < words else "best" if cell.best else ""
    names = f"{name}{more}".strip()
    return f' class="{names}"' if names else ""
