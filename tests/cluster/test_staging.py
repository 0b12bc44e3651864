"""`srtool infer` from and to object storage: the pixels of a local run, whole objects, no request
for what is there."""

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
from zipfile import ZipFile

import numpy as np
import pytest

from srtool.cluster.storage import Folder, open_folder
from srtool.images.picture import Picture
from srtool.images.writing import write_image

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow  # with a real S3 server


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder, random = tmp_path / "in", np.random.default_rng(5)
    for number in range(4):
        pixels = random.integers(0, 256, (20 + number, 30, 3), np.uint8)
        write_image(folder / "a b" / f"{number}ü.png", Picture(pixels))
    return folder


@pytest.fixture
def stored(line: Any, photographs: Path) -> Folder:
    """The photographs in the store, and what is none."""
    folder = open_folder("s3://pictures/in")
    for path in photographs.rglob("*.png"):
        folder.write(path.relative_to(photographs).as_posix(), path)
    put(folder, "notes.txt", "no picture")
    put(folder, "@eaDir/thumbnail.png", "nor this")
    return folder


def put(folder: Folder, name: str, text: str) -> None:
    folder.system.pipe_file(f"{folder.root}/{name}", text.encode())


def results(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.sizes() if name.endswith(".png")}


def test_pixels_are_those_of_a_local_run_and_a_rerun_skips(
    run: Callable[..., Any], stored: Folder, photographs: Path, tmp_path: Path
) -> None:
    put(stored, "broken.png", "no picture by its content")
    first = run("infer", stored.url, "-o", "s3://pictures/out", "--json")
    assert first.code == 1
    assert json.loads(first.out)["files"] == 4
    assert "s3://pictures/in/broken.png" in first.err
    run("infer", photographs, "-o", tmp_path / "out")
    here = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*.png")
    }
    assert results(open_folder("s3://pictures/out")) == here
    again = json.loads(run("infer", stored.url, "-o", "s3://pictures/out", "--json").out)
    assert (again["files"], again["skipped"], again["failed"]) == (0, 4, 1)
    status = run("infer", stored.url, "-o", "s3://pictures/out", "--status")
    assert status.out.split() == ["4", "done,", "0", "missing,", "1", "failed", "of", "5"]
    assert "/tmp" not in status.err


def test_results_of_other_options_are_named_not_redone(
    run: Callable[..., Any], stored: Folder
) -> None:
    out = "s3://pictures/out"
    assert run("infer", stored.url, "-o", out, "--format", "jpg", "--quality", "90").code == 0
    again = run("infer", stored.url, "-o", out, "--format", "jpg", "--quality", "50", "--json")
    assert again.code == 1
    assert json.loads(again.out)["other"] == 4
    redone = run(
        "infer", stored.url, "-o", out, "--format", "jpg", "--quality", "50", "--overwrite"
    )
    assert redone.code == 0


def test_results_beside_their_sources_are_no_sources(
    run: Callable[..., Any], stored: Folder
) -> None:
    for _ in range(2):
        assert run("infer", stored.url, "-o", stored.url, "--suffix", "_4x").code == 0
    assert len(results(stored)) == 9  # four, their results, and a thumbnail


def test_from_the_disk_from_an_archive_and_shards(
    run: Callable[..., Any], line: Any, photographs: Path, tmp_path: Path
) -> None:
    with ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photographs.rglob("*.png"):
            archive.write(path, path.relative_to(photographs).as_posix())
    for part in ("1/2", "2/2"):
        url = f"zip://*::{tmp_path}/photos.zip"
        assert run("infer", url, "-o", "s3://pictures/z", "--shard", part).code in (0, 2)
    assert run("infer", photographs, "-o", "s3://pictures/d").code == 0
    found = results(open_folder("s3://pictures/z"))
    assert len(found) == 4
    assert found == results(open_folder("s3://pictures/d"))


def test_an_engine_in_the_store(
    run: Callable[..., Any],
    line: Any,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from srtool.models import model_names, model_path

    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "cache"))
    path = model_path(model_names()[0])
    engines = open_folder("s3://pictures/engines")
    for file in path.parent.glob(f"{path.stem}.*"):
        engines.write(file.name, file)
    url = f"{engines.url}/{path.name}"
    assert run("infer", photographs, "-o", tmp_path / "a", "--engine", url).code == 0
    assert run("infer", photographs, "-o", tmp_path / "b").code == 0
    for found in (tmp_path / "a").rglob("*.png"):
        assert (
            found.read_bytes() == (tmp_path / "b" / found.relative_to(tmp_path / "a")).read_bytes()
        )
    nothing = run("infer", photographs, "-o", tmp_path / "c", "--engine", url + "x.onnx")
    assert nothing.code == 2


def test_a_killed_process_leaves_whole_results(stored: Folder) -> None:
    command = [sys.executable, "-m", "srtool", "infer", stored.url, "-o", "s3://pictures/out"]
    out = open_folder("s3://pictures/out")
    with subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not results(out) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = results(out)
    assert before
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    after = results(out)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
