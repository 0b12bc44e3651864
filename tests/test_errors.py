"""What the errors of the library say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import srtool

PACKAGE = Path(srtool.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def test_libraries_do_not_speak_of_options() -> None:
    """They name parameters, in fields; the command line adds its own options."""
    found = [
        f"{path.relative_to(PACKAGE)}:{text.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE / "cli"
        for raised in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(raised, ast.Raise)
        for text in ast.walk(raised)
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
        if OPTION.search(text.value)
    ]
    assert found == []
