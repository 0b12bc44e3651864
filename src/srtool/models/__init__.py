"""The networks that ship with srtool, ready to run: NAME.onnx with its manifest, its float32
companion for 16-bit images, and a card.

`make models` writes all of it from weights/ (tools/models.py); nothing here is written by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from srtool.errors import EngineError

FOLDER = Path(__file__).resolve().parent
CARDS = "cards.json"
ENGINE_SUFFIXES = {".onnx", ".plan", ".pth", ".pt", ".safetensors"}


@dataclass(frozen=True)
class Card:
    """What is known of a shipped network.

    summary: what it is for, in one line. parameters: how many. mflop: millions of floating-point
    operations for each LR pixel. licence: of the weights. figures: data set -> metric -> mean over
    its images, as `srtool evaluate` wrote them.
    """

    name: str
    summary: str
    scale: int
    parameters: int
    mflop: float
    licence: str
    figures: dict[str, dict[str, float]]

    @property
    def path(self) -> Path:
        """Its engine file."""
        return FOLDER / f"{self.name}.onnx"


@cache
def cards() -> tuple[Card, ...]:
    """All shipped networks; the first is the one that runs where none is named."""
    found = json.loads((FOLDER / CARDS).read_text(encoding="utf-8"))
    return tuple(Card(**card) for card in found)


def model_names() -> tuple[str, ...]:
    """Their names; the first is the default."""
    return tuple(card.name for card in cards())


def model_path(name: str) -> Path:
    """The engine file (.onnx) of a shipped network. EngineError lists the names there are."""
    for card in cards():
        if card.name == name:
            return card.path
    raise EngineError(
        f"{name}: no such network is shipped; expected {' or '.join(model_names())}, or the path "
        "of an engine file"
    )


def engine_path(engine: str | Path | None = None) -> Path:
    """What the user named as engine: the name of a shipped network, or a file, which wins where
    both are there; None for the default. EngineError for a word that is neither."""
    if engine is None:
        return cards()[0].path
    path = Path(engine)
    if path.exists() or path.suffix in ENGINE_SUFFIXES or path.name != str(engine):
        return path
    return model_path(str(engine))
