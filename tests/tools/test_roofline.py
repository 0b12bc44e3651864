"""The page about GPUs: its tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import roofline

from srtool.export.flops import GENERATORS
from srtool.export.tensorrt.gpus import GPUS

PAGE = Path(__file__).parents[2] / "docs" / "gpus.md"


def test_the_tables_stand_between_the_markers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    made = roofline.written(text)
    assert roofline.written(made) == made
    assert made.partition(roofline.START)[0] == text.partition(roofline.START)[0]
    assert made.partition(roofline.END)[2] == text.partition(roofline.END)[2]
    assert roofline.page() in made


def test_ridges_and_intensities() -> None:
    """Of the design: full 347 FLOP/B, ridges of an RTX 4090 164, of an H100 295."""
    named = {gpu.name: gpu for gpu in GPUS}
    assert round(roofline.intensity(GENERATORS["full"], "fp16")) == 347
    assert round(roofline.ridge(named["RTX 4090"], "fp16")) == 164
    assert round(roofline.ridge(named["H100"], "fp16")) == 295
    assert all(name in named for name in roofline.SHOWN)
