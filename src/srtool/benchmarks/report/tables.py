"""What a table of the report holds, before it is HTML, and how its figures are written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timezone

EMPTY = "–"


@dataclass(frozen=True)
class Cell:
    """best: of its row or column, and marked. note: a remark in small type."""

    text: str
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a title; an empty one is not shown."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """columns: titles; the first `words` of them hold words and stand on the left, the others
    figures. spans: titles over several columns, with how many."""

    caption: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    words: int = 1
    spans: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def without_empty_columns(self) -> Table:
        """Less the columns of figures in which nothing was measured."""
        rows = [row for group in self.groups for row in group.rows]
        kept = [
            column
            for column in range(len(self.columns))
            if column < self.words or any(row[column].text != EMPTY for row in rows)
        ]
        groups = tuple(
            Group(group.title, tuple(tuple(row[column] for column in kept) for row in group.rows))
            for group in self.groups
        )
        columns = tuple(self.columns[column] for column in kept)
        return Table(self.caption, columns, groups, self.words, self.spans, self.remarks)


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
