"""Plans on files: what comes out, what is refused at once, and what runs instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.cli.main import app
from srtool.errors import EngineError, UsageError
from srtool.files import sha256
from srtool.images.reading import read_image
from srtool.manifest import Manifest, read_manifest, sidecar, write_manifest
from srtool.runtime import folder as pipeline
from srtool.runtime import plan_files as module
from srtool.runtime.events import Event
from srtool.runtime.folder import run
from srtool.runtime.foreign import Foreign
from srtool.runtime.inputs import Job
from srtool.runtime.opening import open_engine
from srtool.runtime.upscaling import Options

WritePng = Callable[[Path, NDArray[Any]], Path]


def noise(height: int, width: int, seed: int, channels: int = 3, dtype: Any = np.uint8) -> Any:
    random = np.random.default_rng(seed)
    # No pixel is wholly transparent: the colour of such is filled in from its neighbours.
    return random.integers(1, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def folder(tmp_path: Path, write_png: WritePng) -> Callable[..., list[Job]]:
    """Images of many sizes, small and large, and where their results go."""

    def make(count: int, **kind: Any) -> list[Job]:
        jobs = []
        for number in range(count):
            sides = 5 + number * 37 % 61, 9 + number * 23 % 47
            name = f"{number:02}.png"
            source = write_png(tmp_path / "in" / name, noise(*sides, number, **kind))
            jobs.append(Job(source, tmp_path / "out" / name))
        return jobs

    return make


def assert_enlarged(jobs: list[Job]) -> None:
    for job in jobs:
        given, made = read_image(job.source), read_image(job.target)
        assert np.array_equal(made.pixels, enlarged(given.pixels)), job
        if given.alpha is not None:
            assert made.alpha is not None
            assert np.array_equal(made.alpha, enlarged(given.alpha))


# Files through a plan


@pytest.mark.parametrize("generation", ["8.6", "11", "rtx"])
@pytest.mark.parametrize("seed", range(3))
def test_a_folder(make_plan: Any, folder: Any, generation: str, seed: int) -> None:
    made, jobs = make_plan(generation, seed=seed), folder(25)
    events: list[Event] = []
    with open_engine(made.path) as engine:
        summary = run(jobs, engine, Options(), events.append)
    assert (summary.files, summary.failed) == (25, 0)
    assert [event.kind for event in events] == ["done"] * 25
    assert [event.job for event in events] == jobs
    assert_enlarged(jobs)
    assert 0 < summary.seconds["compute"] <= made.gpu.clock
    assert (made.gpu.used, made.gpu.contexts) == (0, [])


def test_alpha_and_gray(make_plan: Any, folder: Any) -> None:
    made = make_plan()
    for channels in (1, 2, 4):
        jobs = folder(6, channels=channels)
        with open_engine(made.path) as engine:
            assert run(jobs, engine, Options(overwrite=True)).files == 6
        assert_enlarged(jobs)


def test_a_deep_image_goes_through_the_companion(make_plan: Any, folder: Any) -> None:
    main = make_plan("11")
    other = make_plan("11", name="x4.float32.plan", io="float32", gpu=main.gpu)
    write_manifest(main.path, main.manifest.model_copy(update={"companion": other.path.name}))
    jobs = folder(8, dtype=np.uint16)
    with open_engine(main.path) as engine:
        assert run(jobs, engine).failed == 0
    for job in jobs:
        given, made = read_image(job.source).pixels, read_image(job.target).pixels
        assert made.dtype == np.uint16
        assert np.array_equal(made, enlarged(given))
    assert main.gpu.used == 0


def test_a_deep_image_through_an_onnx_companion(
    make_plan: Any, folder: Any, nearest_onnx: Any
) -> None:
    made = make_plan()
    companion = nearest_onnx("x4.float32.onnx")
    write_manifest(made.path, made.manifest.model_copy(update={"companion": companion.name}))
    facts = made.facts.model_copy(update={"io": "float32", "precision": "fp32"})
    write_manifest(
        companion, Manifest(model=facts, sha256=sha256(companion), opset=18, srtool="0", made="")
    )
    jobs = folder(3, dtype=np.uint16)
    with open_engine(made.path) as engine:
        assert run(jobs, engine).failed == 0
    assert_enlarged(jobs)


def test_a_bad_image_among_good_ones(make_plan: Any, folder: Any) -> None:
    made, jobs = make_plan(), folder(9)
    jobs[4].source.write_bytes(b"no image")
    events: list[Event] = []
    with open_engine(made.path) as engine:
        summary = run(jobs, engine, Options(), events.append)
    assert (summary.files, summary.failed) == (8, 1)
    (failed,) = [event for event in events if event.kind == "failed"]
    assert str(jobs[4].source) in failed.message
    assert_enlarged([job for job in jobs if job is not jobs[4]])


def test_running_out_of_memory_is_told_and_the_images_go_on(make_plan: Any, folder: Any) -> None:
    made, jobs = make_plan(hidden=1), folder(12)
    made.gpu.spare = 200
    events: list[Event] = []
    with open_engine(made.path) as engine:
        summary = run(jobs, engine, Options(), events.append)
    assert (summary.files, summary.failed) == (12, 0)
    assert_enlarged(jobs)
    notes = [event.message for event in events if event.kind == "note"]
    assert "ran out of memory with 4 tiles of 24x16" in notes[0]
    assert "1 tile of 12x8" in notes[-1]
    assert all(note.startswith(str(made.path)) and "\n" not in note for note in notes)


def test_a_gpu_that_dies_fails_the_images_and_ends(make_plan: Any, folder: Any) -> None:
    made, jobs = make_plan(), folder(12)
    events: list[Event] = []
    with open_engine(made.path) as engine:
        made.gpu.pending_error = 719
        summary = run(jobs, engine, Options(), events.append)
    assert (summary.files, summary.failed) == (0, 12)
    assert all("719" in event.message and "\n" not in event.message for event in events)


@pytest.mark.parametrize("at", [1, 5, 11])
def test_an_interrupt_leaves_whole_files(make_plan: Any, folder: Any, at: int) -> None:
    made, jobs = make_plan(), folder(12)
    done = []

    def interrupt(event: Event) -> None:
        done.append(event)
        if len(done) == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_engine(made.path) as engine:
        run(jobs, engine, Options(), interrupt)
    assert made.gpu.used == 0
    whole = [job for job in jobs if job.target.exists()]
    assert len(whole) >= at
    assert_enlarged(whole)
    assert {path.name for path in jobs[0].target.parent.iterdir()} == {j.target.name for j in whole}
    with open_engine(made.path) as engine:
        summary = run(jobs, engine)
    assert (summary.skipped, summary.files) == (len(whole), 12 - len(whole))
    assert_enlarged(jobs)


def test_garbage_is_done_again_and_told_for_its_image(
    make_plan: Any, folder: Any, nearest_onnx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note names the image that the tile is of, though several are on their way."""
    from srtool.runtime import guard

    made, jobs = make_plan(), folder(9)
    marks = {tuple(read_image(jobs[number].source).pixels[0, 0]) for number in (3, 6)}
    monkeypatch.setattr(guard, "is_garbage", lambda tile, out: tuple(tile[0, 0]) in marks)
    real = open_engine(nearest_onnx(), "onnxruntime")  # looked at for NaN only
    monkeypatch.setattr(module, "float32_engine", lambda path, backend: real)
    events: list[Event] = []
    with open_engine(made.path) as engine:
        run(jobs, engine, Options(), events.append)
    assert_enlarged(jobs)
    notes = [event for event in events if event.kind == "note"]
    assert [event.job for event in notes] == [jobs[3], jobs[6]]
    for event in notes:
        assert event.message.startswith(f"{event.job.source}: 1 tile ")
        assert event.message.endswith("at 0,0")


