"""Tables of more columns than a terminal is wide: what does not fit stands in a table below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_FOLDED = 22  # characters that a folded cell takes at least
_UNFOLDED = 36  # and at most
_PADDING = 2


@dataclass(frozen=True)
class Column:
    """cells: a text each, one per row. folds: words, which may go on in the next line; figures
    never do. key: stands in each of the tables."""

    title: str
    cells: list[str]
    folds: bool = False
    key: bool = False

    @property
    def longest(self) -> int:
        return max(len(text) for text in (*self.title.split("\n"), *self.cells))

    @property
    def width(self) -> int:
        """The least that it takes, with the gap to the next one."""
        return min(self.longest, _FOLDED if self.folds else self.longest) + _PADDING


def print_columns(console: Console, columns: Sequence[Column]) -> None:
    """Draw columns of as many cells each. Those without any text are left out."""
    keys = [column for column in columns if column.key]
    rest = [column for column in columns if not column.key and any(column.cells)]
    room = console.width - sum(column.width for column in keys)
    groups: list[list[Column]] = [[]]
    for column in rest:
        if groups[-1] and sum(item.width for item in [*groups[-1], column]) > room:
            groups.append([])
        groups[-1].append(column)
    for at, group in enumerate(groups):
        if at:
            console.print()
        _print_table(console, [*keys, *group])


def _print_table(console: Console, columns: list[Column]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _PADDING, 0, 0))
    for column in columns:
        words = column.folds or column.key
        table.add_column(
            Text(column.title),
            justify="left" if words else "right",
            no_wrap=not column.folds,
            overflow="fold",
            max_width=_UNFOLDED if column.folds else None,
            min_width=None if column.folds else column.longest,
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
