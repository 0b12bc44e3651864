"""`srtool infer` over folders, lists and pipes: shards, status, results of other engines, names,
signals."""

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
# Python started by a shell in its background would ignore Ctrl-C
WATCH = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from srtool.runtime import watching; watching.arriving.__defaults__ = (0.05,);" + LAUNCH
)


@pytest.fixture
def images(run: Run, write_png: Any, compact_engine: Path) -> Path:
    """The folder `in` of the current folder, with six images, and an engine."""
    for number in range(6):
        write_png(Path("in") / f"{number}.png", np.full((9, 8 + number, 3), 90, np.uint8))
    return Path("in")


NOISE = np.random.default_rng(0).integers(1, 256, (20, 30, 3)).astype(np.uint8)
SRTOOL = [sys.executable, "-m", "srtool", "infer"]
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
    told = {"done": 5, "missing": 0, "failed": 1, "count": 6}
    assert json.loads(run(*status, "--json").out) == told
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
    assert "{" not in result.err
    assert "quality 50" in result.err
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
    assert "red\\x1b[31m\\nbell" in result.err


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


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_an_interrupt_is_not_lost_in_a_callback(name: str, code: int) -> None:
    """Python drops what is raised in the callback of a weak reference, as an import has them."""
    program = f"""
import os, signal, time, weakref
from srtool.cli import main as cli
class Thing: pass
def app():
    thing = Thing()
    kept = weakref.ref(thing, lambda gone: (os.kill(os.getpid(), signal.{name}), time.sleep(1)))
    del thing
    time.sleep(20)
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.app = app
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_a_dry_run_makes_nothing(run: Run, images: Path) -> None:
    assert run("infer", str(images / "0.png"), "-o", "out", *ENGINE).code == 0
    (images / "1.png").write_bytes(b"broken")
    before = sorted(path.name for path in Path("out").iterdir())
    result = run("infer", "in", "-o", "out", *ENGINE, "--dry-run", "--long-side", "20")
    assert result.code == 1
    *lines, last = result.out.splitlines()
    assert len(lines) == 6
    assert "other options" in lines[0]
    assert "in/1.png" in lines[1]
    assert lines[2].split() == ["in/2.png", "10x9", "->", "out/2.png", "20x18"]
    assert last.startswith("4 pictures, ")
    assert sorted(path.name for path in Path("out").iterdir()) == before
    result = run("infer", "in", "-o", "new/deep", *ENGINE, "--dry-run", "--json")
    told = json.loads(result.out)
    assert (told["files"], told["failed"], told["pixels_out"]) == (
        5,
        1,
        16 * 9 * (8 + 10 + 11 + 12 + 13),
    )
    assert told["seconds"] > 0
    assert told["bytes"] > 0
    assert not Path("new").exists()
    Path("file").touch()
    result = run("infer", "in", "-o", "file/deep", *ENGINE, "--dry-run")
    assert (result.code, result.out) == (2, "")


def test_a_dry_run_of_what_cannot_be_read_foretells_no_time(run: Run, images: Path) -> None:
    """Whose head is whole."""
    whole = (images / "0.png").read_bytes()
    Path("cut").mkdir()
    Path("cut/0.png").write_bytes(whole[: whole.index(b"IDAT") + 8])
    result = run("infer", "cut", "-o", "out", *ENGINE, "--dry-run", "--json")
    told = json.loads(result.out)
    assert told["files"] == 1
    assert told["seconds"] is None
    assert told["bytes"] is None
    assert run("infer", "cut", "-o", "out", *ENGINE, "--dry-run").code == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_watched_folder(images: Path, write_png: Any, name: str) -> None:
    (images / "broken.png").write_bytes(b"broken")
    Path("inbox").mkdir()
    command = [sys.executable, "-c", WATCH, "infer", "inbox", "-o", "out", *ENGINE, "--watch"]
    made = Path("out")
    with subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for number in range(3):
            (images / f"{number}.png").rename(f"inbox/{number}.png")
            wait_for(made / f"{number}.png", process)
        (images / "broken.png").rename("inbox/a-broken.png")
        (images / "3.png").rename("inbox/b.png")
        wait_for(made / "b.png", process)
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1  # of the broken one
    assert "Traceback" not in err
    assert "inbox/0.png -> out/0.png" in err
    counts = json.loads(out)
    assert (counts["files"], counts["failed"]) == (4, 1)
    names = {"0.png", "1.png", "2.png", "b.png", ".srtool-index.jsonl"}
    assert {path.name for path in made.iterdir()} == names
    lines = (made / ".srtool-index.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["file"] for line in lines) == sorted(
        {*names, "a-broken.png"} - {".srtool-index.jsonl"}
    )
    for path in made.glob("*.png"):
        assert path.stat().st_size


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 60
    while not path.exists() and time.monotonic() < patience:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["in/0.png", "--watch"],
        ["in", "--watch", "--dry-run"],
        ["in", "--watch", "-o", "out.png"],
        ["s3://b/in", "--dry-run"],
        ["-", "--dry-run"],
        ["-", "-o", "x.png"],
        ["-", "--suffix", "_x"],
        ["-", "--shard", "1/2"],
        ["-", "--overwrite"],
        ["-", "in"],
        ["in/0.png", "-o", "-"],
        ["in", "--status", "--dry-run"],
        ["in", "--quality", "50"],
        ["in/0.png", "-o", "out.tif", "--quality", "50"],
    ],
    ids=" ".join,
)
def test_what_would_count_for_nothing(run: Run, images: Path, arguments: list[str]) -> None:
    result = run("infer", *arguments, *ENGINE)
    assert (result.code, result.out) == (2, "")
    assert result.complaint
    assert sorted(path.name for path in Path().iterdir()) == ["engine", "in"]


# What is asked of an engine, wherever the pictures lie


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An upscaler of another tool, nearest neighbour, with its image in the second of two
    outputs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scales = numpy_helper.from_array(np.asarray([1, 1, 4, 4], np.float32), "scales")
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["image"], mode="nearest"),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("x", [1, 3, "h", "w"]),
            ("mean", [1, 1, 1, 1]),
            ("image", [1, 3, "H", "W"]),
        )
    ]
    graph = helper.make_graph(nodes, "nearest", values[:1], values[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def stored(folder: Path) -> str:
    """The files of a folder in an object store that lives in this process; its URL."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    for path in folder.iterdir():
        store.pipe_file(f"/in/{path.name}", path.read_bytes())
    return "memory://in"


