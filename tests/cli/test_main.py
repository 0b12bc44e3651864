"""The command line as a user meets it: exit codes, one line per error, one JSON line, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import srtool
from srtool.errors import ExportError

Run = Callable[..., Any]  # of conftest
INDEX = ".srtool-index.jsonl"


# Its handler of Ctrl-C is missing where this process was started in the background of a shell.
LAUNCH = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from srtool.cli.main import main; main()"
)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", LAUNCH, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def noise(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> NDArray[Any]:
    random = np.random.default_rng(height * width)
    peak = np.iinfo(dtype).max
    return random.integers(0, peak, (height, width, channels), dtype, endpoint=True)


def read(path: Path) -> NDArray[Any]:
    import pyvips

    pixels: NDArray[Any] = pyvips.Image.new_from_file(str(path), fail_on="error").numpy()
    return pixels


# What there is


def test_help_and_version_in_a_process_of_their_own() -> None:
    with start("--help") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    for command in ("train", "export", "infer", "evaluate"):
        assert re.search(rf"\b{command}\b", out)
    with start("--version") as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    first, parts = out.splitlines()
    assert first == f"srtool {srtool.__version__}"
    assert f"numpy {np.__version__}" in parts.split(", ")


def test_the_shell_completes_commands_and_networks() -> None:
    for words, expected in (("srtool inf", "infer"), ("srtool infer a.png --engine x4-", "x4-")):
        environment = {
            **os.environ,
            "_SRTOOL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        code = "import sys; sys.argv = ['srtool']; from srtool.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()
        assert all(word.startswith(expected) for word in done.stdout.split())


@pytest.mark.parametrize("words", [("infer", "-q"), ("--quiet", "infer")])
def test_quiet_prints_what_goes_wrong_alone(
    run: Run, tmp_path: Path, write_png: Any, compact_engine: Path, words: tuple[str, ...]
) -> None:
    write_png(tmp_path / "in" / "good.png", noise(12, 16))
    options = ["in", "--engine", compact_engine]
    result = run(*words, *options)
    assert (result.code, result.out, result.err) == (0, "", "")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    result = run(*words, *options)
    (line,) = result.lines
    assert (result.code, result.out) == (1, "")
    assert "bad.png" in line
    assert run("infer", *options).out  # not quiet any more


@pytest.mark.parametrize("command", ["train", "export", "infer", "evaluate"])
def test_help_of_the_commands(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "--" in result.out


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["infer", "in", "--engine", "x4.onnx", "--tile", "15"],
        ["infer", "in", "--engine", "x4.onnx", "--tile", "many"],
        ["infer", "in", "--engine", "x4.onnx", "--halo", "-1"],
        ["infer", "in", "--engine", "x4.onnx", "--backend", "abacus"],
        ["infer", "in", "--engine", "x4.onnx", "--precision", "int8"],
        ["infer", "in", "--engine", "x4.onnx", "--format", "bmp"],
        ["infer", "in", "--engine", "x4.onnx", "--quality", "101"],
        ["infer", "in", "--engine", "x4.onnx", "--depth", "16"],
        ["export"],
        ["export", "x.pth", "--precision", "int8"],
        ["export", "x.pth", "--io", "float16"],
        ["train", "lite.yaml"],
    ],
    ids=" ".join,
)
def test_bad_options(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Usage:" in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def scene(run: Run, write_png: Any, compact_engine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an image, an engine and files that are neither; no assets."""
    monkeypatch.setenv("SRTOOL_ASSETS", str(Path.cwd() / "assets"))
    write_png(Path("in/a.png"), noise(12, 10))
    Path("text.onnx").write_text("I am a text, honestly.\n" * 20)
    Path("empty.onnx").write_bytes(b"")
    Path("x4.plan").write_bytes(b"plan")
    Path("text.pth").write_text("I am a text")
    Path("empty").mkdir()
    assert Path("engine/x4.onnx").samefile(compact_engine)
    return Path.cwd()


