"""`srtool models`: the networks that ship."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from srtool.cli import progress as console

_FIGURES = (
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim_wang", 4),
    ("NIQE", "niqe", 2),
    ("LPIPS", "lpips", 4),
)


def names_from(incomplete: str) -> list[str]:
    """Names of networks that the shell completes a word to."""
    from srtool.models import model_names

    return [name for name in model_names() if name.startswith(incomplete)]


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards and paths.")] = False,
) -> None:
    """List the networks that ship with srtool; `--engine NAME` runs one."""
    from srtool.models import cards

    if as_json:
        found = [{**asdict(card), "path": str(card.path)} for card in cards()]
        console.answer(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    datasets = list(dict.fromkeys(name for card in cards() for name in card.figures))
    known = {name for card in cards() for means in card.figures.values() for name in means}
    metrics = [metric for metric in _FIGURES if metric[1] in known]
    table = Table("name", "parameters", "MFLOP/pixel", *(m[0] for m in metrics), "for", box=None)
    for card in cards():
        cells = [
            " / ".join(
                f"{card.figures[name][metric]:.{digits}f}" if metric in card.figures[name] else "-"
                for name in datasets
            )
            for _, metric, digits in metrics
        ]
        size = f"{card.parameters / 1e6:.2f} M"
        table.add_row(card.name, size, f"{card.mflop:.1f}", *cells, card.summary)
    drawn = Console(highlight=False)
    (drawn if drawn.is_terminal else Console(highlight=False, width=200)).print(table)
    console.say(f"means on {' / '.join(datasets)}; `--engine {cards()[0].name}` is the default")