@pytest.mark.parametrize("place", ["here", "stored"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "lost"], "has no output lost"),
        (["--range", "7"], "expected 1 or 255"),
        (["--require-certified"], "is not certified"),
        (["--tile", "20", "--halo", "10"], "nothing left"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_asked_of_an_engine_counts_everywhere(
    run: Run, images: Path, foreign: Path, place: str, options: list[str], words: str
) -> None:
    source = "in" if place == "here" else stored(images)
    command = ("infer", source, "-o", "out", "--engine", foreign, "--backend", "onnxruntime")
    refused = run(*command, *options)
    assert refused.code == 2
    assert words in refused.complaint
    assert not list(Path().glob("out/*.png"))
    result = run(*command, "--output", "image", "--range", "1")
    assert result.code == 0
    assert sum("is not certified" in line for line in result.lines) == 1
    assert len(list(Path("out").glob("*.png"))) == 6


def test_what_is_for_a_cluster_needs_one(run: Run, images: Path) -> None:
    for option in (["--workers", "2"], ["--gpus-per-worker", "0.5"]):
        assert "--cluster" in run("infer", "in", *option).complaint


# Nothing of the user's is written over


@pytest.mark.parametrize("place", ["here", "file", "stored"])
def test_no_picture_is_written_over(run: Run, images: Path, place: str) -> None:
    import fsspec

    source = {"here": "in", "file": images.resolve().as_uri(), "stored": stored(images)}[place]
    above = "memory://" if place == "stored" else source.rpartition("/")[0] or "."
    (images / "in").mkdir()
    (images / "in" / "0.png").write_bytes((images / "0.png").read_bytes())
    store = fsspec.filesystem("memory")
    store.pipe_file("/in/in/0.png", (images / "0.png").read_bytes())
    before = {path: path.read_bytes() for path in images.rglob("*.png")}
    kept = {path: store.cat_file(path) for path in store.find("/in")}
    for out in (source, above):  # in/in/0.png becomes in/0.png there
        for more in ([], ["--overwrite"]):
            result = run("infer", source, "-o", out, *ENGINE, *more)
            assert result.code == 2
            assert "would be overwritten" in result.complaint
    assert {path: path.read_bytes() for path in before} == before
    assert {path: store.cat_file(path) for path in store.find("/in")} == kept
    for _ in range(2):
        assert run("infer", source, "-o", source, "--suffix", "_x4", *ENGINE).code == 0
        assert run("infer", source, "-o", f"{source}/out", *ENGINE).code == 0
    made = store.find("/in") if place == "stored" else [str(path) for path in images.rglob("*.png")]
    assert len([path for path in made if path.endswith(".png")]) == 7 * 3


@pytest.mark.parametrize("suffix", ["/../x", "a/b", "..\\x", "\0"])
def test_a_suffix_is_part_of_a_name(run: Run, images: Path, suffix: str) -> None:
    for source in ("in", stored(images)):
        result = run("infer", source, "-o", "out", "--suffix", suffix, *ENGINE)
        assert result.code == 2
        assert "--suffix" in result.complaint
    assert "--suffix" in run("infer", "in/0.png", "-o", "o.png", "--suffix", "_x").complaint


@pytest.mark.parametrize("out", ["memory://out.png", "out.jpg"])
def test_what_comes_from_a_url_goes_into_a_folder(run: Run, images: Path, out: str) -> None:
    result = run("infer", f"{stored(images)}/0.png", "-o", out, *ENGINE)
    assert result.code == 2
    assert out in result.complaint


# Names in a list, and a pipe


def test_a_list_of_names(write_png: Any, run: Run) -> None:
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_closed_stream_is_one_line(images: Path, closed: str) -> None:
    command = f"exec '{sys.executable}' -m srtool infer - {closed}"
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"standard" in done.stderr


def test_a_list_names_files_as_the_disk_does(write_png: Any, run: Run) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        write_png(Path("plain.png"), NOISE).rename(name)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this disk takes no such name")
    Path("names.txt").write_bytes(b"caf\xe9.png\r\n")
    assert run("infer", "--list", "names.txt", "-o", "out", "--backend", "onnxruntime").code == 0
    assert len(list(Path("out").glob("caf*.png"))) == 1
