"""The public API: what `import srtool` gives, how little it loads, and the images that it takes."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import srtool
from srtool.errors import ChangedFileError, EngineError, ImageError, SrtoolError, UsageError
from srtool.files import sha256, whole_files
from srtool.manifest import Manifest, sidecar, write_manifest

HEAVY = {
    *("numpy", "pydantic", "pyvips", "PIL", "rich", "torch", "torchvision", "onnx", "scipy"),
    *("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_libs"),
    *("tensorrt_rtx_bindings", "cuda", "pycuda"),
}


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    random = np.random.default_rng(0)
    if dtype == np.float32:
        return random.random(shape, np.float32)
    # No pixel is wholly transparent: the colour of such is filled in from its neighbours.
    return random.integers(1, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def enlarged(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def engine(nearest_onnx: Any) -> Path:
    """A network that repeats pixels, so that every result is known exactly."""
    path: Path = nearest_onnx()
    return path


# Names


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_it_loads_nothing() -> None:
    modules = loaded_by("import srtool")
    assert {name for name in modules if name.startswith("srtool")} == {"srtool", "srtool.version"}
    assert not modules & HEAVY


def test_help_loads_no_stage() -> None:
    modules = loaded_by("import srtool.cli.main")
    stages = ("images", "networks", "train", "runtime", "export", "benchmarks")
    assert not [name for name in modules if name.startswith(tuple(f"srtool.{s}" for s in stages))]
    assert not modules & HEAVY


def test_upscaling_loads_no_torch() -> None:
    assert not loaded_by("import srtool; srtool.upscale") & {"torch", "onnx", "scipy"}


def test_every_name_is_there() -> None:
    for name in srtool.__all__:
        assert getattr(srtool, name) is not None
        assert name in dir(srtool)
    assert set(srtool.__all__) == {
        *(
            "upscale",
            "upscale_folder",
            "open_engine",
            "Engine",
            "Options",
            "Event",
            "Foreign",
            "Size",
        ),
        *("load_network", "export", "verify", "evaluate", "doctor", "__version__"),
        *("SrtoolError", "UsageError", "ImageError", "CheckpointError", "DataError"),
        *("EngineError", "ChangedFileError", "ExportError", "AssetError"),
    }
    with pytest.raises(AttributeError, match="no attribute 'upscales'"):
        srtool.upscales  # noqa: B018


def test_errors_are_one_tree() -> None:
    errors = [getattr(srtool, name) for name in srtool.__all__ if name.endswith("Error")]
    assert all(issubclass(error, SrtoolError) for error in errors)


@pytest.mark.parametrize("first", ["", "import srtool.export.onnx; "])
def test_export_is_a_call_whatever_was_imported_before(first: str) -> None:
    code = f"{first}import srtool; assert callable(srtool.export); srtool.export('none.pth')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "CheckpointError: none.pth: no such file" in done.stderr


# Arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "shape", [(9, 14), (9, 14, 1), (9, 14, 3), (9, 14, 4)], ids=["gray", "gray 1", "RGB", "RGBA"]
)
def test_an_array_comes_back_as_it_was(engine: Path, dtype: Any, shape: Any) -> None:
    image = noise(*shape, dtype=dtype)
    found = srtool.upscale(image, engine)
    assert found.dtype == dtype
    expected = enlarged(image)
    assert found.shape == expected.shape
    if dtype == np.float32:
        assert np.abs(found - expected).max() < 1e-6
    else:
        assert np.array_equal(found, expected)


def test_a_view_of_an_array(engine: Path) -> None:
    image = noise(30, 40, 3)[::2, ::-3]
    assert np.array_equal(srtool.upscale(image, engine), enlarged(image))


WRONG = {
    "float64": (noise(5, 6, 3).astype(np.float64) / 255, "float64"),
    "int64": (noise(5, 6, 3).astype(np.int64), "int64"),
    "bool": (noise(5, 6) > 9, "bool"),
    "float32 of levels": (noise(5, 6, 3).astype(np.float32), "0..1"),
    "NaN": (np.full((5, 6, 3), np.nan, np.float32), "nan"),
    "planes": (noise(3, 50, 60), "(3, 50, 60)"),
    "two channels": (noise(5, 6, 2), "(5, 6, 2)"),
    "a batch": (noise(1, 5, 6, 3), "(1, 5, 6, 3)"),
    "nothing": (noise(0, 6, 3), "(0, 6, 3)"),
    "a row": (noise(6), "(6,)"),
    "a list": ([[1, 2], [3, 4]], "list"),
    "None": (None, "NoneType"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_array_is_one_clear_error(engine: Path, kind: str) -> None:
    image, word = WRONG[kind]
    with pytest.raises(UsageError) as caught:
        srtool.upscale(image, engine)
    assert caught.value.parameter == "image"
    assert word in str(caught.value)
    assert caught.value.found
    assert caught.value.expected


@pytest.mark.parametrize("shape", [(5, 6, 3), (1, 5, 6, 4), (1, 3, 5, 6), (0, 5, 6, 3)])
def test_a_wrong_batch_is_one_clear_error(engine: Path, shape: Any) -> None:
    with srtool.open_engine(engine) as opened, pytest.raises(UsageError) as caught:
        opened.upscale_batch(noise(*shape))
    assert (caught.value.parameter, caught.value.found) == ("batch", str(shape))


def test_a_batch_of_16_bits(engine: Path) -> None:
    batch = noise(2, 5, 6, 3, dtype=np.uint16)
    with srtool.open_engine(engine) as opened:
        assert np.array_equal(opened.upscale_batch(batch), batch.repeat(4, 1).repeat(4, 2))


# PIL images and files


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_comes_back_as_one(engine: Path, mode: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    if mode == "I;16":
        image = pil.fromarray(noise(8, 9, dtype=np.uint16))
    else:
        image = pil.fromarray(noise(8, 9, 4)).convert(mode)
    image.info["icc_profile"] = b"kept"
    found = srtool.upscale(image, engine)
    assert found.size == (36, 32)
    assert found.info["icc_profile"] == b"kept"
    again = {"1": "L", "P": "RGB"}.get(mode, mode)
    assert found.mode == again
    expected = enlarged(np.asarray(image.convert(again) if again != mode else image))
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
def test_a_pil_image_of_another_mode(engine: Path, mode: str) -> None:
    pil = pytest.importorskip("PIL.Image")
    with pytest.raises(UsageError) as caught:
        srtool.upscale(pil.new(mode, (8, 9)), engine)
    assert (caught.value.parameter, caught.value.found) == ("image", mode)


def test_a_file(engine: Path, tmp_path: Path, write_png: Any) -> None:
    from srtool.images.reading import read_image

    image = noise(12, 9, 4, dtype=np.uint16)
    path, out = write_png(tmp_path / "a.png", image), tmp_path / "out" / "b.tif"
    assert np.array_equal(srtool.upscale(str(path), engine), enlarged(image))
    found = srtool.upscale(path, engine, out=out)
    assert np.array_equal(found, enlarged(image))
    assert np.array_equal(read_image(out).pixels, enlarged(image[..., :3]))
    with pytest.raises(ImageError) as caught:
        srtool.upscale(tmp_path / "lost.png", engine)
    assert "lost.png" in str(caught.value)
    with pytest.raises(UsageError) as refused:
        srtool.upscale(image, engine, out=out)
    assert refused.value.parameter == "out"


def test_without_an_engine_the_shipped_one_runs() -> None:
    found = srtool.upscale(np.full((16, 16, 3), 128, np.uint8))
    assert found.shape == (64, 64, 3)
    assert abs(float(found.mean()) - 128) < 4


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="x5-lite"):
        srtool.open_engine("x5-lite")


# Folders


def test_a_folder(engine: Path, tmp_path: Path, write_png: Any) -> None:
    for number in range(3):
        write_png(tmp_path / "in" / f"{number}.png", noise(6 + number, 7, 3))
    (tmp_path / "in" / "x.png").write_bytes(b"no image")
    events = srtool.upscale_folder(tmp_path / "in", tmp_path / "out", engine)
    kinds = sorted((event.job.source.name, event.kind) for event in events if event.kind != "note")
    names = ["0.png", "1.png", "2.png"]
    assert kinds == [*((name, "done") for name in names), ("x.png", "failed")]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == names
    again = list(srtool.upscale_folder(tmp_path / "in", tmp_path / "out", engine))
    assert sum(event.kind == "skipped" for event in again) == 3


def test_a_folder_that_is_left_early(engine: Path, tmp_path: Path, write_png: Any) -> None:
    for number in range(30):
        write_png(tmp_path / "in" / f"{number:02}.png", noise(40, 50, 3))
    before = set(threading.enumerate())
    events = srtool.upscale_folder(tmp_path / "in", tmp_path / "out", engine)
    assert next(events).kind == "done"
    events.close()
    assert set(threading.enumerate()) <= before
    assert 1 <= len(list((tmp_path / "out").glob("*.png"))) < 30


def test_inputs_are_checked_at_once(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        srtool.upscale_folder(tmp_path / "none", tmp_path / "out", engine)


# Threads

THREADS, CALLS = 4, 5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_engine_from_several_threads(
    backend: Any, dtype: Any, compact_engine: Path, compact_weights: Path
) -> None:
    """Every image comes out as it does alone, whatever the others do at the same time."""
    path = compact_weights if backend == "torch" else compact_engine
    images = [noise(40 + 7 * (n % 3), 60 - 9 * (n % 4), 3, dtype=dtype) for n in range(THREADS)]
    with srtool.open_engine(path, backend, "fp32") as engine:
        alone = [engine.upscale(image) for image in images]
        start = threading.Barrier(THREADS)

        def work(number: int) -> list[NDArray[Any]]:
            start.wait()
            return [engine.upscale(images[number]) for _ in range(CALLS)]

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(work, range(THREADS)))
    for made, expected in zip(found, alone, strict=True):
        for image in made:
            assert np.array_equal(image, expected)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_number_of_threads(backend: Any, engine: Path) -> None:
    image = noise(20, 30, 3)
    with srtool.open_engine(engine, backend, threads=1) as opened:
        assert np.array_equal(opened.upscale(image), enlarged(image))
    with pytest.raises(UsageError) as caught:
        srtool.open_engine(engine, backend, threads=0)
    assert caught.value.parameter == "threads"


def test_openvino_is_told_how_many_threads(compact_engine: Path) -> None:
    with srtool.open_engine(compact_engine, "openvino", "fp32", threads=1) as opened:
        network = opened._session._for_any._network  # type: ignore[attr-defined]
        assert network.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_closed_engine_says_so(engine: Path) -> None:
    opened = srtool.open_engine(engine)
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened.upscale(noise(8, 8, 3))


def test_an_engine_that_is_replaced_while_it_is_opened_is_one_of_the_two(
    nearest_onnx: Any, tmp_path: Path
) -> None:
    """Another thread puts networks of two scales in one place by turns, each with its manifest."""
    sets = []
    for scale in (2, 4):
        path = nearest_onnx(f"x{scale}.onnx", scale=scale)
        facts = srtool.open_engine(path, "onnxruntime").facts
        write_manifest(
            path, Manifest(model=facts, sha256=sha256(path), opset=17, srtool="0", made="")
        )
        sets.append([file.read_bytes() for file in (path, sidecar(path))])
    target, is_over = tmp_path / "x.onnx", threading.Event()

    def replace() -> None:
        sets.append(sets.pop(0))
        with whole_files([target, sidecar(target)]) as made:
            for file, content in zip(made.values(), sets[0], strict=True):
                file.write_bytes(content)

    def go_on() -> None:
        while not is_over.wait(0.003):
            replace()

    replace()
    other = threading.Thread(target=go_on)
    other.start()
    seen = []
    try:
        while len(seen) < 200:
            try:
                opened = srtool.open_engine(target, "onnxruntime")
            except ChangedFileError:  # again and again
                continue
            with opened:
                made = opened.upscale_batch(noise(1, 8, 8, 3))
                assert made.shape[1] == 8 * opened.facts.scale
                seen.append(opened.facts.scale)
    finally:
        is_over.set()
        other.join()
    assert set(seen) == {2, 4}
