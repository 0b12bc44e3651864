"""`srtool infer` with a list of names, and in a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOISE = np.random.default_rng(0).integers(1, 256, (20, 30, 3)).astype(np.uint8)
SRTOOL = [sys.executable, "-m", "srtool", "infer"]


def test_a_list_of_names(tmp_path: Path, write_png: Any, run: Any) -> None:
    for name in ("a", "b", "c"):
        write_png(Path(f"{name}.png"), NOISE)
    Path("names.txt").write_text("a.png\n\nc.png\n", encoding="utf-8")
    result = run("infer", "--list", "names.txt", "-o", "out", "--backend", "onnxruntime")
    assert result.code == 0, result.err
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a.png", "c.png"]
    assert "lost.txt" in run("infer", "--list", "lost.txt").complaint
    assert run("infer").code == 2


@pytest.mark.parametrize("options", [[], ["--format", "webp"], ["--scale", "1.5"]], ids=str)
def test_a_pipe(tmp_path: Path, write_png: Any, options: list[str]) -> None:
    import pyvips

    content = write_png(tmp_path / "a.png", NOISE).read_bytes()
    done = subprocess.run(
        [*SRTOOL, "-", "--backend", "onnxruntime", *options], input=content, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    image = pyvips.Image.new_from_buffer(done.stdout, "")
    assert (image.width, image.height) == ((45, 30) if "--scale" in options else (120, 80))
    assert ("webp" in image.get("vips-loader")) == ("webp" in options)


def test_a_pipe_of_something_else(tmp_path: Path) -> None:
    done = subprocess.run([*SRTOOL, "-"], input=b"no image", capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
