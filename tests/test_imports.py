"""Arrows point down: no circle of files anywhere, and the contract between the layers bites."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "srtool"


def modules_of(source: Path) -> dict[str, Path]:
    """Name -> file of every module of the package, packages by their own name."""
    names = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports anywhere: in functions and for types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that each lead to all of the others: Tarjan's components."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            circle = path[path.index(module) :]
            del path[path.index(module) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in graph:
        if module not in number:
            visit(module)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_of_files() -> None:
    modules = modules_of(SOURCE)
    assert len(modules) > 100
    assert circles({name: imports_of(path, modules) for name, path in modules.items()}) == []


@pytest.mark.slow
def test_every_arrow_upwards_breaks_the_contract(tmp_path: Path) -> None:
    """An import of training is planted in a function of every file of the runtime: the report
    names each of them; without any there is none."""
    pytest.importorskip("importlinter")
    ignore = shutil.ignore_patterns("*.onnx", "*.png", "__pycache__")
    copy = tmp_path / "src" / "srtool"
    shutil.copytree(SOURCE, copy, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert _lint(tmp_path).returncode == 0
    modules = {name: path for name, path in modules_of(copy).items() if ".runtime" in name}
    for path in modules.values():
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\ndef _planted() -> None:\n    from srtool.train.recipe import Recipe\n")
    done = _lint(tmp_path)
    assert done.returncode == 1
    assert [name for name in modules if f"{name} -> srtool.train.recipe" not in done.stdout] == []


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    run = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", run, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
