"""The main job on real files: order, overlap, bad images among good ones, interrupts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image
from srtool.runtime import checks
from srtool.runtime import folder as pipeline
from srtool.runtime.events import Event, Summary
from srtool.runtime.folder import run
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options, upscale_picture


def photograph(height: int, width: int, dtype: Any = np.uint8, channels: int = 3) -> NDArray[Any]:
    random = np.random.default_rng(height * width)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def enlarged(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def folder(tmp_path: Path, write_png: Any) -> Callable[..., list[Job]]:
    """Jobs for some photographs, each of another height: 8, 9, 10, ..."""

    def make(count: int, side: int = 8) -> list[Job]:
        jobs = []
        for n in range(count):
            source = write_png(tmp_path / "in" / f"{n}.png", photograph(side + n, 16))
            jobs.append(Job(source, tmp_path / "out" / source.name))
        return jobs

    return make


def outputs(job: Job) -> dict[str, tuple[int, int]]:
    """Height and width of every file in the output folder, which must be whole."""
    found = {}
    for path in job.target.parent.iterdir():
        found[path.name] = read_image(path).pixels.shape[:2]
    return found


def at_height(height: int, error: BaseException) -> Callable[[NDArray[Any]], None]:
    """Raises at the tile of one image."""

    def check(batch: NDArray[Any]) -> None:
        if batch.shape[1] == height:
            raise error

    return check


class Events(list[Event]):
    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: str) -> list[str]:
        return [event.job.source.stem for event in self if event.kind == kind]

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self if event.message]


# What is done


def test_a_folder(folder: Any, nearest: Any) -> None:
    jobs, events = folder(7), Events()
    summary = run(jobs, nearest(), Options(), events)
    assert events.of("done") == [str(n) for n in range(7)]
    assert events.messages == []
    for n, job in enumerate(jobs):
        assert np.array_equal(read_image(job.target).pixels, enlarged(photograph(8 + n, 16)))
    assert (summary.files, summary.skipped, summary.failed) == (7, 0, 0)
    assert summary.pixels_in == sum((8 + n) * 16 for n in range(7))
    assert summary.pixels_out == 16 * summary.pixels_in
    assert set(summary.seconds) == {"decode", "compute", "encode", "total"}
    assert all(seconds > 0 for seconds in summary.seconds.values())


def test_nothing_to_do(nearest: Any) -> None:
    assert run([], nearest()).files == 0


def test_images_larger_than_a_tile(folder: Any, nearest: Any) -> None:
    (job,) = folder(1, 50)
    shapes: Counter[tuple[int, ...]] = Counter()
    run([job], nearest(before=lambda batch: shapes.update([batch.shape])), Options(tile=12, halo=3))
    assert list(shapes) == [(1, 12, 11, 3)]  # of 50 x 16 pixels
    assert np.array_equal(read_image(job.target).pixels, enlarged(photograph(50, 16)))


def test_existing_results_are_skipped_unless_overwritten(folder: Any, nearest: Any) -> None:
    jobs, events = folder(4), Events()
    write_image(jobs[1].target, Picture(photograph(3, 3)))
    summary = run(jobs, nearest(), Options(), events)
    assert (summary.files, summary.skipped) == (3, 1)
    assert events.of("skipped") == ["1"]
    assert outputs(jobs[0])["1.png"] == (3, 3)
    again = run(jobs, nearest(), Options(overwrite=True))
    assert (again.files, again.skipped) == (4, 0)
    assert outputs(jobs[0])["1.png"] == (36, 64)


def test_skipped_images_are_not_even_read(folder: Any, nearest: Any) -> None:
    jobs = folder(30)
    run(jobs, nearest())
    for job in jobs:
        job.source.write_bytes(b"")
    summary = run(jobs, nearest())
    assert (summary.skipped, summary.failed) == (30, 0)


def test_decoding_computing_and_encoding_overlap(folder: Any, nearest: Any) -> None:
    """While an image is computed, the one before it is written."""
    jobs = folder(8, 128)
    written: list[bool] = []

    def before(batch: NDArray[Any]) -> None:
        target = jobs[max(0, len(written) - 1)].target
        patience = time.perf_counter() + 60
        while written and not target.is_file() and time.perf_counter() < patience:
            time.sleep(0.001)
        written.append(target.is_file())

    summary = run(jobs, nearest(before=before), Options(tile=256))
    assert written == [False] + 7 * [True]
    assert 0 < summary.seconds["compute"] <= summary.seconds["total"]


def test_images_are_decoded_ahead_but_not_all_at_once(
    folder: Any, nearest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    ahead: list[int] = []

    def decode(self: Any, job: Job) -> Any:
        decoded.append(job.source.stem)
        return whole(self, job)

    whole = pipeline._Run._decode

    def before(batch: NDArray[Any]) -> None:
        patience = time.perf_counter() + 60
        while len(decoded) < min(len(ahead) + 2, 10) and time.perf_counter() < patience:
            time.sleep(0.001)
        ahead.append(len(decoded) - len(ahead) - 1)

    monkeypatch.setattr(pipeline._Run, "_decode", decode)
    jobs = folder(10)
    run(jobs, nearest(before=before))
    assert decoded == [str(n) for n in range(10)]
    assert max(ahead) <= 2
    assert all(count >= 1 for count in ahead[:-2])


# Kinds of images


def test_16_bit_images_go_through_the_float_path_exactly(
    tmp_path: Path, write_png: Any, nearest: Any
) -> None:
    every_level = np.arange(65536, dtype=np.uint16).reshape(64, 1024, 1).repeat(3, 2)
    every_level[..., 1] = every_level[::-1, :, 1]
    source = write_png(tmp_path / "deep.png", every_level)
    job = Job(source, tmp_path / "out" / "deep.png")
    run([job], nearest(), Options(tile=300))
    found = read_image(job.target)
    assert found.pixels.dtype == np.uint16
    assert np.array_equal(found.pixels, enlarged(every_level))

    shallow = Job(source, tmp_path / "out" / "shallow.png")
    run([shallow], nearest(companion=False), Options(depth=8))
    found = read_image(shallow.target)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, enlarged(np.rint(every_level / 257).astype(np.uint8)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_channels_are_kept(
    tmp_path: Path, write_png: Any, nearest: Any, dtype: Any, channels: int, suffix: str
) -> None:
    pixels = photograph(9, 11, dtype, channels)
    job = Job(write_png(tmp_path / f"a{suffix}", pixels), tmp_path / "out" / f"a{suffix}")
    assert run([job], nearest()).files == 1
    found, large = read_image(job.target), enlarged(pixels)
    gray = channels < 3
    assert found.gray == gray
    assert found.pixels.dtype == dtype
    assert np.array_equal(found.pixels, large[..., :1].repeat(3, 2) if gray else large[..., :3])
    if channels in (2, 4):
        assert found.alpha is not None
        assert np.array_equal(found.alpha, large[..., -1])
    else:
        assert found.alpha is None


def test_uniform_alpha_costs_no_computation(nearest: Any) -> None:
    calls = []
    engine = nearest(before=lambda batch: calls.append(batch))
    picture = Picture(photograph(8, 8), np.full((8, 8), 77, np.uint8))
    found = upscale_picture(picture, engine, Options())
    assert len(calls) == 1
    assert found.alpha is not None
    assert np.array_equal(found.alpha, np.full((32, 32), 77))


def test_gray_images_stay_gray_on_a_network_that_tints(nearest: Any) -> None:
    engine = nearest()
    plain = engine._session.compute
    engine._session.compute = lambda batch: plain(batch) + np.array([0, 3, 1], np.uint8)
    picture = Picture(np.full((4, 4, 3), 100, np.uint8), gray=True)
    found = upscale_picture(picture, engine, Options()).pixels
    assert np.unique(found).tolist() == [101]  # the mean of 100, 103 and 101, rounded


def test_only_the_first_page_is_done_and_the_user_knows(tmp_path: Path, nearest: Any) -> None:
    import pyvips

    frames = pyvips.Image.new_from_array(photograph(20, 8))
    frames = frames.copy(interpretation="srgb")
    frames.set_type(pyvips.GValue.gint_type, "page-height", 10)
    frames.write_to_file(str(tmp_path / "a.gif"))
    job, events = Job(tmp_path / "a.gif", tmp_path / "a.png"), Events()
    run([job], nearest(), Options(), events)
    assert [event.kind for event in events] == ["note", "done"]
    assert "a.gif" in events.messages[0]
    assert "2 pages" in events.messages[0]
    assert read_image(job.target).pixels.shape == (40, 32, 3)


# What goes wrong


def test_bad_images_among_good_ones(folder: Any, nearest: Any, write_png: Any) -> None:
    jobs, events = folder(9), Events()
    jobs[0].source.write_bytes(b"")
    jobs[2].source.write_text("I am a text, honestly.\n" * 20)
    write_image(jobs[3].source.with_suffix(".jpg"), Picture(photograph(64, 64)))
    jpeg = jobs[3].source.with_suffix(".jpg").read_bytes()
    jobs[3].source.write_bytes(jpeg[: len(jpeg) // 2])
    write_png(jobs[4].source, photograph(1, 1))
    jobs[6].source.unlink()
    png = jobs[7].source.read_bytes()
    jobs[7].source.write_bytes(png[: len(png) - 60])
    jobs[8].source.unlink()
    jobs[8].source.mkdir()
    summary = run(jobs, nearest(), Options(), events)
    assert events.of("done") == ["1", "5"]
    assert events.of("failed") == ["0", "2", "3", "4", "6", "7", "8"]
    assert (summary.files, summary.failed) == (2, 7)
    assert outputs(jobs[0]) == {"1.png": (36, 64), "5.png": (52, 64)}
    for event in events:
        assert "\n" not in event.message
        assert event.kind != "failed" or str(event.job.source) in event.message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("bad\n  allocation"), ["bad allocation", "memory"]),
        (RuntimeError("x" * 3000), ["xxx"]),
        (OverflowError("too large"), ["too large"]),
        (ZeroDivisionError("division by zero"), ["division by zero"]),
        (MemoryError(), ["MemoryError", "memory"]),
        (ValueError("operands could not be broadcast"), ["broadcast"]),
        (EngineError("x4.onnx: takes 8-bit images only"), ["8-bit"]),
    ],
    ids=["runtime", "long", "overflow", "zero", "memory", "value", "engine"],
)
def test_an_engine_that_fails_on_one_image(
    folder: Any, nearest: Any, error: Exception, words: list[str]
) -> None:
    jobs, events = folder(5), Events()
    summary = run(jobs, nearest(before=at_height(10, error)), Options(), events)
    assert events.of("failed") == ["2"]
    assert events.of("done") == ["0", "1", "3", "4"]
    (message,) = events.messages
    assert "\n" not in message
    assert len(message) < 400
    (failed,) = (event.error for event in events if event.kind == "failed")
    assert (failed.remedy == {"tile": 128}) == ("memory" in words)
    assert [word for word in [str(jobs[2].source), *words] if word not in message] == []
    assert (summary.files, summary.failed) == (4, 1)
    assert len(outputs(jobs[0])) == 4


def test_onnxruntime_failing_on_one_image(folder: Any, nearest_onnx: Any) -> None:
    from onnx import helper, numpy_helper

    from srtool.manifest import ModelFacts
    from srtool.runtime.backends.onnxruntime import OnnxRuntime
    from srtool.runtime.onnx_files import open_on

    shape = numpy_helper.from_array(np.array([1, 3, 9, 16], np.int64))
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    path = nearest_onnx(extra=nodes)
    facts = ModelFacts(scale=4, io="float32", precision="fp32", architecture="", halo=2)
    engine = open_on(path, OnnxRuntime(), facts)
    jobs, events = folder(3), Events()
    run(jobs, engine, Options(), events)
    assert events.of("done") == ["1"]
    assert events.of("failed") == ["0", "2"]
    assert all("\n" not in message for message in events.messages)


def test_a_network_whose_output_has_another_size(folder: Any, nearest: Any) -> None:
    jobs, events = folder(2), Events()
    engine = nearest()
    engine._session.compute = lambda batch: batch
    run(jobs, engine, Options(), events)
    assert events.of("failed") == ["0", "1"]
    assert not jobs[0].target.parent.exists() or outputs(jobs[0]) == {}


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device")])
def test_an_image_that_cannot_be_written(
    folder: Any, nearest: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write(path: Path, *arguments: Any) -> None:
        if path.stem == "1":
            raise error
        write_image(path, *arguments)

    monkeypatch.setattr(pipeline, "write_image", write)
    jobs, events = folder(4), Events()
    summary = run(jobs, nearest(), Options(), events)
    assert events.of("failed") == ["1"]
    assert (summary.files, summary.failed) == (3, 1)
    (message,) = events.messages
    assert str(jobs[1].source) in message or str(jobs[1].target) in message
    assert message.rpartition(": ")[2]


def test_an_output_folder_that_is_lost_on_the_way(folder: Any, nearest: Any) -> None:
    jobs, events = folder(3), Events()
    lost = jobs[0].source.parent / "0.png" / "x.png"  # below a file
    jobs[1] = Job(jobs[1].source, lost)
    run(jobs, nearest(), Options(), events)
    assert events.of("failed") == ["1"]
    assert events.of("done") == ["0", "2"]
    assert "\n" not in events.messages[0]


@pytest.mark.parametrize("suffix", [".jpg", ".gif", ".xyz"])
def test_a_format_that_cannot_hold_it(
    tmp_path: Path, write_png: Any, nearest: Any, suffix: str
) -> None:
    source = write_png(tmp_path / "a.png", photograph(8, 8, channels=4))
    job, events = Job(source, tmp_path / "out" / f"a{suffix}"), Events()
    assert run([job], nearest(), Options(), events).failed == 1
    assert "a" + suffix in events.messages[0]
    assert not job.target.exists()


# Interrupts


@pytest.mark.parametrize("at", [0, 3, 6])
def test_an_interrupt_leaves_whole_files_and_the_rerun_completes(
    folder: Any, nearest: Any, at: int
) -> None:
    jobs, summary, events = folder(7), Summary(), Events()
    interrupted = nearest(before=at_height(8 + at, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(jobs, interrupted, Options(), events, summary)
    done = outputs(jobs[0]) if at else {}
    assert done == {f"{n}.png": (4 * (8 + n), 64) for n in range(at)}
    assert summary.files == len(events.of("done")) == at
    assert summary.seconds["total"] > 0
    again = run(jobs, nearest())
    assert (again.files, again.skipped) == (7 - at, at)
    assert outputs(jobs[0]) == {f"{n}.png": (4 * (8 + n), 64) for n in range(7)}


def test_an_interrupt_while_writing(
    folder: Any, nearest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, *arguments: Any) -> None:
        time.sleep(0.1)
        write_image(path, *arguments)

    monkeypatch.setattr(pipeline, "write_image", slow)
    jobs = folder(6)
    with pytest.raises(KeyboardInterrupt):
        run(jobs, nearest(before=at_height(11, KeyboardInterrupt())))
    assert sorted(outputs(jobs[0])) == ["0.png", "1.png", "2.png"]


def test_an_interrupt_of_the_report(folder: Any, nearest: Any) -> None:
    def report(event: Event) -> None:
        if event.job.source.stem == "2":
            raise KeyboardInterrupt

    jobs = folder(6)
    with pytest.raises(KeyboardInterrupt):
        run(jobs, nearest(), Options(), report)
    assert {"0.png", "1.png", "2.png"} <= outputs(jobs[0]).keys()


def test_an_interrupt_while_waiting_for_the_encoder_loses_no_count(
    folder: Any, nearest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def interrupted(futures: Any) -> Any:
        waits.append(futures)
        if len(waits) == 3:
            raise KeyboardInterrupt
        return wait(futures)

    wait = pipeline.wait
    monkeypatch.setattr(pipeline, "wait", interrupted)
    jobs, summary = folder(7), Summary()
    with pytest.raises(KeyboardInterrupt):
        run(jobs, nearest(), Options(), lambda event: None, summary)
    assert summary.files == len(outputs(jobs[0])) > 2


# Large images, in bands of rows


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LARGE", 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.usefixtures("everything_is_large")
def test_bands_are_the_whole_picture(
    tmp_path: Path, write_png: Any, nearest: Any, dtype: Any, channels: int, suffix: str
) -> None:
    pixels = photograph(70, 31, dtype, channels)
    job = Job(write_png(tmp_path / f"a{suffix}", pixels), tmp_path / "out" / f"a{suffix}")
    seen: list[tuple[int, int]] = []
    events = pipeline.upscale_images(
        [job], nearest(), Options(tile=16, halo=3), on_tile=lambda _, *tiles: seen.append(tiles)
    )
    assert [event.kind for event in events] == ["done"]
    found, large = read_image(job.target), enlarged(pixels)
    assert found.pixels.dtype == dtype
    assert found.gray == (channels < 3)
    expected = large[..., :1].repeat(3, 2) if channels < 3 else large[..., :3]
    if channels in (2, 4):
        assert found.alpha is not None
        assert np.array_equal(found.alpha, large[..., -1])
        shown = found.alpha > 0  # colours that nobody sees are another's
        assert np.array_equal(found.pixels[shown], expected[shown])
    else:
        assert np.array_equal(found.pixels, expected)
    assert seen[-1][0] == seen[-1][1] > 10
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("multiple", [1, 4, 7])
@pytest.mark.parametrize("height", [17, 64, 71])
@pytest.mark.parametrize("band", [None, 1])
def test_bands_of_networks_that_need_multiples(
    tmp_path: Path,
    write_png: Any,
    nearest: Any,
    multiple: int,
    height: int,
    band: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides: set[int] = set()
    engine = nearest(before=lambda batch: sides.update(batch.shape[1:3]), multiple_of=multiple)
    source = write_png(tmp_path / "a.png", photograph(height, 30))
    whole, bands = (Job(source, tmp_path / name) for name in ("whole.png", "bands.png"))
    options = Options(tile=28, halo=4)
    run([whole], engine, options)
    monkeypatch.setattr(checks, "LARGE", 0)
    if band:
        monkeypatch.setattr("srtool.runtime.upscaling.BAND", band)  # as of a very wide one
    run([bands], engine, options)
    assert all(side % multiple == 0 for side in sides)
    assert np.array_equal(read_image(bands.target).pixels, read_image(whole.target).pixels)


@pytest.mark.usefixtures("everything_is_large")
def test_large_images_that_fail_leave_no_file_and_the_others_are_done(
    folder: Any, nearest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, events = folder(6, 64), Events()
    png = jobs[1].source.read_bytes()
    jobs[1].source.write_bytes(png[: len(png) // 2])
    jobs[4] = Job(jobs[4].source, jobs[0].source / "below a file.png")
    engine = nearest(before=at_height(66, RuntimeError("no")))
    summary = run(jobs, engine, Options(), events)
    assert events.of("done") == ["0", "3", "5"]
    assert sorted(events.of("failed")) == ["1", "2", "4"]
    assert (summary.files, summary.failed) == (3, 3)
    assert sorted(outputs(jobs[0])) == ["0.png", "3.png", "5.png"]


@pytest.mark.usefixtures("everything_is_large")
def test_an_interrupt_within_a_large_image(folder: Any, nearest: Any) -> None:
    (job,) = folder(1, 64)
    calls: list[int] = []

    def third(batch: NDArray[Any]) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job], nearest(before=third), Options(tile=16))
    assert list(job.target.parent.iterdir()) == []


@pytest.mark.parametrize("large", [False, True])
def test_opaque_alpha_is_no_reason_against_jpeg(
    tmp_path: Path, write_png: Any, nearest: Any, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(checks, "LARGE", 0)
    pixels = photograph(40, 40, channels=4)
    jobs = []
    for name, alpha in (("opaque", 255), ("glass", 254)):
        pixels[..., 3] = alpha
        source = write_png(tmp_path / f"{name}.png", pixels)
        jobs.append(Job(source, tmp_path / "out" / f"{name}.jpg"))
    events = Events()
    run(jobs, nearest(), Options(), events)
    assert (events.of("done"), events.of("failed")) == (["opaque"], ["glass"])
    assert outputs(jobs[0]) == {"opaque.jpg": (160, 160)}


@pytest.mark.parametrize(("suffix", "width"), [(".jpg", 16400), (".webp", 4100), (".avif", 4200)])
def test_what_a_format_cannot_hold_is_known_before_computing(
    tmp_path: Path, write_png: Any, nearest: Any, suffix: str, width: int
) -> None:
    source = write_png(tmp_path / "a.png", np.zeros((8, width, 3), np.uint8))
    computed: list[Any] = []
    events = Events()
    run([Job(source, tmp_path / f"b{suffix}")], nearest(computed.append), Options(), events)
    assert events.of("failed") == ["a"]
    assert computed == []
    assert events[0].error is not None
    assert events[0].error.remedy == {"format": "png"}


def test_a_claim_is_checked_before_anything_is_decoded(
    tmp_path: Path, write_png: Any, nearest: Any
) -> None:
    job = Job(write_png(tmp_path / "a.png", photograph(50, 40)), tmp_path / "out" / "a.png")
    events = Events()
    run([job], nearest(), Options(max_pixels=1999), events)
    assert events.of("failed") == ["a"]
    assert events[0].error is not None
    assert events[0].error.remedy == {"max_pixels": 2000}
    assert run([job], nearest(), Options(max_pixels=2000)).files == 1
