"""What every command shows: results on standard output, everything else on standard error. rich is
imported when something is drawn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from srtool.cli.options import Format
from srtool.errors import SrtoolError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from srtool.tables.table import Table

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {10: r"\n"}


def plain(text: str) -> str:
    """One line without control characters: names of files may hold what moves a terminal's
    cursor, and what others make lines of."""
    return text.translate(_CONTROLS)


_quiet = False  # of the process, as its standard error is


def be_quiet(wanted: bool) -> None:
    """Whether bars, spinners and what is said by `say` are left out from now on."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Whether nothing is said but what goes wrong."""
    return _quiet


def is_drawn(console: Console) -> bool:
    """Whether bars and spinners are to be seen there."""
    return console.is_terminal and not _quiet


def say(text: str) -> None:
    """A line for the user: what is being done, and why so."""
    if not _quiet:
        complain(text)


def complain(text: str) -> None:
    """A line that is needed even where all is to be quiet: what went wrong."""
    print(plain(text), file=sys.stderr, flush=True)  # noqa: T201


def answer(text: str) -> None:
    """A line of the result."""
    print(plain(text), flush=True)  # noqa: T201


def check_form(form: Format, as_json: bool) -> None:
    """UsageError where tables are asked for as text of some form and as JSON, which has none."""
    if as_json and form != "text":
        raise UsageError(
            "JSON has no tables; leave out one of the two", parameter="format", found=form
        )


def print_tables(tables: Sequence[Table], form: Format = "text") -> None:
    """Tables of a result, on the terminal or as text for a document."""
    from srtool.tables.writers import print_table, text_of

    for number, table in enumerate(tables):
        if number:
            answer("")
        if form == "text":
            print_table(table)
        else:
            for line in text_of(table, form).splitlines():
                answer(line)


@contextmanager
def status(start: str) -> Iterator[Callable[[str], None]]:
    """A spinner whose text the stage updates; plain lines where there is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not is_drawn(console):
        yield say
        return
    with console.status(start) as spinner:
        yield lambda line: spinner.update(f"{start}: {line}")


@contextmanager
def progress_bar(
    title: str, *columns: ProgressColumn, transient: bool = True, **task: Any
) -> Iterator[Callable[..., None]]:
    """A bar; nothing where there is no terminal. columns: to its right. task: what rich's
    `Progress.add_task` takes. The block gets `Progress.update` of it. transient: whether the bar
    goes at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress

    console = Console(stderr=True, soft_wrap=True)
    bar = Progress(
        title,
        BarColumn(),
        *columns,
        console=console,
        transient=transient,
        disable=not is_drawn(console),
    )
    with bar:
        yield partial(bar.update, bar.add_task("", **task))


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """UsageError where a library of an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this command needs {error.name}, which is not installed; "
            f"pip install 'srtool[{extra}]'"
        ) from None


def line_of(error: SrtoolError) -> str:
    """What the user reads of an error: the library's words, and the options that they are about."""
    named = f" ({_option(error.parameter)})" if error.parameter else ""
    tried = [f"{_option(name)} {value}".rstrip() for name, value in error.remedy.items()]
    return f"{error}{named}" + (f"; try {' '.join(tried)}" if tried else "")


def _option(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"