def test_a_tile_that_the_user_wants(make_plan: Any, folder: Any) -> None:
    made, jobs = make_plan(), folder(5)
    with open_engine(made.path) as engine:
        engine.use_tile(20)
        assert engine.tile == (20, 20)
        run(jobs, engine, Options(tile=20))
    assert_enlarged(jobs)


# What is said of it


def test_what_it_says(make_plan: Any) -> None:
    made = make_plan("10.13")
    with open_engine(made.path) as engine:
        assert str(engine.backend) == "tensorrt fp16"
        assert engine.reason == "TensorRT 10.13.3.9, 4 tiles of 24x16 at a time in 3 slots"
        assert "never compared" in engine.uncertified_reason


# What cannot run here


def refusals() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Changes of the machine, and words of the reason."""
    from srtool.runtime.gpu.machine import Library

    older = Library("tensorrt", "10.13.3.9", 13)
    return {
        "another GPU": (
            {"gpu": "H100", "compute": "9.0"},
            ["compute capability 8.9", "H100 has 9.0"],
        ),
        "another version": ({"libraries": {"tensorrt": older}}, ["11.4.0.106", "10.13.3.9"]),
        "an old driver": ({"driver": "550.54.14"}, ["550.54.14", "580"]),
        "no GPU": ({"gpu": "", "compute": ""}, ["no NVIDIA GPU"]),
        "no TensorRT": ({"libraries": {}}, ["TensorRT is not installed"]),
    }


@pytest.mark.parametrize("name", refusals())
def test_refused_with_reason_and_command(
    make_plan: Any, monkeypatch: pytest.MonkeyPatch, complains: Any, name: str
) -> None:
    changes, words = refusals()[name]
    made = make_plan("11")
    here = replace(made.here, **changes)
    monkeypatch.setattr(module, "this_machine", lambda device=0: here)
    command = f"srtool engine rebuild {made.path}"
    with complains(EngineError, made.path, command, "--fallback onnxruntime", *words):
        open_engine(made.path)
    assert made.gpu.used == 0


def test_a_damaged_file(make_plan: Any, complains: Any) -> None:
    made = make_plan()
    made.path.write_bytes(made.path.read_bytes()[:-1])
    with complains(EngineError, made.path, "damaged", f"srtool engine rebuild {made.path}"):
        open_engine(made.path)


def test_a_plan_that_tensorrt_refuses_all_the_same(make_plan: Any, complains: Any) -> None:
    made = make_plan(broken="", version="1.0")
    with complains(EngineError, made.path, "fails with it", "srtool engine rebuild"):
        open_engine(made.path)


def test_nothing_is_read_or_written_before(
    make_plan: Any, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    made, jobs = make_plan(), folder(3)
    monkeypatch.setattr(
        module, "this_machine", lambda device=0: replace(made.here, gpu="", compute="")
    )
    monkeypatch.setattr(pipeline, "ImageFile", None)
    out = tmp_path / "out"
    done = cli("infer", jobs[0].source.parent, "--engine", made.path, "-o", out)
    assert isinstance(done.exception, EngineError)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("onnxruntime",), ["TensorRT only", ".onnx"]),
        (("auto", "fp32"), ["fp16", "fp32", "--precision"]),
        (("auto", "bf16"), ["fp16", "bf16", "--precision"]),
    ],
)
def test_what_a_plan_has_no_choice_of(
    make_plan: Any, complains: Any, arguments: Any, words: list[str]
) -> None:
    made = make_plan()
    with complains(UsageError, made.path, *words):
        open_engine(made.path, *arguments)


# What runs instead


@pytest.fixture
def elsewhere(make_plan: Any, nearest_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A plan on a machine without a GPU, beside the file that it was made of."""
    made = make_plan()
    made.onnx = nearest_onnx("x4.onnx", io="uint8")
    monkeypatch.setattr(
        module, "this_machine", lambda device=0: replace(made.here, gpu="", compute="")
    )
    return made


