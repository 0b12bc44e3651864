"""`srtool infer` over folders: shards, status, results of other engines, names, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Run = Callable[..., Any]  # of conftest
LAUNCH = "from srtool.cli.main import main; main()"


@pytest.fixture
def images(run: Run, write_png: Any, compact_engine: Path) -> Path:
    """The folder `in` of the current folder, with six images, and an engine."""
    for number in range(6):
        write_png(Path("in") / f"{number}.png", np.full((9, 8 + number, 3), 90, np.uint8))
    return Path("in")


ENGINE = ["--engine", "engine/x4.onnx", "--backend", "onnxruntime"]


def test_shards_and_status(images: Path, run: Run) -> None:
    (images / "5.png").write_bytes(b"broken")
    status = ["infer", "in", "-o", "out", "--status"]
    assert run(*status).out == "0 done, 6 missing, 0 failed of 6\n"
    done = 0
    for part in ("1/2", "2/2"):
        result = run("infer", "in", "-o", "out", *ENGINE, "--shard", part, "--json")
        line = json.loads(result.out)
        done += line["files"]
        assert result.code == (1 if line["failed"] else 0)
    assert done == 5
    result = run(*status)
    assert result.code == 1
    assert result.out == "5 done, 0 missing, 1 failed of 6\n"
    assert "5.png" in result.err
    (images / "5.png").unlink()
    assert run(*status).code == 0
    assert len(list(Path("out").glob(".srtool-index-*"))) == 2


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_shards_that_are_none(images: Path, run: Run, shard: str) -> None:
    result = run("infer", "in", "-o", "out", *ENGINE, f"--shard={shard}")
    assert result.code == 2
    assert shard in result.complaint


def test_results_with_other_options_are_named_and_counted(images: Path, run: Run) -> None:
    assert run("infer", "in", "-o", "out", *ENGINE, "--format", "jpg").code == 0
    more = ["infer", "in", "-o", "out", *ENGINE, "--format", "jpg", "--quality", "50"]
    result = run(*more, "--json")
    assert result.code == 1
    assert json.loads(result.out)["other"] == 6
    assert "out/0.jpg" in result.err
    assert len([line for line in result.lines if "other options" in line]) == 6  # 5 and the rest
    assert run(*more, "--overwrite").code == 0
    assert json.loads(run(*more, "--json").out)["skipped"] == 6


def test_what_is_passed_over_is_told(images: Path, run: Run) -> None:
    for name in ("notes.txt", "a.tga", "b.tga", ".thumbnails/0.png"):
        path = images / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    result = run("infer", "in", "-o", "out", *ENGINE)
    assert result.code == 0
    assert "2 .tga, 1 .txt" in result.err
    assert "1 images in hidden" in result.err


@pytest.mark.skipif(os.name == "nt", reason="such names are for Unix")
def test_control_characters_do_not_reach_the_terminal(images: Path, run: Run) -> None:
    (images / "red\x1b[31m\nbell\a.png").write_bytes(b"broken")
    result = run("infer", "in", "-o", "out", *ENGINE)
    assert result.code == 1
    assert "\x1b" not in result.err
    assert "\a" not in result.err
    assert "red\\x1b[31m" in result.err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_sigterm_winds_up_as_ctrl_c_does(images: Path, write_png: Any) -> None:
    random = np.random.default_rng(0)
    for number in range(300):
        picture = random.integers(0, 256, (200, 200, 3), np.uint8)
        write_png(Path("many") / f"{number:03}.png", picture)
    command = [sys.executable, "-c", LAUNCH, "infer", "many", "-o", "out", *ENGINE, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        patience = time.monotonic() + 120
        while not list(Path("out").glob("???.png")) and time.monotonic() < patience:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"Traceback" not in err
    assert json.loads(out)["files"] == len(list(Path("out").glob("???.png")))
    assert [path.name for path in Path("out").glob(".srtool-*")] == [".srtool-index.jsonl"]
