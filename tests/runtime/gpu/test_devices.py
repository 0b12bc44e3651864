"""GPUs as the driver's library tells them, and the driver's version where only its program does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from srtool.errors import EngineError
from srtool.runtime.gpu import devices
from srtool.runtime.gpu.devices import gpu_number, visible_gpus


def test_all_of_them(make_gpu: Any) -> None:
    gpu = make_gpu(capacity=12 << 30)
    gpu.count, gpu.driver = 2, 12080
    first, second = visible_gpus()
    assert (first.name, first.compute, first.memory) == ("Fake GPU", "8.9", 12 << 30)
    assert (first.cuda, first.driver) == ((12, 8), "580.65.06")
    assert (first.number, second.number) == (0, 1)
    assert first.uuid == "GPU-abababab-abab-abab-abab-ababababab00"
    assert second.uuid.endswith("ab01")
    assert gpu.contexts == []


def test_a_slice_of_one(make_gpu: Any) -> None:
    make_gpu().name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert visible_gpus()[0].uuid.startswith("MIG-")


def test_none(make_gpu: Any, monkeypatch: pytest.MonkeyPatch, complains: Any) -> None:
    gpu = make_gpu()
    gpu.broken = 100
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none")
    assert visible_gpus() == []
    with complains(EngineError, "CUDA_VISIBLE_DEVICES=GPU-none", "nvidia-smi"):
        gpu_number(0)
    monkeypatch.setattr(devices, "driver_library", lambda: None)
    assert visible_gpus() == []


def test_a_driver_that_does_not_start(make_gpu: Any, complains: Any) -> None:
    make_gpu().broken = 803
    with complains(EngineError, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"):
        visible_gpus()


@pytest.mark.skipif(
    os.name == "nt" or Path("/proc/driver/nvidia/version").exists(),
    reason="the driver's program is played by a shell script",
)
@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("#!/bin/sh\necho 580.65.06\necho 580.65.06\n", "580.65.06"),
        ("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n", ""),
        ("#!/bin/sh\necho 'No devices were found'\n", ""),
        ("not a program", ""),
    ],
)
def test_the_version_by_the_drivers_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert devices.driver_version() == version
