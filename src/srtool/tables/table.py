"""What a table holds before it is drawn, and how its figures are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

EMPTY = "–"


@dataclass(frozen=True)
class Cell:
    """best: of its row or column, and marked. note: a remark in small type."""

    text: str
    best: bool = False
    note: str = ""


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a title; an empty one is not shown."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """columns: titles; the first `words` of them hold words and stand on the left, the others
    figures."""

    caption: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    words: int = 1
    remarks: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    def with_columns(self, kept: Sequence[int]) -> Table:
        """Some of the columns, those of words among them."""
        groups = tuple(
            Group(group.title, tuple(tuple(row[at] for at in kept) for row in group.rows))
            for group in self.groups
        )
        columns = tuple(self.columns[at] for at in kept)
        return replace(self, columns=columns, groups=groups)

    def with_titles(self, repeated: bool) -> Table:
        """The titles of groups in a first column, of each row or of the first of its group alone;
        as it is where no group has one."""
        if not any(group.title for group in self.groups):
            return self
        groups = tuple(
            Group(
                group.title,
                tuple(
                    (Cell(group.title if repeated or number == 0 else ""), *row)
                    for number, row in enumerate(group.rows)
                ),
            )
            for group in self.groups
        )
        return replace(self, columns=("", *self.columns), groups=groups, words=self.words + 1)

    def without_empty_columns(self) -> Table:
        """Less the columns of figures in which nothing was measured."""
        kept = [
            at
            for at in range(len(self.columns))
            if at < self.words or any(row[at].text not in (EMPTY, "") for row in self.rows)
        ]
        return self if len(kept) == len(self.columns) else self.with_columns(kept)


def table_of_texts(
    columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, caption: str = ""
) -> Table:
    """A plain table without groups."""
    cells = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(caption, tuple(columns), (Group("", cells),), words)


def table_of(
    caption: str,
    columns: Mapping[str, Callable[[Any], Cell | str | None]],
    groups: Mapping[str, Iterable[Any]],
    words: int = 1,
    remarks: Sequence[str] = (),
) -> Table:
    """A row per item, in groups by their titles, and a column per function of an item, None where
    it has none; less those that are empty."""
    made = tuple(
        Group(title, tuple(tuple(map(_cell, (f(it) for f in columns.values()))) for it in items))
        for title, items in groups.items()
    )
    table = Table(caption, tuple(columns), made, words, tuple(remarks))
    return table.without_empty_columns()


def _cell(made: Cell | str | None) -> Cell:
    return made if isinstance(made, Cell) else Cell(EMPTY if made is None else made)


def best_of(texts: Sequence[str], lower: bool) -> list[bool]:
    """Which of the figures, as printed, are the best; none where there is nothing to compare."""
    values = [_value(text) for text in texts]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [False] * len(texts)
    best = min(known) if lower else max(known)
    return [value == best for value in values]


def _value(text: str) -> float | None:
    if text == "∞":
        return math.inf
    try:
        return float(text.replace("−", "-"))
    except ValueError:
        return None


def figure(value: float | None, digits: int = 3) -> str:
    """With so many significant digits and no exponent: 12 300, 12.3, 0.00123."""
    if value is None:
        return EMPTY
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    # 9.996 rounds to 10.00, which has a digit too many
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(places, 0)}f}".replace(",", "\u202f").replace("-", "−")


def fixed(value: float | None, digits: int, signed: bool = False) -> str:
    if value is None:
        return EMPTY
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def date_text(made: str) -> str:
    """ "2026-11-23T18:00:00+00:00" -> "2026-11-23 18:00 UTC"; other texts stay."""
    try:
        return f"{datetime.fromisoformat(made).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return made


def percent(share: float | None) -> str:
    return EMPTY if share is None else f"{100 * share:.1f} %"


def size_text(size: tuple[int, int], batch: int = 1) -> str:
    """ "256×256", "256×256, 4 at once"."""
    text = f"{size[0]}×{size[1]}"
    return text if batch == 1 else f"{text}, {batch} at once"


def bytes_text(count: float | None) -> str:
    if count is None:
        return EMPTY
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def times(ratio: float | None, low: float | None = None, high: float | None = None) -> Cell:
    """ "3.30×", with the range as its note."""
    if ratio is None:
        return Cell(EMPTY)
    return Cell(f"{ratio:.2f}×", note="" if low is None else f"{low:.2f} to {high:.2f}")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
