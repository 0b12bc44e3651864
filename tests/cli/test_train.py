"""`srtool train`: what it shows, and what it does instead of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.cli.train import training_progress
from srtool.train.loop import Progress

Run = Callable[..., Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that everything sees, to be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    losses = {"pixel": 0.25, "lpips": 0.125, "total": 0.3}
    with training_progress() as report:
        for step in range(1, 100):
            clock[0] += 2.0
            report(Progress("stage2", step, 1000, losses, 1.5e-4, 2.0, 0.0))
    lines = [line for line in capsys.readouterr().err.splitlines() if "step " in line]
    assert len(lines) == 3  # in 198 seconds
    for words in ("stage2 step 32 of 1000", "0.5 steps/s", "0:32:16 left", "1.50e-04"):
        assert words in lines[0]
    assert "pixel 0.25, lpips 0.125, total 0.3" in lines[0]


def test_training_from_a_packed_file(run: Run, photographs: Path) -> None:
    packed = run("train", "prepare", str(photographs), "-o", "train.h5")
    assert (packed.code, packed.out) == (0, "train.h5\n")
    assert "3 photographs" in packed.err
    result = run("train", "tiny.yaml", "--data", "train.h5", "--out", "out")
    assert (result.code, result.out) == (0, "out/generator.safetensors\n")
    assert Path("out/stage1.safetensors").is_file()


def test_a_batch_is_shown_and_nothing_trained(run: Run, photographs: Path) -> None:
    arguments = ["--data", str(photographs), "--show-batch", "batch.png", "--out", "out"]
    result = run("train", "tiny.yaml", *arguments)
    assert (result.code, result.out) == (0, "batch.png\n")
    assert "none, blend, rgb, cutout, mixup, cutmix, cutmixup, cutblur" in result.err
    assert Path("batch.png").read_bytes().startswith(b"\x89PNG")
    assert not Path("out").exists()


def test_a_dry_run_measures_and_writes_nothing(run: Run, photographs: Path) -> None:
    result = run("train", "tiny.yaml", "--data", str(photographs), "--dry-run", "--out", "out")
    assert result.code == 0
    for words in ("stage1", "stage2", "parameters, generator", "109,958", "peak memory", "GB"):
        assert words in result.out
    assert "20 measured steps" in result.err
    assert not Path("out").exists()


def test_a_dry_run_for_another_gpu(run: Run, photographs: Path) -> None:
    command = ("train", "tiny.yaml", "--data", photographs, "--dry-run", "--gpu-class")
    result = run(*command, "1080 ti")
    assert result.code == 0
    for words in ("TFLOP a step", "kept for backward passes", "duration at 30% of the peak"):
        assert words in result.out
    assert "measured" not in result.err
    assert "GTX 1080 Ti" in run(*command, "Riva 128").complaint
    trains = run("train", "tiny.yaml", "--data", photographs, "--gpu-class", "1080")
    assert "--dry-run" in trains.complaint


def test_a_dry_run_looks_for_assets_first(run: Run, photographs: Path) -> None:
    """Before the first stage, which needs none, has been measured; no assets are here."""
    result = run("train", "fast.yaml", "--data", photographs, "--dry-run")
    assert result.code == 2
    assert "srtool assets fetch alexnet" in result.complaint
