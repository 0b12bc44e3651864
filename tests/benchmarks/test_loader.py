"""The loader benchmark tells who waits for whom."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from srtool.benchmarks import loader
from srtool.train.data.patches import Patches


def test_a_slow_consumer_does_not_wait_and_a_fast_one_does(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Patches.at

    def slow(self: Patches, step: int, share: slice | None = None) -> Any:
        time.sleep(0.03)
        return at(self, step, share)

    monkeypatch.setattr(Patches, "at", slow)
    patches = Patches(photographs, 16, 2, seed=0)
    patient = loader.measure(patches, 8, 0.03)
    assert 0 < patient.batches_per_second < 2.2 / 0.03  # on two threads
    hasty = loader.measure(patches, 8, 0.0001)
    assert max(patient.asleep, patient.busy) < 0.5 < min(hasty.asleep, hasty.busy)


def test_the_figures_are_printed(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--patch", "16", "--batch", "2", "--steps", "10", "--compute", "1", "--mixture"]
    assert loader.main(["--data", str(photographs), *options]) == 0
    printed = capsys.readouterr().out
    assert "3 photographs" in printed
    assert re.search(r"\d+ batches/s of 2 patches of 16", printed)
    assert len(re.findall(r"\d\.\d%", printed)) == 2


def test_a_bad_source_is_one_line(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert loader.main(["--data", str(photographs), "--patch", "64"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
