"""Fixtures for speeds: small results of `srtool bench`, made of the seconds of their candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from srtool.benchmarks.speed.result import (
    Bench,
    Candidate,
    Machine,
    Measured,
    Roofline,
    Timing,
    spread,
)

REFERENCE = "PyTorch eager fp32"
MakeBench = Callable[..., Bench]


@pytest.fixture
def machine() -> Machine:
    return Machine(cpu="Test CPU", cores=2, threads=4, memory=8 << 30, platform="Linux x86_64")


@pytest.fixture
def make_bench(machine: Machine) -> MakeBench:
    """(candidate -> seconds of its runs) -> a result of one network, by default at one size.

    candidate: fields of every candidate but the reference, timing: of its timings, measured: of the
    network, others: of the result. Candidates are engines, the reference is a baseline.
    """

    def made(
        seconds: dict[str, Sequence[float]],
        size: tuple[int, int] = (64, 64),
        candidate: dict[str, Any] | None = None,
        timing: dict[str, Any] | None = None,
        measured: dict[str, Any] | None = None,
        **others: Any,
    ) -> Bench:
        base = seconds.get(REFERENCE)
        candidates = []
        for name, runs in seconds.items():
            own = name != REFERENCE
            paired = own and base is not None and len(base) == len(runs)
            ratios = [slow / fast for slow, fast in zip(base or (), runs, strict=False)]
            timed = Timing(
                size=size,
                seconds=tuple(runs),
                warm_up=3,
                speed=spread(ratios) if paired else None,
                **(timing or {} if own else {}),
            )
            facts = {
                "kind": "engine" if own else "baseline",
                "software": "engine 1.0" if own else "torch 2.14.1",
                "precision": "fp32",
                "load": 1.0,
                "cold": 0.5,
                "timings": (timed,),
                **(candidate or {} if own else {}),
            }
            candidates.append(Candidate(name=name, **facts))
        network = {
            "network": "tiny",
            "architecture": "generator",
            "scale": 4,
            "flops": 1e6,
            "moved": 1e3,
            "parameters": 1000,
            "reference": REFERENCE,
            **(measured or {}),
        }
        result = {
            "made": "2026-01-01T00:00:00+00:00",
            "command": "srtool bench tiny.onnx",
            "machine": machine,
            "busy": 0.0,
            "roofline": Roofline(matrix={"fp32": 1e11}, bandwidth=1e10),
            **others,
        }
        return Bench(networks=(Measured(candidates=tuple(candidates), **network),), **result)

    return made