ENGINE = ["--engine", "engine/x4.onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["infer", "in", "--engine", "none.onnx"], ["none.onnx", "srtool export"]),
        (["infer", "in", "--engine", "in"], ["in: no such engine"]),
        (["infer", "in", "--engine", "text.onnx"], ["text.onnx", "no ONNX model"]),
        (["infer", "in", "--engine", "empty.onnx"], ["empty.onnx", "no ONNX model"]),
        (["infer", "in", "--engine", "x4.plan"], ["x4.plan.json is missing"]),
        (["infer", "in", "--engine", "in/a.png"], ["in/a.png", ".onnx"]),
        (["infer", "in", "--engine", "text.pth"], ["text.pth", "weights"]),
        (["infer", "in", "--engine", "none.pth"], ["none.pth"]),
        (["infer", "none", *ENGINE], ["none: no such file or folder"]),
        (["infer", "in", "none.png", *ENGINE], ["none.png: no such file or folder"]),
        (["infer", "empty", *ENGINE], ["empty", "no images"]),
        (["infer", "in", *ENGINE, "--tile", "32", "--halo", "16"], ["--tile", "32", "halo of 16"]),
        (["infer", "in", *ENGINE, "-o", "text.onnx/out"], ["text.onnx/out", "-o"]),
        (["infer", "in", *ENGINE, "-o", "in"], ["in/a.png", "overwritten"]),
        (["infer", "in", *ENGINE, "--backend", "torch"], ["x4.onnx", "torch"]),
        (["export", "none.pth"], ["none.pth", "no such file"]),
        (["export", "text.pth"], ["text.pth", "weights"]),
        (["export", "in"], ["in", "no such file"]),
        (["export", "text.pth", "-o", "x4.plan"], ["x4.plan", ".onnx"]),
        (["train", "none.yaml", "--data", "in"], ["none.yaml"]),
        (["train", "tiny.yaml", "--data", "empty"], ["empty", "no images"]),
        (["train", "tiny.yaml", "--data", "none"], ["none", "no such"]),
        (["train", "tiny.yaml", "--data", "in"], ["in", "smaller than the patch 32"]),
        (["train", "tiny.yaml", "--data", "text.onnx"], ["text.onnx"]),
        (["train", "tiny.yaml", "--data", "in", "--start-from", "text.pth"], ["text.pth"]),
        (["train", "tiny.yaml", "--data", "in", "--device", "abacus"], ["abacus", "cuda"]),
        (["train", "tiny.yaml", "--data", "in", "--out", "text.onnx"], ["text.onnx", "--out"]),
        (["train", "tiny.yaml", "--data", "in", "--show-batch", "x.jpg"], ["smaller"]),
        (["train", "paper_no_unet.yaml", "--data", "in"], ["fetch alexnet"]),
        (["train", "paper_no_lpips.yaml", "--data", "in"], ["fetch vgg19"]),
        (["train", "prepare", "empty"], ["empty", "no images"]),
        (["train", "prepare", "in", "-o", "text.onnx"], ["text.onnx", "exists"]),
    ],
    ids=lambda value: " ".join(value) if "in" in value or "export" in value else "",
)
def test_bad_input_is_one_line(
    scene: Path, run: Run, arguments: list[str], words: list[str]
) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert [word for word in words if word not in result.complaint] == []
    assert len(result.err.splitlines()) == 1


def test_a_bad_engine_in_a_process_of_its_own(scene: Path) -> None:
    with start("infer", "in", "--engine", "text.onnx") as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("srtool: text.onnx: is no ONNX model")


# The main job


def test_infer(scene: Path, run: Run, write_png: Any) -> None:
    from srtool.runtime.opening import open_engine

    write_png(Path("in/x/b.jpg"), noise(9, 14))
    write_png(Path("in/deep.png"), noise(7, 8, dtype=np.uint16))
    result = run("infer", "in", *ENGINE, "-o", "out", "--backend", "onnxruntime", "--json")
    assert result.code == 0
    assert result.out.count("\n") == 1
    line = json.loads(result.out)
    pixels = 12 * 10 + 9 * 14 + 7 * 8
    assert (line["files"], line["skipped"], line["failed"]) == (3, 0, 0)
    assert (line["pixels_in"], line["pixels_out"]) == (pixels, 16 * pixels)
    assert (line["engine"], line["backend"]) == ("engine/x4.onnx", "onnxruntime fp32")
    assert line["seconds"].keys() == {"decode", "compute", "encode", "total"}
    assert result.lines == ["engine/x4.onnx on onnxruntime fp32 (asked for)"]

    found = {str(path.relative_to("out")): path for path in Path("out").rglob("*.*")}
    assert found.keys() == {"a.png", "x/b.jpg", "deep.png", INDEX}
    expected = open_engine("engine/x4.onnx", "onnxruntime").upscale_batch(noise(12, 10)[None])[0]
    assert np.array_equal(read(found["a.png"]), expected)
    assert read(found["x/b.jpg"]).shape == (36, 56, 3)
    assert read(found["deep.png"]).dtype == np.uint16

    again = run("infer", "in", *ENGINE, "-o", "out", "--json")
    assert again.code == 0
    assert (json.loads(again.out)["files"], json.loads(again.out)["skipped"]) == (0, 3)


def test_infer_one_file(scene: Path, run: Run, write_png: Any) -> None:
    write_png(Path("deep.png"), noise(7, 8, dtype=np.uint16))
    fast = ["--backend", "onnxruntime"]
    assert run("infer", "in/a.png", *ENGINE, *fast).code == 0
    assert read(Path("upscaled/a.png")).shape == (48, 40, 3)
    assert run("infer", "in/a.png", *ENGINE, *fast, "-o", "new/b.webp", "--quality", "50").code == 0
    assert read(Path("new/b.webp")).shape == (48, 40, 3)
    result = run("infer", "deep.png", *ENGINE, *fast, "-o", "o", "--depth", 8, "--suffix", "_x4")
    assert result.code == 0
    assert "1 upscaled" in result.out
    assert read(Path("o/deep_x4.png")).dtype == np.uint8


