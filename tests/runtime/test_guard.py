"""Bad tiles: what counts as one, what it is replaced by, and what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import ImageError
from srtool.files import sha256
from srtool.manifest import Manifest, ModelFacts, write_manifest
from srtool.runtime import onnx_files as module
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.events import Event
from srtool.runtime.folder import run
from srtool.runtime.guard import Guard, is_finite, is_garbage
from srtool.runtime.inputs import Job
from srtool.runtime.onnx_files import float32_engine
from srtool.runtime.session import Backend, DirectSession
from srtool.runtime.upscaling import Options

FACTS = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="test", halo=2)


def noise(height: int, width: int, low: int = 0, high: int = 256) -> NDArray[np.uint8]:
    random = np.random.default_rng(height * width)
    return random.integers(low, high, (height, width, 3)).astype(np.uint8)


def flat(*colour: int, side: int = 16) -> NDArray[np.uint8]:
    return np.full((side, side, 3), colour, np.uint8)


def enlarged(tile: NDArray[Any]) -> NDArray[Any]:
    return tile.repeat(4, 0).repeat(4, 1)


# What counts as bad


@pytest.mark.parametrize(
    "tile",
    [
        noise(16, 20),
        noise(3, 2),
        noise(16, 16, 0, 10),
        flat(0),
        flat(255),
        flat(255, 0, 0),
        flat(90),
    ],
)
def test_what_an_upscaler_makes_is_good(tile: NDArray[np.uint8]) -> None:
    assert not is_garbage(tile, enlarged(tile))


@pytest.mark.parametrize(
    ("tile", "level", "bad"),
    [
        (noise(16, 20), 0, True),
        (noise(16, 20), 255, True),
        (noise(16, 20), 77, True),  # one colour of a varied tile, whichever it is
        (noise(2, 3), 0, True),
        (flat(128), 0, True),  # far away
        (flat(128), 255, True),
        (flat(200, 10, 10), 0, True),  # far away in one channel
        (noise(16, 16, 0, 30), 0, True),  # dark, but not flat
        (flat(60), 0, False),  # a shadow may become black, and a light wall white
        (flat(200), 255, False),
        (noise(16, 16, 100, 110), 120, False),  # grain may be removed
    ],
)
def test_one_colour_throughout(tile: NDArray[np.uint8], level: int, bad: bool) -> None:
    assert is_garbage(tile, np.full_like(enlarged(tile), level)) is bad


@pytest.mark.parametrize(
    ("rows", "columns", "bad"),
    [
        (slice(8, 12), slice(12, 16), True),  # one block
        (slice(5, 14), slice(3, 12), True),  # a larger hole wherever it is
        (slice(8, 11), slice(12, 16), False),  # less than a block
        (slice(0, 16), slice(9, 10), False),  # a line
    ],
)
@pytest.mark.parametrize("level", [0, 255])
def test_holes(rows: slice, columns: slice, bad: bool, level: int) -> None:
    tile = noise(16, 22, 100, 156)
    out = enlarged(tile)
    out[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = level
    assert is_garbage(tile, out) is bad


def test_a_pattern_of_black_and_white_is_no_hole() -> None:
    out = enlarged(np.indices((16, 16)).sum(0)[..., None].repeat(3, 2) % 2 * 255).astype(np.uint8)
    assert not is_garbage(flat(128), out)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite(value: float) -> None:
    values = np.random.default_rng(0).normal(size=(1, 64, 48, 3)).astype(np.float32)
    assert is_finite(values)
    values[0, 17, 5, 1] = value
    assert not is_finite(values)
    values[0, 3, 3] = -value
    assert not is_finite(values)


# What it is replaced by

Session = Callable[[NDArray[Any]], NDArray[Any]]
BACKEND = OnnxRuntime()


def nearest(batch: NDArray[Any]) -> NDArray[Any]:
    first = 1 if batch.dtype == np.uint8 else 2
    return batch.repeat(4, first).repeat(4, first + 1)


def failing(batch: NDArray[Any]) -> NDArray[Any]:
    """Black, or NaN, where the tile holds a value above 250/255."""
    out = nearest(batch)
    limit = 250 if batch.dtype == np.uint8 else np.float32(250 / 255)
    for number in range(len(batch)):
        if batch[number].max() > limit:
            out[number] = 0 if batch.dtype == np.uint8 else np.nan
    return out


def engine_of(session: Session, io: str = "uint8", name: str = "x4.fp16.onnx") -> Engine:
    facts = FACTS.model_copy(update={"io": io})
    floats = FACTS.model_copy(update={"io": "float32"})
    info = EngineInfo(Path(name), facts, BACKEND)
    return Engine(
        info, DirectSession(facts, session), lambda: DirectSession(floats, session), USED.opened
    )


class Used:
    """What is used in float32, and how often it was asked for."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.asked: list[int] = []

    def opened(self) -> Engine | None:
        self.asked.append(1)
        return self.engine


USED = Used()


