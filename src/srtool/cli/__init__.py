"""The commands of srtool, a file for each stage; cli.py assembles them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from srtool.errors import SrtoolError, UsageError


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


class WithDefault(TyperGroup):
    """A group whose first command is meant where none is named: `srtool train lite.yaml` beside
    `srtool train prepare DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
