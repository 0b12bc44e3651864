"""A candidate in a process of its own: real processes, that open, fail, crash and hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.benchmarks.speed.opened import open_engine_candidate
from srtool.benchmarks.speed.process import Process, ProcessError, _Served, run_apart

# What a process opens is pickled by name, and pickle does not know this file's: builtins do.
NEAREST = partial(
    eval,
    "__import__('srtool.benchmarks.speed.opened', fromlist=['Opened']).Opened("
    "lambda x: x.repeat(4, 1).repeat(4, 2), 'nearest 1.0', 'fp32')",
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8))
    return path


def test_it_runs_what_it_opened(images: Path) -> None:
    with Process(NEAREST) as process:
        assert (process.ready.software, process.ready.precision) == ("nearest 1.0", "fp32")
        assert process.ready.backend == ""
        assert 0 < process.ready.seconds < 60
        assert 0 < process.run(images) < 1
        expected = np.load(images).repeat(4, 1).repeat(4, 2)
        assert np.array_equal(process.result(), expected)


def test_an_engine_upscales_pixels_and_files(compact_engine: Path, tmp_path: Path) -> None:
    from srtool.benchmarks.speed.rounds import pieces, write_files
    from srtool.runtime.opening import open_engine

    image = tmp_path / "image.npy"
    np.save(image, pieces(1, 40, 24))
    with Process(partial(open_engine_candidate, compact_engine, "onnxruntime")) as process:
        assert process.ready.backend == "onnxruntime fp32"
        assert process.ready.software.startswith("onnxruntime 1.")
        process.run(image)
        whole = process.result()
        engine = open_engine(compact_engine, "onnxruntime")
        assert np.array_equal(whole, engine.upscale_batch(np.load(image)))
        process.use_tile(36)
        process.run(image)
        tiled = process.result()
        assert tiled.shape == whole.shape == (1, 96, 160, 3)
        sources = write_files(tmp_path / "in", 3, 20, 12)
        found = process.folder(sources, (20, 12), tmp_path / "out")
        sources[1].write_bytes(b"no image")
        with pytest.raises(ProcessError, match="1 of 3 images failed"):
            process.folder(sources, (20, 12), tmp_path / "out")
    assert (found.files, found.size) == (3, (20, 12))
    assert 0 < found.compute < found.seconds
    assert list((tmp_path / "out").iterdir()) == []


def test_a_side_that_does_not_open_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"none\.onnx: no such engine"):
        Process(partial(open_engine_candidate, tmp_path / "none.onnx", "auto"))


@pytest.mark.parametrize(
    ("opener", "reason"),
    [
        (partial(exec, "raise RuntimeError('broken\\nand more')"), "^broken and more$"),
        (partial(exec, "raise MemoryError"), "not enough memory"),
        (
            partial(exec, "import os, sys; os.write(2, b'bad kernel\\n'); os._exit(3)"),
            "code 3 .bad",
        ),
    ],
)
def test_what_goes_wrong_inside_is_one_line(opener: partial[None], reason: str) -> None:
    with pytest.raises(ProcessError, match=reason):
        Process(opener)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_process_that_is_killed_or_hangs() -> None:
    with pytest.raises(ProcessError, match="ended by the system"):
        Process(partial(exec, KILL))
    start = time.monotonic()
    with pytest.raises(ProcessError, match="did not answer within 1 s"):
        Process(partial(time.sleep, 600), limit=1)
    assert time.monotonic() - start < 300


KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_what_runs_apart_gives_its_result() -> None:
    assert run_apart(partial(pow, 2, 10)) == 1024
    with pytest.raises(ProcessError, match="base 10"):
        run_apart(partial(int, "x"))


def test_a_failing_image_leaves_the_process_alive(images: Path, tmp_path: Path) -> None:
    with Process(NEAREST) as process:
        with pytest.raises(ProcessError, match=r"none\.npy"):
            process.run(tmp_path / "none.npy")
        process.run(images)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a peak since the beginning")
def test_peak_memory_is_of_the_run(tmp_path: Path) -> None:
    large, small = tmp_path / "large.npy", tmp_path / "small.npy"
    np.save(large, np.zeros((1, 1500, 1500, 3), np.uint8))  # 108 MB once upscaled
    np.save(small, np.zeros((1, 4, 4, 3), np.uint8))
    with Process(NEAREST) as process:
        process.run(small)
        before = process.peak_memory()
        process.run(large)
        held = process.peak_memory()
        process.run(small)
        process.peak_memory()
        process.run(small)
        after = process.peak_memory()
    assert before
    assert held
    assert after
    assert held - before > 100e6
    assert held - after > 100e6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_threads_limit_the_cpus() -> None:
    count = (
        "__import__('srtool.benchmarks.speed.opened', fromlist=['Opened']).Opened("
        "lambda x: x, str(len(__import__('os').sched_getaffinity(0))), 'fp32')"
    )
    with Process(partial(eval, count), threads=1) as process:
        assert process.ready.software == "1"


def test_the_process_ends_with_its_parent_s_wish() -> None:
    process = Process(NEAREST)
    child, log = process._process, process._log
    process.close()
    assert not child.is_alive()
    assert not log.exists()


def test_an_engine_is_told_how_many_images_come(
    compact_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtool.runtime.engine import Engine

    told: list[Any] = []
    monkeypatch.setattr(Engine, "prepare", lambda self, *announced: told.append(announced))
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((2, 20, 30, 3), np.uint8))
    served = _Served(open_engine_candidate(compact_engine, "onnxruntime"))
    served.run(path, 7)
    assert told == [((2, 20, 30, 3), np.uint8, 7)]
    served.tile(20)  # two tiles of an image: 20x17, with halos
    told.clear()
    served.run(path, 7)
    ((shape, _, times), second) = told
    assert second == (shape, np.uint8, times)
    assert (shape[0], shape[1], times) == (1, 20, 14)


def test_an_engine_s_process_holds_no_more_than_infer_does(compact_engine: Path) -> None:
    loaded = (
        "import sys; from pathlib import Path; "
        "from srtool.benchmarks.speed import opened, process; "
        f"opened.open_engine_candidate(Path({str(compact_engine)!r}), 'onnxruntime'); "
        "assert not {'torch', 'onnx', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
