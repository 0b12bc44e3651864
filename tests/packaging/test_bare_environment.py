"""The runtime in an environment that has the `cpu` extra and nothing else: no torch, no onnx."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytestmark = pytest.mark.slow  # it installs packages
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bare(wheel: Path, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment with `srtool[cpu]` from the wheel of these sources."""
    folder = tmp_path_factory.mktemp("bare")
    made = command(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    assert made.returncode == 0, made.stderr
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check"]
    index = command(*pip, "download", "--no-deps", "--dest", folder, "typer", folder=folder)
    if index.returncode:
        pytest.skip(f"pip reaches no package index: {index.stderr.strip().splitlines()[-1]}")
    done = command(*pip, "install", "--quiet", f"{wheel}[cpu]", folder=folder)
    assert done.returncode == 0, done.stderr
    return programs


def absent(command: Command, programs: Path, *modules: str) -> bool:
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
    bare: Path,
    command: Command,
    compact_engine: Path,
    compact_weights: Path,
    tmp_path: Path,
    write_png: Any,
) -> None:
    from srtool.runtime.opening import open_engine

    assert absent(command, bare, "torch", "torchvision", "onnx", "spandrel", "safetensors", "scipy")
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
        expected = reference.upscale_batch(noise(np.uint8)[None])[0]
        assert plain.dtype == np.uint8
        assert np.abs(plain.astype(int) - expected).max() <= 1
        expected = reference.upscale_batch(noise(np.uint16)[None] / np.float32(65535))[0]
        assert deep.dtype == np.uint16
        assert np.abs(deep - 65535 * expected.clip(0, 1)).max() <= 2


def test_a_folder_of_photographs_needs_no_engine_file(
    bare: Path, command: Command, tmp_path: Path, write_png: Any
) -> None:
    """The network in the wheel gives the pixels that it gives here, on the same backend."""
    from srtool.models import cards
    from srtool.runtime.opening import open_engine

    write_png(tmp_path / "photos" / "a.png", noise(np.uint8))
    write_png(tmp_path / "photos" / "deep.png", noise(np.uint16))
    srtool = bare / "srtool"
    options = ["--backend", "onnxruntime"]
    done = command(srtool, "infer", "photos/", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 upscaled" in done.stdout
    with open_engine(cards()[0].path, "onnxruntime") as engine:
        expected = engine.upscale(noise(np.uint8))
    made = read(tmp_path / "upscaled" / "a.png")
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert read(tmp_path / "upscaled" / "deep.png").dtype == np.uint16
    listed = command(srtool, "models", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert [card.name for card in cards() if card.name not in listed.stdout] == []
    for card in cards():
        options = ["--engine", card.name, "--overwrite"]
        done = command(srtool, "infer", "photos/a.png", *options, folder=tmp_path)
        assert done.returncode == 0, done.stderr


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
    bare: Path,
    command: Command,
    tmp_path: Path,
    write_png: Any,
    arguments: list[str],
    words: list[str],
) -> None:
    write_png(tmp_path / "in" / "a.png", noise(np.uint8))
    (tmp_path / "x4.pth").write_bytes(b"weights")
    done = command(bare / "srtool", *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("srtool: ")
    assert [word for word in words if word not in line] == []


def test_help_and_version(bare: Path, command: Command) -> None:
    assert command(bare / "srtool", "--help", folder=bare).returncode == 0
    assert command(bare / "srtool", "infer", "--help", folder=bare).returncode == 0
