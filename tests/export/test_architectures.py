"""A small network of every SR architecture that spandrel knows, exported, against spandrel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matrix
import onnx
import pytest
from architectures import SMALL, written

from srtool.errors import SrtoolError
from srtool.export.onnx import ExportConfig, drafts
from srtool.networks.loading import load_network

# Seconds each; attention is traced twice and takes a minute or two.
QUICK = ("Compact", "SPAN", "SwiftSRGAN")
REFUSED = {"ATD": "Sort", "AuraSR": "random numbers", "IPT": "overlapping patches"}


@pytest.mark.parametrize("name", QUICK)
def test_a_file_does_what_spandrel_does(name: str, tmp_path: Path) -> None:
    weights = written(name, tmp_path)
    config = ExportConfig("both", io="float32")
    for draft in drafts(load_network(weights), tmp_path / "x.onnx", config):
        onnx.save(draft.model, draft.path)
        found = matrix.compared(draft.path, weights, draft.facts)
        agrees(found, 1 if draft.facts.precision == "fp32" else 2)


def agrees(found: dict[str, Any], levels: int) -> None:
    """Each backend, on each size, with spandrel."""
    for where, difference in found.items():
        assert isinstance(difference, dict), f"{where}: {difference}"
        assert difference["levels"] <= levels, where


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name not in (*QUICK, *REFUSED)])
def test_a_file_of_any_architecture(name: str, tmp_path: Path) -> None:
    found = matrix.measured(name, tmp_path)
    assert not found["refused"]
    agrees(found["fp32"], 1)
    agrees(found.get("fp16", {}), 2)
    # Where a halo is enough, a cut is hardly seen; elsewhere the manifest has a tile.
    assert found["tile"] or found["tiles"]["db"] is None or found["tiles"]["db"] > 40


@pytest.mark.parametrize("name", [pytest.param("ATD", marks=pytest.mark.slow), "AuraSR", "IPT"])
def test_what_is_refused_is_one_line_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(SrtoolError, match=REFUSED[name]) as caught:
        matrix.exported(load_network(written(name, tmp_path)), tmp_path / "x.onnx", {})
    assert "\n" not in str(caught.value)


# What docs/architectures.md says


def test_the_table_is_that_of_the_results() -> None:
    text = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.with_table(text) == text


def test_nearly_all_architectures_come_out_right() -> None:
    networks = matrix.read()["networks"]
    right = [
        name
        for name, found in networks.items()
        if not found["refused"]
        and all(isinstance(each, dict) and each["levels"] <= 1 for each in found["fp32"].values())
    ]
    assert len(right) >= 24
    assert set(networks) == {*right, *REFUSED}
    assert all(re.search(REFUSED[name], networks[name]["refused"]) for name in REFUSED)
