"""The report as one HTML file that needs nothing else, made from template.html, style.css and
slider.js beside this file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
import pyvips
from markupsafe import Markup
from numpy.typing import NDArray

from srtool.benchmarks.report.drawing import Plot, Slugs, inline_svg
from srtool.benchmarks.report.pictures import Difference, Picture, Version
from srtool.benchmarks.report.plots import plots_of_network, quality_plots
from srtool.benchmarks.report.quality import quality_tables, verification_table
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.report.summary import answers, not_run, origins
from srtool.benchmarks.report.timings import fastest_table, network_line, speed_tables
from srtool.errors import DataError
from srtool.files import write_whole, writing
from srtool.tables.table import date_text, figure, fixed
from srtool.tables.writers import html
from srtool.version import __version__

ZOOM = 3
COLOURS = "inferno"  # of difference maps: even steps of lightness, black where nothing differs


@dataclass(frozen=True)
class Page:
    """html: the whole file. plots: those in it."""

    html: str
    plots: tuple[Plot, ...]


def page_from_sources(sources: Sources, pictures: Sequence[Picture], made: str) -> Page:
    """Lay out everything there is; a section without data is left out. made: the time, for the
    reader."""
    slugs = Slugs()
    against = list(quality_plots(sources, slugs))
    speed = [
        (bench, network, list(plots_of_network(network, slugs)))
        for bench, network in sources.networks
    ]
    several = len(speed) > 1
    script = _beside("slider.js")
    text = _template().render(
        title=_title(sources),
        version=__version__,
        made=date_text(made),
        css=Markup(_beside("style.css")),
        script=Markup(script),
        script_hash=_hash(f"\n{script}"),
        answers=answers(sources),
        standings=[fastest_table(bench for _, bench in sources.benches)] if several else [],
        origins=origins(sources),
        quality=quality_tables(sources.evaluations),
        parity=[verification_table(it, name) for name, it in sources.parities],
        quality_plots=against,
        speed=[
            {
                "title": f"{network.network} on {bench.machine.gpu or bench.machine.cpu}",
                "facts": network_line(network),
                "plots": plots,
                "tables": speed_tables(network),
            }
            for bench, network, plots in speed
        ],
        pictures=[(picture, _difference_text(picture)) for picture in pictures],
        zoom=ZOOM,
        not_run=not_run(sources),
    )
    plots = [*against, *(plot for _, _, found in speed for plot in found)]
    return Page(text, tuple(plots))


def write_page(path: Path, page: Page) -> int:
    """Write the file, whole or not at all; its size, bytes. DataError where it cannot be."""
    with writing(path, DataError, "name another file", "out"):
        write_whole(path, page.html)
    return path.stat().st_size


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {
        "html": lambda table: Markup(html(table)),
        "svg": lambda plot: Markup(inline_svg(plot)),
        "png": png_uri,
        "figures": _figures,
        "difference_map": difference_map,
        "colour_scale": colour_scale,
    }
    return environment.from_string(_beside("template.html"))


def _beside(name: str) -> str:
    return (resources.files("srtool.benchmarks.report") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """By which the page's policy knows its one script."""
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _title(sources: Sources) -> str:
    names = dict.fromkeys(network.network for _, network in sources.networks)
    return f"{', '.join(names)}: super-resolution report" if names else "Super-resolution report"


def _figures(version: Version) -> str:
    figures = []
    if version.psnr is not None:
        equal = version.psnr == float("inf")
        figures.append(f"PSNR-Y {'equal' if equal else fixed(version.psnr, 2) + ' dB'}")
    if version.niqe is not None:
        figures.append(f"NIQE {fixed(version.niqe, 2)}")
    return ", ".join(figures) or ("original" if version.name == "HR" else "")


def _difference_text(picture: Picture) -> str:
    """Empty where there is no difference to be shown."""
    found = picture.difference
    if found is None:
        return ""
    torch, engine = (version.name for version in picture.versions[1:3])
    if found.most == 0:
        return f"{engine} and {torch} are equal in every pixel of the image."
    return (
        f"Difference between {engine} and {torch}, the largest of the three colours, amplified "
        f"so that {found.end} of 255 levels are full brightness. Over the whole image: at most "
        f"{found.most}, mean {figure(found.mean)} levels, {100 * found.share:.3f} % of the "
        "pixels differ."
    )


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """(H, W, 3) RGB uint8 -> "data:image/png;base64,..."."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    data = image.copy(interpretation="srgb").write_to_buffer(".png", compression=9, keep="none")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def difference_map(difference: Difference) -> NDArray[np.uint8]:
    """(H, W, 3) RGB uint8: the colour of each pixel's level."""
    return np.asarray(_colours(difference.end)[difference.levels.clip(0, difference.end)])


def colour_scale(difference: Difference) -> list[tuple[int, str]]:
    """Five levels and their colours, "#rrggbb"."""
    colours = _colours(difference.end)
    steps = np.linspace(0, difference.end, 5).round().astype(int)
    return [(int(step), "#" + bytes(colours[step]).hex()) for step in steps]


def _colours(end: int) -> NDArray[np.uint8]:
    """(end + 1, 3) uint8."""
    shades = mpl.colormaps[COLOURS](np.linspace(0, 1, end + 1))[:, :3]
    return np.asarray((255 * shades).round().astype(np.uint8))