@pytest.fixture
def fallback() -> Callable[[Engine | None], list[int]]:
    """Sets what is used in float32; returns a list that grows when it is opened."""

    def use(engine: Engine | None) -> list[int]:
        USED.engine, USED.asked = engine, []
        return USED.asked

    return use


def through(guard: Guard, tile: NDArray[Any], left: int, top: int) -> NDArray[Any]:
    """One tile, (H, W, 3), upscaled under guard; raises what the guard found."""
    found: list[Any] = []

    def keep(result: Any) -> None:
        found.append(result if isinstance(result, Exception) else result.copy())

    guard.submit(tile, left, top, keep)
    guard.engine.flush()
    if isinstance(found[0], Exception):
        raise found[0]
    return np.asarray(found[0])


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_bad_tile_is_done_again(fallback: Any, io: str, dtype: Any) -> None:
    asked = fallback(engine_of(nearest, "float32", "x4.float32.onnx"))
    guard = Guard(engine_of(failing, io))
    good, bad = noise(8, 9, 0, 250), noise(8, 9)
    bad[0, 0] = 255
    for number, tile in enumerate([good, bad, good, bad]):
        given = tile if dtype == np.uint8 else np.float32(tile) / np.float32(255)
        out = through(guard, given, number, 7)
        assert out.dtype == dtype
        assert np.array_equal(out, enlarged(given))
    assert guard.recomputed == [(1, 7), (3, 7)]
    assert asked == [1]  # it is opened once
    report = guard.report()
    assert [word for word in ("2 tiles", "onnxruntime fp32", "x4.float32.onnx", "1,7 3,7")
            if word not in report] == []  # fmt: skip
    assert guard.report() == ""


def test_good_tiles_never_open_anything(fallback: Any) -> None:
    asked = fallback(None)
    guard = Guard(engine_of(failing))
    through(guard, noise(8, 9, 0, 250), 0, 0)
    assert (asked, guard.report()) == ([], "")


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_a_tile_that_is_bad_in_float32_as_well(fallback: Any, complains: Any, io: str) -> None:
    fallback(engine_of(failing, io, "x4.onnx"))
    guard = Guard(engine_of(failing))
    with complains(ImageError, "30x20", "at 8,4", "x4.onnx", "weights"):
        through(guard, noise(20, 30), 8, 4)
    assert guard.recomputed == []


def test_a_suspicion_that_float32_does_not_share(fallback: Any) -> None:
    """What is finite in float32 is what the network makes, be it black."""
    fallback(engine_of(lambda batch: nearest(batch) * 0, "float32"))
    out = through(Guard(engine_of(lambda batch: nearest(batch) * 0)), noise(8, 8), 0, 0)
    assert out.max() == 0


def test_nothing_to_do_it_with(fallback: Any, complains: Any) -> None:
    fallback(None)
    with complains(ImageError, "at 0,0", "onnxruntime fp32", "x4.fp16.onnx", "export"):
        through(Guard(engine_of(failing)), noise(8, 8), 0, 0)


def test_many_tiles_are_one_line(fallback: Any) -> None:
    fallback(engine_of(nearest, "float32"))
    guard = Guard(engine_of(failing))
    for number in range(40):
        through(guard, noise(8, 8), number, 0)
    assert guard.report().endswith("at 0,0 1,0 2,0 3,0 4,0 5,0 6,0 7,0 32 more")


def test_each_image_has_its_own_list_and_all_have_one_fallback(fallback: Any) -> None:
    asked = fallback(engine_of(nearest, "float32"))
    engine = engine_of(failing)
    first, second = Guard(engine), Guard(engine)
    bad = noise(8, 9)
    bad[0, 0] = 255
    through(first, bad, 1, 2)
    through(second, bad, 3, 4)
    through(second, bad, 5, 6)
    assert len(asked) == 1
    assert (first.recomputed, second.recomputed) == ([(1, 2)], [(3, 4), (5, 6)])
    assert first.report().endswith("at 1,2")
    assert second.report().endswith("at 3,4 5,6")


def test_errors_are_delivered_and_not_raised_to_who_submits(fallback: Any) -> None:
    """With a GPU whoever submits is another image's turn."""
    fallback(None)
    found: list[Any] = []
    bad = noise(8, 9)
    bad[0, 0] = 255
    Guard(engine_of(failing)).submit(bad, 0, 0, found.append)
    assert [type(error) for error in found] == [ImageError]


