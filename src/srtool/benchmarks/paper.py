"""The figures that the paper printed."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def paper_figures() -> dict[str, Any]:
    """The paper's Table 1: "columns", and "figures" by data set and metric."""
    text = (resources.files("srtool.benchmarks") / "paper.json").read_text(encoding="utf-8")
    figures: dict[str, Any] = json.loads(text)
    return figures
