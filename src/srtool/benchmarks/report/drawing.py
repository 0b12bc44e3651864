"""How plots look, and how they become files or a part of the page.

The colours of a figure are those of a file for papers. In the page each of them is a CSS variable
instead, so that the page's light and dark colours hold in its plots too.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srtool.errors import DataError
from srtool.files import whole_file, writing

INK, MUTED, GRID = "#1b1f24", "#5b646e", "#d9dde2"
# Told apart with any kind of colour vision, and each with a contrast of 3 to 1 on white.
SERIES = ("#0072b2", "#c8500a", "#00805c", "#a8327a", "#8a6500", "#5a4fcf", "#3d7a94", "#6b6b6b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
VARIABLES = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}

WIDTH = 9.0  # inches
FONT = 9.0  # points
DPI = 200  # of PNG files


@dataclass(frozen=True)
class Plot:
    """slug: of file names and ids, no two the same. alt: what the plot says, for who cannot see
    it."""

    slug: str
    title: str
    alt: str
    figure: Figure


class Slugs:
    """Names for files and ids, none given twice."""

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()

    def __call__(self, *words: str) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "plot"
        self._given[slug] += 1
        return slug if self._given[slug] == 1 else self(slug, str(self._given[slug]))


def style() -> AbstractContextManager[None]:
    """Within it, figures are made and written; matplotlib's own settings are left alone."""
    return mpl.rc_context(
        {
            "font.size": FONT,
            "font.family": "sans-serif",
            "text.parse_math": False,  # names may hold any sign
            "axes.titlesize": FONT + 1,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": MUTED,
            "axes.titlecolor": INK,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.formatter.useoffset": False,
            "figure.facecolor": "none",
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "savefig.facecolor": "white",
            "svg.fonttype": "none",
            "svg.hashsalt": "srtool",  # the same figure gives the same file
        }
    )


@contextmanager
def drawn(height: float, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of that height, inches, with axes side by side, to be drawn within. At the end its
    layout is found once and for all: each drawing would refine it a little."""
    with style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, list(figure.subplots(1, columns, squeeze=False)[0])
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str]], height: float) -> None:
    """Write names beside the right ends of lines, so far apart that none covers another.

    ends: name, x and y of the end in data units, colour. height: of the figure, inches.
    """
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    ordered = sorted(
        (to_axes.transform((x, y))[1], (x, y), name, colour) for name, x, y, colour in ends
    )
    gap = 1.35 * FONT / (72 * (height - 0.9))  # a line of text, in shares of the axes' height
    heights = spread_out([place for place, *_ in ordered], gap)
    for (_, end, name, colour), moved in zip(ordered, heights, strict=True):
        axes.annotate(
            name,
            end,
            (1.03, moved),
            xycoords="data",
            textcoords="axes fraction",
            color=colour,
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 0},
        )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending places as little as it takes for neighbours to be `gap` apart: those that
    touch form a block, which stands around the mean of its members' places."""
    blocks: list[tuple[float, int]] = []  # centre and members
    for place in places:
        blocks.append((place, 1))
        while len(blocks) > 1:
            (lower, below), (upper, above) = blocks[-2:]
            if upper - lower >= gap * (below + above) / 2:
                break
            members = below + above
            # The mean of all their places, were each block pulled apart around its own centre.
            blocks[-2:] = [((lower * below + upper * above) / members, members)]
    return [
        centre + gap * (number - (members - 1) / 2)
        for centre, members in blocks
        for number in range(members)
    ]


def inline_svg(plot: Plot) -> str:
    """An <svg> element to stand in HTML: described, in the page's font and colours, and with ids
    that no other plot has."""
    with style():
        written = io.StringIO()
        # The faces are left out: the page's background shows through.
        left_out = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        plot.figure.savefig(written, format="svg", facecolor="none", metadata=left_out)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.slug}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font: bold ([\d.]+px) [^;\"]*", r"font-weight: bold; font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(plot.alt)}">{rest}'.strip()


def write_figure(path: Path, figure: Figure) -> None:
    """On white, as the name's ending says; the same figure makes the same file. OSError where it
    cannot be written."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with style(), whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, metadata=metadata)


def write_plots(folder: Path, plots: Sequence[Plot]) -> list[Path]:
    """Each as SLUG.png and SLUG.svg on white. DataError where the folder cannot be written."""
    written = []
    with writing(folder, DataError, "name another folder", "plots"):
        for plot in plots:
            for suffix in (".png", ".svg"):
                path = folder / f"{plot.slug}{suffix}"
                write_figure(path, plot.figure)
                written.append(path)
    return written
