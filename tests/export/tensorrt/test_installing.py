"""Recipes resolve with pip, as far as a package index serves them: the full TensorRT libraries come
from NVIDIA's own, so that of TensorRT the bindings stand for all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from srtool.export.tensorrt.installing import PINNED

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix",
         "platform_system": "Linux"}  # fmt: skip
ARM = {**LINUX, "platform_machine": "aarch64"}
WINDOWS = {"sys_platform": "win32", "platform_machine": "AMD64", "os_name": "nt",
           "platform_system": "Windows"}  # fmt: skip
WHEELS = {
    "x86_64": [f"manylinux_2_{n}_x86_64" for n in (35, 34, 31, 28, 27, 24, 17, 12)]
    + ["manylinux2014_x86_64", "manylinux1_x86_64"],
    "aarch64": [f"manylinux_2_{n}_aarch64" for n in (35, 34, 31, 28, 27, 17)],
    "AMD64": ["win_amd64"],
}  # fmt: skip


def wanted(extra: str, python: str, machine: dict[str, str]) -> list[str]:
    """What an extra asks for on a machine, without the packages of NVIDIA's own index."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    lines = tomllib.loads(text)["project"]["optional-dependencies"][extra]
    environment = {**machine, "python_version": python, "extra": ""}
    asked = [Requirement(line) for line in lines]
    found = [item for item in asked if not item.marker or item.marker.evaluate(environment)]
    for item in found:
        item.marker = None
    return [bindings(str(item)) for item in found]


def bindings(requirement: str) -> str:
    """Of the full TensorRT, the part that any index has."""
    if requirement.startswith("tensorrt=="):  # 8.6.1 resolves as it is
        return requirement
    return re.sub(r"^(tensorrt(?:-cu12)?)(?=[<>=])", _bindings_of, requirement)


def _bindings_of(match: re.Match[str]) -> str:
    return "tensorrt-cu13-bindings" if match[1] == "tensorrt" else f"{match[1]}-bindings"


def resolved(requirements: list[str], python: str, machine: dict[str, str], tmp: Path) -> set[str]:
    """Names of all packages that pip would install there."""
    report, folder = tmp / "report.json", tmp / "there"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
               "--only-binary=:all:", f"--python-version={python}", f"--target={folder}",
               f"--report={report}", "--implementation=cp"]  # fmt: skip
    command += [f"--platform={name}" for name in WHEELS[machine["platform_machine"]]]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-600:]
    return {item["metadata"]["name"].lower().replace("_", "-") for item in
            json.loads(report.read_text())["install"]}  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize(
    ("extra", "python", "machine", "brings"),
    [
        ("gpu", "3.11", LINUX, {"onnxruntime-gpu", "nvidia-cudnn-cu13", "cuda-bindings"}),
        ("gpu", "3.13", WINDOWS, {"onnxruntime-gpu", "nvidia-cudnn-cu13", "cuda-bindings"}),
        ("gpu", "3.10", LINUX, {"cuda-bindings"}),
        ("gpu", "3.12", ARM, {"cuda-bindings"}),
        ("gpu-cu12", "3.10", LINUX, {"onnxruntime-gpu", "nvidia-cudnn-cu12", "cuda-bindings"}),
        ("gpu-cu12", "3.12", WINDOWS, {"onnxruntime-gpu", "nvidia-cudnn-cu12", "cuda-bindings"}),
        ("rtx", "3.12", LINUX, {"tensorrt-rtx-cu13-libs", "cuda-bindings"}),
        ("rtx", "3.12", ARM, {"tensorrt-rtx-cu13-libs", "cuda-bindings"}),
        ("rtx", "3.12", WINDOWS, {"tensorrt-rtx-cu13-libs", "cuda-bindings"}),
    ],
)
def test_extras(
    extra: str, python: str, machine: dict[str, str], brings: set[str], tmp_path: Path
) -> None:
    found = resolved(wanted(extra, python, machine), python, machine, tmp_path)
    assert brings <= found
    assert "onnxruntime" not in found  # beside onnxruntime-gpu it would leave the CPU provider


@pytest.mark.network
@pytest.mark.parametrize("machine", [LINUX, WINDOWS], ids=["linux", "windows"])
@pytest.mark.parametrize("last", PINNED)
def test_recipes_for_older_gpus(last: str, machine: dict[str, str], tmp_path: Path) -> None:
    pinned = PINNED[last]
    asked = [bindings(item) for item in pinned.requirements(machine["sys_platform"])]
    asked = [item for item in asked if not item.startswith("tensorrt==")]  # no wheel, a script
    for python in pinned.python:
        assert "cuda-bindings" in resolved(asked, python, machine, tmp_path)


@pytest.mark.parametrize("extra", ["gpu", "gpu-cu12", "rtx", "export"])
def test_no_extra_brings_the_other_onnxruntime(extra: str) -> None:
    for machine in (LINUX, ARM, WINDOWS):
        names = [Requirement(item).name for item in wanted(extra, "3.12", machine)]
        assert "onnxruntime" not in names


def test_arm_and_old_python_take_what_there_is() -> None:
    def names(*where: Any) -> list[str]:
        return [Requirement(item).name for item in wanted(*where)]

    assert "onnxruntime-gpu" not in names("gpu", "3.12", ARM)
    assert "onnxruntime-gpu" not in names("gpu", "3.10", LINUX)
    assert "onnxruntime-gpu" in names("gpu-cu12", "3.10", LINUX)
    assert "tensorrt-rtx-cu13-bindings" in names("rtx", "3.12", ARM)
    mac = {**LINUX, "sys_platform": "darwin", "platform_machine": "arm64"}
    assert names("rtx", "3.12", mac) == []