def test_infer_with_weights(scene: Path, run: Run, compact_weights: Path) -> None:
    result = run("infer", "in", "--engine", compact_weights, "-o", "reference", "--json")
    assert result.code == 0
    assert json.loads(result.out)["backend"] == "torch fp32"
    assert run("infer", "in", *ENGINE, "-o", "engine-out", "--precision", "fp32").code == 0
    gap = read(Path("reference/a.png")).astype(int) - read(Path("engine-out/a.png"))
    assert np.abs(gap).max() <= 1


def test_bad_images_do_not_stop_the_others(scene: Path, run: Run, write_png: Any) -> None:
    Path("in/b[1].png").write_bytes(b"")
    Path("in/c.png").write_text("I am a text, honestly.\n" * 20)
    write_png(Path("in/d.png"), noise(1, 1))
    result = run("infer", "in", *ENGINE, "-o", "out", "--json", "--backend", "onnxruntime")
    assert result.code == 1
    line = json.loads(result.out)
    assert (line["files"], line["failed"]) == (1, 3)
    assert sorted(path.name for path in Path("out").iterdir()) == [INDEX, "a.png"]
    lines = result.lines[1:]
    assert len(lines) == 3
    for name, text in zip(["in/b[1].png", "in/c.png", "in/d.png"], lines, strict=True):
        assert text.startswith(f"{name}: ")


def test_a_missing_companion_fails_the_deep_images_only(
    scene: Path, run: Run, write_png: Any
) -> None:
    Path("engine/x4.float32.onnx").unlink()
    write_png(Path("in/deep.png"), noise(7, 8, dtype=np.uint16))
    result = run("infer", "in", *ENGINE, "-o", "out", "--backend", "onnxruntime")
    assert result.code == 1
    assert "1 upscaled, 1 failed" in result.out
    assert re.search(r"^in/deep\.png: .*companion", result.err, re.MULTILINE)


# Export


def test_export_and_infer(scene: Path, run: Run, compact_weights: Path, hr_images: Path) -> None:
    result = run(
        "export", compact_weights, "-o", "new/x4.onnx", "--io", "float32", "--images", hr_images
    )
    assert result.code == 0
    assert "new/x4.onnx" in result.out
    assert "exact" in result.out
    seen = {path.name for path in Path("new").iterdir() if not path.name.startswith(".srtool-")}
    assert seen == {"x4.onnx", "x4.onnx.json"}
    assert run("infer", "in", "--engine", "new/x4.onnx", "-o", "out").code == 0
    assert read(Path("out/a.png")).shape == (48, 40, 3)


def test_an_export_that_fails_its_bar_exits_with_1(
    run: Run, compact_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtool.export import onnx

    def fails(*arguments: Any, **named: Any) -> Any:
        raise ExportError("x4.onnx: does not do what the network does")

    monkeypatch.setattr(onnx, "export", fails)
    result = run("export", compact_weights, "-o", "x4.onnx")
    assert result.code == 1
    assert result.complaint == "srtool: x4.onnx: does not do what the network does"


# Ctrl-C


def test_an_interrupt_is_no_traceback(
    scene: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtool.runtime import folder as pipeline

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline._Run, "_start", interrupted)
    result = run("infer", "in", *ENGINE, "--backend", "onnxruntime", "--json")
    assert result.code == 130
    assert json.loads(result.out)["files"] == 0
    assert "interrupted" in result.err
    assert "Traceback" not in result.err


def test_an_interrupted_folder_is_completed_by_the_same_command(
    scene: Path, write_png: Any
) -> None:
    for n in range(60):
        write_png(Path(f"many/{n:02}.png"), noise(120 + n, 160))
    command = ["infer", "many", *ENGINE, "-o", "out", "--backend", "onnxruntime", "--json"]
    with start(*command) as process:
        patience = time.monotonic() + 120
        while len(list(Path("out").glob("??.png"))) < 3 and time.monotonic() < patience:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    done = json.loads(out)["files"]
    assert 3 <= done < 60
    assert len(list(Path("out").glob("*.png"))) == done
    assert {path.name for path in Path("out").iterdir() if path.suffix != ".png"} == {INDEX}
    for path in Path("out").glob("*.png"):
        assert read(path).shape == (4 * (120 + int(path.stem)), 640, 3)

    with start(*command) as process:
        out, err = process.communicate()
    assert process.returncode == 0
    assert (json.loads(out)["files"], json.loads(out)["skipped"]) == (60 - done, done)
    names = [INDEX, *(f"{n:02}.png" for n in range(60))]
    assert sorted(path.name for path in Path("out").iterdir()) == names


# Training
