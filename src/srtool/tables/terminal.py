"""Tables on a terminal. What is wider than the terminal goes on in a second table below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srtool.tables.table import Cell, Table

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 200  # columns, where the output is no terminal
_FOLDED, _UNFOLDED = 22, 36  # characters that a cell of words takes at least and at most
_GAP = 2
# Signs that old code pages lack.
_PLAIN = str.maketrans(
    {"–": "-", "−": "-", "×": "x", "Δ": "d", "↑": "^", "↓": "v", "∞": "inf", "≥": ">="}
    | dict.fromkeys("\u202f\u00a0", " ")
    | {"\u2011": "-"}
)


def print_table(table: Table, console: Console | None = None) -> None:
    """Draw a table with its caption and remarks. Titles of groups stand in a column of their own;
    the columns of words are repeated where the others need a second table."""
    console = console or this_console()
    if table.caption:
        print_line(table.caption, console)
    table = _with_titles(table)
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


def _with_titles(table: Table) -> Table:
    """The titles of groups become a first column, each in the first row of its group."""
    if not any(group.title for group in table.groups):
        return table
    from dataclasses import replace

    groups = tuple(
        replace(
            group,
            rows=tuple(
                (Cell(group.title if number == 0 else ""), *row)
                for number, row in enumerate(group.rows)
            ),
        )
        for group in table.groups
    )
    return replace(table, columns=("", *table.columns), groups=groups, words=table.words + 1)


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