# Which file does it


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a file that is not read, with its manifest."""
    monkeypatch.setattr(module, "installed_backends", lambda device=None: list(module.BACKENDS[:3]))
    monkeypatch.setattr(OnnxRuntime, "open", lambda self, path, facts, threads: None)

    def write(name: str, weights: str = "a", companion: str | None = None, **facts: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(name.encode())
        model = FACTS.model_copy(update={"precision": "fp32", "weights_sha256": weights, **facts})
        write_manifest(
            path,
            Manifest(
                model=model,
                sha256=sha256(path),
                opset=18,
                srtool="0",
                made="",
                companion=companion,
            ),
        )
        return path

    return write


def test_the_companion_comes_first(files: Any) -> None:
    files("x4.float32.onnx", io="float32")
    files("x4.onnx")
    path = files("x4.fp16.onnx", companion="x4.float32.onnx", precision="fp16")
    found = float32_engine(path, BACKEND)
    assert found is not None
    assert (found.path.name, found.backend) == ("x4.float32.onnx", BACKEND)
    assert found.facts.io == "float32"


@pytest.mark.parametrize("name", ["x4.fp16.onnx", "x4.mixed.onnx", "x4.plan"])
def test_then_the_fp32_file_beside(files: Any, name: str) -> None:
    path = files(name, companion="lost.onnx", precision="fp16")
    assert float32_engine(path, BACKEND) is None
    files("x4.onnx", weights="b")
    assert float32_engine(path, BACKEND) is None
    files("x4.onnx", precision="fp16")
    assert float32_engine(path, BACKEND) is None
    files("x4.onnx")
    found = float32_engine(path, BACKEND)
    assert found is not None
    assert found.path.name == "x4.onnx"


def test_then_the_file_itself_where_bfloat16_was_at_fault(files: Any) -> None:
    path = files("x4.onnx")
    found = float32_engine(path, OpenVino("bf16"))
    assert found is not None
    assert (found.path, found.backend) == (path, BACKEND)
    assert float32_engine(path, OpenVino("fp32")) is None
    assert float32_engine(files("y.onnx", precision="fp16"), OpenVino("bf16")) is None


def test_without_a_manifest_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "x4.onnx").write_bytes(b"")
    assert float32_engine(tmp_path / "x4.onnx", BACKEND) is None


# In the main job


def pictures(folder: Path, write_png: Any) -> list[Job]:
    """Three images of 40x24; the second has a light spot in its right half."""
    jobs = []
    for number in range(3):
        pixels = noise(24, 40 + number, 0, 250)
        if number == 1:
            pixels[3, 38] = 255
        source = write_png(folder / f"{number}.png", pixels)
        jobs.append(Job(source, folder / "out" / f"{number}.png"))
    return jobs


def test_the_job_goes_on_and_says_which_tiles(
    tmp_path: Path, write_png: Any, fallback: Any
) -> None:
    from srtool.images.reading import read_image

    fallback(engine_of(nearest, "float32"))
    jobs, events = pictures(tmp_path, write_png), list[Event]()
    summary = run(jobs, engine_of(failing), Options(tile=24), events.append)
    assert (summary.files, summary.failed) == (3, 0)
    for job in jobs:
        expected = enlarged(read_image(job.source).pixels)
        assert np.array_equal(read_image(job.target).pixels, expected)
    (note,) = [event for event in events if event.message]
    assert (note.kind, note.job) == ("note", jobs[1])
    assert note.message.startswith(f"{jobs[1].source}: 1 tile ")
    assert note.message.endswith("at 18,0")
    assert "\n" not in note.message


def test_an_image_that_cannot_be_saved_fails_alone(
    tmp_path: Path, write_png: Any, fallback: Any
) -> None:
    fallback(engine_of(failing, "float32"))
    jobs, events = pictures(tmp_path, write_png), list[Event]()
    summary = run(jobs, engine_of(failing), Options(tile=24), events.append)
    assert (summary.files, summary.failed) == (2, 1)
    assert not jobs[1].target.exists()
    (failed,) = [event for event in events if event.message]
    assert failed.kind == "failed"
    assert failed.message.startswith(f"{jobs[1].source}: the tile of 23x24 pixels at 18,0")
    assert "\n" not in failed.message


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino("fp32")], ids=str)
def test_a_real_graph_that_overflows(nearest_onnx: Any, fallback: Any, backend: Backend) -> None:
    """inf - inf is NaN, which a uint8 graph turns into some level: the rule must see it."""
    from onnx import helper, numpy_helper

    if not backend.is_available():
        pytest.skip(f"{backend} is not installed")
    huge = numpy_helper.from_array(np.array(3e36, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["huge"], value=huge),
        helper.make_node("Mul", ["x", "huge"], ["beyond"]),
        helper.make_node("Sub", ["beyond", "beyond"], ["none"]),
        helper.make_node("Add", ["x", "none"], ["y"]),
    ]
    session = backend.open(nearest_onnx(io="uint8", extra=nodes), FACTS)
    fallback(engine_of(nearest, "float32"))
    info = EngineInfo(Path("x4.onnx"), FACTS, backend)
    guard = Guard(Engine(info, session, open_float32=USED.opened))
    dark, light = noise(16, 16, 0, 100), noise(16, 16, 130, 200)
    assert np.array_equal(through(guard, dark, 0, 0), enlarged(dark))
    assert guard.recomputed == []
    assert np.array_equal(through(guard, light, 0, 0), enlarged(light))
    assert guard.recomputed == [(0, 0)]
