"""The runtime in an environment that has the `cpu` extra and nothing else: no torch, no onnx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["src", "train", "export", "runtime", "benchmarks", "samples"]


def command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a user of the environment would, without this process's paths."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with `srtool[cpu]` from these sources."""
    folder = tmp_path_factory.mktemp("bare")
    # A copy: an installation leaves its build folder behind.
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
    made = command(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    assert made.returncode == 0, made.stderr
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    index = command(*pip, "download", "--no-deps", "--dest", folder, "typer", folder=folder)
    if index.returncode:
        pytest.skip(f"pip reaches no package index: {index.stderr.strip().splitlines()[-1]}")
    done = command(*pip, "install", "--quiet", f"{sources}[cpu]", folder=folder)
    assert done.returncode == 0, done.stderr
    return programs


def absent(programs: Path, *modules: str) -> bool:
    code = f"import importlib.util as u; print([m for m in {modules} if u.find_spec(m)])"
    done = command(programs / "python", "-c", code, folder=programs)
    assert done.returncode == 0, done.stderr
    return done.stdout == "[]\n"


def noise(dtype: Any) -> NDArray[Any]:
    random = np.random.default_rng(0)
    return random.integers(0, np.iinfo(dtype).max, (20, 31, 3), dtype, endpoint=True)


def read(path: Path) -> NDArray[Any]:
    import pyvips

    pixels: NDArray[Any] = pyvips.Image.new_from_file(str(path), fail_on="error").numpy()
    return pixels


def test_images_are_upscaled_without_torch(
    bare: Path, compact_engine: Path, compact_weights: Path, tmp_path: Path, write_png: Any
) -> None:
    from srtool.runtime.engine import open_engine

    assert absent(bare, "torch", "torchvision", "onnx", "spandrel", "safetensors", "scipy")
    write_png(tmp_path / "in" / "plain.png", noise(np.uint8))
    write_png(tmp_path / "in" / "deep.png", noise(np.uint16))
    srtool = bare / "srtool"
    reference = open_engine(compact_weights)
    for backend in ("onnxruntime", "openvino"):
        out = tmp_path / backend
        options = ["--engine", compact_engine, "--backend", backend, "--precision", "fp32"]
        done = command(srtool, "infer", "in", *options, "-o", out, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "2 upscaled" in done.stdout
        plain, deep = read(out / "plain.png"), read(out / "deep.png")
        expected = reference.upscale(noise(np.uint8)[None])[0]
        assert plain.dtype == np.uint8
        assert np.abs(plain.astype(int) - expected).max() <= 1
        expected = reference.upscale(noise(np.uint16)[None] / np.float32(65535))[0]
        assert deep.dtype == np.uint16
        assert np.abs(deep - 65535 * expected.clip(0, 1)).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infer", "in", "--engine", "x4.pth"], ["x4.pth", "PyTorch", "srtool[export]", ".onnx"]),
        (["export", "x4.pth"], ["srtool[export]"]),
        (["train", "lite.yaml", "--data", "in"], ["srtool[train]"]),
    ],
    ids=lambda value: value[0],
)
def test_what_needs_torch_says_so_in_one_line(
    bare: Path, tmp_path: Path, write_png: Any, arguments: list[str], words: list[str]
) -> None:
    write_png(tmp_path / "in" / "a.png", noise(np.uint8))
    (tmp_path / "x4.pth").write_bytes(b"weights")
    done = command(bare / "srtool", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("srtool: ")
    assert [word for word in words if word not in line] == []


def test_help_and_version(bare: Path) -> None:
    assert command(bare / "srtool", "--help", folder=bare).returncode == 0
    assert command(bare / "srtool", "infer", "--help", folder=bare).returncode == 0