def test_the_recorded_file(elsewhere: Any) -> None:
    engine = open_engine(elsewhere.path, fallback="onnxruntime")
    assert engine.path == elsewhere.onnx
    assert engine.backend.library == "onnxruntime"
    assert engine.reason.startswith(f"second choice: {elsewhere.path}: cannot run here: this mach")
    image = noise(7, 9, 0)
    assert np.array_equal(engine.upscale_batch(image[None])[0], enlarged(image))


def test_a_file_that_is_named(elsewhere: Any, nearest_onnx: Any) -> None:
    other = nearest_onnx("other.onnx")
    assert open_engine(elsewhere.path, fallback=str(other)).path == other


def test_also_for_a_damaged_plan(elsewhere: Any) -> None:
    elsewhere.path.write_bytes(b"")
    engine = open_engine(elsewhere.path, fallback="onnxruntime")
    assert engine.path == elsewhere.onnx
    assert "damaged" in engine.reason


def test_also_where_the_manifest_is_gone(elsewhere: Any) -> None:
    sidecar(elsewhere.path).unlink()
    engine = open_engine(elsewhere.path, fallback="onnxruntime")
    assert engine.path == elsewhere.onnx
    assert "manifest" in engine.reason


def test_also_where_the_gpu_has_no_memory(make_plan: Any, nearest_onnx: Any) -> None:
    made = make_plan(capacity=100)
    nearest_onnx("x4.onnx", io="uint8")
    engine = open_engine(made.path, fallback="onnxruntime")
    assert "free memory" in engine.reason


