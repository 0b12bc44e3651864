"""The layers of srtool as a picture, drawn from the code: who imports whom, and how large each is.

    python tools/layers.py layers.svg

The order is that of the contract in pyproject.toml, which `make check` holds the code to; the
arrows are the imports that are there.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "srtool"
WIDTH, ROW, GAP, BOX = 860, 56, 44, 190

SUMMARIES = {
    "cli": "the command line",
    "serving": "page, HTTP API, Triton",
    "cluster": "many machines",
    "benchmarks": "how good, how fast",
    "export": "network to engine",
    "runtime": "engine, images",
    "train": "photographs to generator",
    "networks": "generator, loading",
    "images": "pictures, data sets",
    "manifest": "facts beside a file",
    "assets": "files of others",
    "models": "networks that ship",
    "parity": "grades and gates",
    "files": "whole or absent",
    "errors": "the error tree",
    "system": "CPUs, packages",
}


@dataclass(frozen=True)
class Layer:
    """A folder or file directly in the package. lines: of all its modules."""

    name: str
    modules: int
    lines: int


def layers_from_contract() -> list[list[str]]:
    """The rows of the contract from the top, those that are beside one another together."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = (item["layers"] for item in contracts if item["type"] == "layers")
    rows = [[name.strip(" ()") for name in row.replace(":", "|").split("|")] for row in layers]
    package = ROOT / "src" / PACKAGE
    there = [
        [name for name in row if (package / name).is_dir() or (package / f"{name}.py").is_file()]
        for row in rows
    ]
    return [row for row in there if row]


def measured(name: str) -> Layer:
    """How many modules and lines a layer has."""
    path = ROOT / "src" / PACKAGE / name
    files = list(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    return Layer(name, len(files), lines)


def imports_between(names: set[str]) -> Counter[tuple[str, str]]:
    """How many imports lead from a layer to another, those for types alone left out,
    and those of the errors, which lead from everywhere."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = (_layer(module), _layer(imported))
            if pair[0] != pair[1] and set(pair) <= names and pair[1] != "errors":
                found[pair] += 1
    return found


def _layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def drawing() -> str:
    """The picture as SVG, in the colours of the page around it."""
    rows = layers_from_contract()
    arrows = imports_between({name for row in rows for name in row})
    height = len(rows) * (ROW + GAP)
    place: dict[str, tuple[float, float]] = {}
    boxes = []
    for number, row in enumerate(rows):
        top = number * (ROW + GAP) + 4
        for index, name in enumerate(row):
            left = WIDTH * (index + 0.5) / len(row) - BOX / 2
            place[name] = (left + BOX / 2, top)
            boxes.append(_box(measured(name), left, top))
    most = max(arrows.values(), default=1)
    lines = [_arrow(place[a], place[b], count / most) for (a, b), count in sorted(arrows.items())]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The layers of srtool">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7a869a"/></marker></defs>\n'
        + "\n".join([*lines, *boxes])
        + "\n</svg>\n"
    )


def _box(layer: Layer, left: float, top: float) -> str:
    middle = left + BOX / 2
    size = f"{layer.lines:,} lines" + (f", {layer.modules} modules" if layer.modules > 1 else "")
    summary = escape(SUMMARIES.get(layer.name, ""))
    return (
        f'<g text-anchor="middle"><rect x="{left:.0f}" y="{top}" width="{BOX}" height="{ROW}" '
        'rx="8" fill="#eef2fb" stroke="#3f51b5"/>'
        f'<text x="{middle:.0f}" y="{top + 19}" font-weight="600" fill="#1f2a44">{layer.name}'
        f'</text><text x="{middle:.0f}" y="{top + 34}" font-size="11" fill="#1f2a44">{summary}'
        f'</text><text x="{middle:.0f}" y="{top + 48}" font-size="11" fill="#5a6780">{size}'
        "</text></g>"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], share: float) -> str:
    """From the lower edge of a box to the upper edge of a lower one; thicker for more imports."""
    (x1, y1), (x2, y2) = start, end
    y1 += ROW
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}" '
        f'fill="none" stroke="#7a869a" stroke-opacity="0.55" stroke-width="{0.8 + 3 * share:.1f}" '
        'marker-end="url(#head)"/>'
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing(), encoding="utf-8")
