"""The commands of srtool, a file for each stage; cli.py assembles them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from srtool.errors import UsageError


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


class WithDefault(TyperGroup):
    """A group whose first command is meant where none is named: `srtool train lite.yaml` beside
    `srtool train prepare DIR`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)
