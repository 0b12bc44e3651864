"""The bars of `make gpu-check`, over results of `srtool bench`."""

from __future__ import annotations

from typing import Literal

import pytest
from gpu_check import BARS, main, misses

from srtool.benchmarks.speed.result import Bench, Candidate, Machine, Measured, Timing
from srtool.runtime.gpu.machine import Machine as Here


def candidate(name: str, kind: Literal["engine", "baseline"], seconds: float) -> Candidate:
    timing = Timing(size=(256, 256), seconds=(seconds,) * 5, warm_up=1)
    facts = {"software": "", "precision": "fp16", "load": 1.0, "cold": 1.0}
    return Candidate(name=name, kind=kind, timings=(timing,), **facts)  # type: ignore[arg-type]


def bench(*candidates: Candidate) -> Bench:
    network = Measured(network="x4", architecture="", scale=4, reference="", candidates=candidates)
    machine = Machine(cpu="", cores=1, threads=1, memory=1, platform="")
    return Bench(made="2026-01-01T00:00:00+00:00", command="", machine=machine, networks=(network,))


def test_bars() -> None:
    others = [candidate(name, "baseline", 1.0) for name in BARS]
    assert misses(bench(candidate("plan", "engine", 0.4), *others)) == []
    (line,) = misses(bench(candidate("plan", "engine", 0.7), *others))
    assert "plan is 1.43x as fast as PyTorch eager fp16 channels_last, expected 2x" in line
    assert len(misses(bench(candidate("plan", "engine", 0.4)))) == len(BARS)
    assert misses(bench(*others)) == ["x4: no engine was measured"]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gpu_check.this_machine", lambda: Here())
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "x4.safetensors"])
    assert main() == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err