def test_not_where_the_plan_runs(make_plan: Any) -> None:
    made = make_plan()
    with open_engine(made.path, fallback="onnxruntime") as engine:
        assert engine.path == made.path


@pytest.mark.parametrize("fallback", ["lost.onnx", "onnxruntime", "x4.pth"])
def test_a_fallback_that_is_not_there(elsewhere: Any, complains: Any, fallback: str) -> None:
    elsewhere.onnx.unlink()
    with complains(EngineError, elsewhere.path, "no NVIDIA GPU", "fallback", "not there"):
        open_engine(elsewhere.path, fallback=fallback)


def test_other_engines_need_none(nearest_onnx: Any, complains: Any) -> None:
    path = nearest_onnx()
    with complains(UsageError, path, "--fallback", ".plan"):
        open_engine(path, fallback="onnxruntime")


# The command


@pytest.fixture
def cli() -> Any:
    from typer.testing import CliRunner

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_infer(make_plan: Any, folder: Any, tmp_path: Path, cli: Any) -> None:
    made, jobs = make_plan(), folder(6)
    out = tmp_path / "out"
    done = cli("infer", jobs[0].source.parent, "--engine", made.path, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["files"], line["backend"]) == (6, "tensorrt fp16")
    assert_enlarged(jobs)
    assert made.gpu.used == 0


def test_infer_with_a_tile(make_plan: Any, folder: Any, tmp_path: Path, cli: Any) -> None:
    made, jobs = make_plan(), folder(3)
    call = ["infer", jobs[0].source.parent, "--engine", made.path, "-o", tmp_path / "out"]
    assert cli(*call, "--tile", 20).exit_code == 0
    assert_enlarged(jobs)
    refused = cli(*call, "--tile", 100, "--overwrite")
    assert isinstance(refused.exception, UsageError)
    assert "4 to 32" in str(refused.exception)
    assert isinstance(cli(*call, "--halo", 8, "--overwrite").exception, UsageError)


def test_infer_says_on_every_run_that_it_is_the_second_choice(
    elsewhere: Any, folder: Any, tmp_path: Path, cli: Any
) -> None:
    jobs = folder(2)
    call = ["infer", jobs[0].source.parent, "--engine", elsewhere.path, "-o", tmp_path / "out"]
    for _ in range(2):
        done = cli(*call, "--fallback", "onnxruntime", "--overwrite")
        assert done.exit_code == 0, done.output
        assert f"{elsewhere.onnx} on onnxruntime fp32 (second choice: " in done.stderr
        assert "no NVIDIA GPU" in done.stderr
        assert_enlarged(jobs)


def test_the_manifest_is_not_touched(make_plan: Any) -> None:
    made = make_plan()
    before = sha256(made.path), read_manifest(made.path)
    open_engine(made.path).close()
    assert (sha256(made.path), read_manifest(made.path)) == before


@pytest.mark.parametrize(
    ("path", "options", "parameter"),
    [
        ("grpc://127.0.0.1:9/x4", {"threads": 2}, "threads"),
        ("grpc://127.0.0.1:9/x4", {"fallback": "onnxruntime"}, "fallback"),
        ("x4.pth", {"fallback": "onnxruntime"}, "fallback"),
        ("x4.pth", {"foreign": Foreign(range=255)}, "range"),
        ("x4.plan", {"foreign": Foreign(output="image")}, "output"),
        ("x4.onnx", {"threads": 0}, "threads"),
    ],
)
def test_what_counts_for_nothing_is_refused(path: str, options: Any, parameter: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_engine(path, **options)
    assert caught.value.parameter == parameter
