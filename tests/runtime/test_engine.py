"""Which backend runs a file and why, files that are no engines, and the two forms of pixels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import CheckpointError, EngineError, UsageError
from srtool.images.colour import to_levels
from srtool.manifest import (
    METADATA_KEY,
    Manifest,
    ModelFacts,
    read_manifest,
    sha256,
    sidecar,
    write_manifest,
)
from srtool.parity import Fidelity
from srtool.runtime import onnx_files
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine
from srtool.runtime.onnx_files import facts_from_onnx
from srtool.runtime.opening import open_engine
from srtool.runtime.session import DirectSession

FACTS = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="test", halo=5)


def fidelity(grade: str) -> Fidelity:
    figures = {
        "exact": (0, 0.0, None),
        "faithful": (3, 0.2, 55.0),
        "lossy": (9, 0.5, 45.0),
    }
    largest, share, between = figures[grade]
    return Fidelity(
        images=1,
        max_difference=largest,
        mean_difference=share,
        share_different=share,
        share_over_1=0.0,
        psnr_between=between,
        delta_psnr=0.0,
        worst_delta_psnr=0.0,
    )


def pixels(height: int = 12, width: int = 9) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (1, height, width, 3)).astype(np.uint8)


def enlarged(tiles: NDArray[Any], scale: int = 4) -> NDArray[Any]:
    return tiles.repeat(scale, 1).repeat(scale, 2)


# The choice of a backend


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Callable[..., Engine]]:
    """A pretended machine. seconds: of the backends that it has. grade: of bfloat16 in the
    manifest, None for a file without one."""

    def pretend(seconds: dict[str, float], grade: str | None) -> Callable[..., Engine]:
        path = tmp_path / "x4.onnx"
        path.write_bytes(b"not read")
        if grade:
            found = {"onnxruntime fp32": fidelity("exact"), "openvino bf16": fidelity(grade)}
            manifest = Manifest(
                model=FACTS, sha256=sha256(path), opset=18, srtool="0", made="", fidelity=found
            )
            write_manifest(path, manifest)
        here = [backend for backend in onnx_files.BACKENDS if str(backend) in seconds]
        session = DirectSession(FACTS, enlarged)
        monkeypatch.setattr(onnx_files, "installed_backends", lambda: here)
        monkeypatch.setattr(
            onnx_files, "_seconds", lambda path, facts, backend: seconds[str(backend)]
        )
        monkeypatch.setattr(onnx_files, "facts_from_onnx", lambda path: FACTS)
        for backend in (OnnxRuntime, OpenVino):
            monkeypatch.setattr(backend, "open", lambda self, path, facts, threads: session)
        return lambda *arguments: open_engine(path, *arguments)

    return pretend


ALL = {"onnxruntime fp32": 3.0, "openvino fp32": 2.0, "openvino bf16": 1.0}


@pytest.mark.parametrize(
    ("grade", "arguments", "backend", "reason"),
    [
        ("exact", (), "openvino bf16", "certified exact"),
        ("faithful", (), "openvino bf16", "certified faithful"),
        ("lossy", (), "openvino fp32", "1.50x"),
        (None, (), "openvino fp32", "1.50x"),
        ("exact", ("auto", "fp32"), "openvino fp32", "1.50x"),
        ("exact", ("openvino", "fp32"), "openvino fp32", "asked for"),
        ("exact", ("openvino",), "openvino bf16", "certified exact"),
        ("lossy", ("openvino",), "openvino fp32", "asked for"),
        (None, ("openvino",), "openvino fp32", "asked for"),
        ("exact", ("onnxruntime",), "onnxruntime fp32", "asked for"),
        ("exact", ("onnxruntime", "fp32"), "onnxruntime fp32", "asked for"),
        ("lossy", ("auto", "bf16"), "openvino bf16", "asked for"),
        (None, ("openvino", "bf16"), "openvino bf16", "asked for"),
    ],
)
def test_choice(machine: Any, grade: Any, arguments: Any, backend: str, reason: str) -> None:
    opened = machine(ALL, grade)(*arguments)
    assert str(opened.backend) == backend
    assert reason in opened.reason
    assert opened.facts == FACTS


def test_choice_where_less_is_installed(machine: Any, complains: Any) -> None:
    fp32 = {"onnxruntime fp32": 1.0, "openvino fp32": 2.0}
    assert machine(fp32, "exact")().backend == OnnxRuntime()
    one = machine({"onnxruntime fp32": 1.0}, "exact")()
    assert (one.backend, one.reason) == (OnnxRuntime(), "the only one installed")
    broken = machine({"onnxruntime fp32": float("inf"), "openvino fp32": 2.0}, "lossy")()
    assert (broken.backend, broken.reason) == (OpenVino("fp32"), "the only one that runs it")
    with complains(EngineError, "x4.onnx", "srtool[cpu]"):
        machine({}, "exact")()
    with complains(EngineError, "x4.onnx", "bfloat16", "--precision auto"):
        machine(fp32, "exact")("auto", "bf16")


def test_combinations_that_make_no_sense(
    machine: Any, complains: Any, compact_weights: Path
) -> None:
    with complains(UsageError, "x4.onnx", "torch", ".pth"):
        machine(ALL, "exact")("torch")
    with complains(UsageError, "bfloat16", "openvino"):
        machine(ALL, "exact")("onnxruntime", "bf16")
    for backend in ("onnxruntime", "openvino"):
        with complains(UsageError, compact_weights, backend, "srtool export"):
            open_engine(compact_weights, backend)
    with complains(UsageError, compact_weights, "fp32"):
        open_engine(compact_weights, "auto", "bf16")


def test_a_backend_that_cannot_run_the_file_is_no_choice(
    nearest_onnx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nearest_onnx()

    def failing(self: OpenVino, path: Path, facts: Any, threads: Any) -> Any:
        raise EngineError("no such operation")

    monkeypatch.setattr(OpenVino, "open", failing)
    here: list[Any] = [OnnxRuntime(), OpenVino("fp32")]
    monkeypatch.setattr(onnx_files, "installed_backends", lambda: here)
    engine = open_engine(path)
    assert (engine.backend, engine.reason) == (OnnxRuntime(), "the only one that runs it")
    assert np.array_equal(engine.upscale_batch(pixels()), enlarged(pixels()))


# Files of srtool


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exported_engine(compact_engine: Path, compact_weights: Path, backend: Any) -> None:
    engine = open_engine(compact_engine, backend, "fp32")
    reference = open_engine(compact_weights)
    assert engine.facts.scale == reference.facts.scale == 4
    assert (engine.facts.io, reference.facts.io) == ("uint8", "float32")
    assert str(reference.backend) == "torch fp32"
    for size in [(1, 2, 3), (2, 17, 5)]:
        tiles = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        found, expected = engine.upscale_batch(tiles), reference.upscale_batch(tiles)
        assert found.dtype == expected.dtype == np.uint8
        assert found.shape == expected.shape == (size[0], 4 * size[1], 4 * size[2], 3)
        assert np.abs(found.astype(int) - expected).max() <= 1
        floats = tiles / np.float32(255) + np.float32(0.001)  # between the levels of 8 bits
        found, expected = engine.upscale_batch(floats), reference.upscale_batch(floats)
        assert found.dtype == expected.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5


def test_results_are_copies(compact_engine: Path) -> None:
    engine = open_engine(compact_engine, "openvino", "fp32")
    first = engine.upscale_batch(pixels())
    kept = first.copy()
    engine.upscale_batch(255 - pixels())
    assert np.array_equal(first, kept)


def test_a_changed_file_is_refused(compact_engine: Path, complains: Any) -> None:
    with compact_engine.open("ab") as file:
        file.write(b"\0")
    with complains(EngineError, compact_engine, "SHA-256", "export"):
        open_engine(compact_engine)


def test_a_changed_companion_is_refused_when_it_is_needed(
    compact_engine: Path, complains: Any
) -> None:
    companion = compact_engine.with_name("x4.float32.onnx")
    with companion.open("ab") as file:
        file.write(b"\0")
    engine = open_engine(compact_engine, "onnxruntime")
    assert engine.upscale_batch(pixels()).dtype == np.uint8
    with complains(EngineError, companion, "SHA-256"):
        engine.upscale_batch(pixels() / np.float32(255))


@pytest.mark.parametrize("fault", ["other weights", "no manifest", "another scale"])
def test_a_companion_of_another_network_is_refused(
    compact_engine: Path, complains: Any, fault: str
) -> None:
    companion = compact_engine.with_name("x4.float32.onnx")
    manifest = read_manifest(companion)
    assert manifest is not None
    changes = {"weights_sha256": "0"} if fault == "other weights" else {"scale": 2}
    changed = manifest.model.model_copy(update=changes)
    write_manifest(companion, manifest.model_copy(update={"model": changed}))
    if fault == "no manifest":
        sidecar(companion).unlink()
    engine = open_engine(compact_engine, "onnxruntime")
    with complains(EngineError, companion, "companion", "same weights", "--depth 8"):
        engine.upscale(pixels()[0].astype(np.uint16))


def test_a_missing_companion_is_named_when_it_is_needed(
    compact_engine: Path, complains: Any
) -> None:
    compact_engine.with_name("x4.float32.onnx").unlink()
    engine = open_engine(compact_engine, "onnxruntime")
    assert engine.upscale_batch(pixels()).shape == (1, 48, 36, 3)
    with complains(EngineError, compact_engine, "8-bit", "companion", "export", "--depth 8"):
        engine.upscale_batch(pixels() / np.float32(255))


def test_a_lone_file_knows_its_facts(compact_engine: Path, tmp_path: Path) -> None:
    lone = Path(shutil.copy(compact_engine, tmp_path / "lone.onnx"))
    with_manifest, alone = open_engine(compact_engine, "onnxruntime"), facts_from_onnx(lone)
    assert alone == with_manifest.facts
    assert alone.weights == "compact.pth"
    assert np.array_equal(
        open_engine(lone, "onnxruntime").upscale_batch(pixels()),
        with_manifest.upscale_batch(pixels()),
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"manifest": 2}', "\xff\xfe", "null"],
    ids=["empty", "cut", "list", "nothing", "newer", "binary", "null"],
)
def test_a_damaged_manifest_is_refused(compact_engine: Path, complains: Any, text: str) -> None:
    manifest = compact_engine.with_name("x4.onnx.json")
    manifest.write_text(text, encoding="latin-1")
    with complains(EngineError, manifest, "no manifest", "export"):
        open_engine(compact_engine)


def test_metadata_of_another_version_is_passed_over(nearest_onnx: Any) -> None:
    ours = FACTS.model_copy(update={"halo": 33})
    path = nearest_onnx(io="uint8", metadata={METADATA_KEY: ours.model_dump_json()})
    assert facts_from_onnx(path) == ours
    for text in ("{", "[]", "null", json.dumps({"scale": 4, "new": 1})):
        path = nearest_onnx(io="uint8", metadata={METADATA_KEY: text})
        assert facts_from_onnx(path).architecture == "unknown"


# Files of others


@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_foreign_files_run_and_their_scale_is_found(nearest_onnx: Any, io: str, scale: int) -> None:
    path = nearest_onnx(io=io, scale=scale)
    facts = facts_from_onnx(path)
    assert (facts.scale, facts.io, facts.halo) == (scale, io, 16)
    engine = open_engine(path, "onnxruntime")
    assert np.array_equal(engine.upscale_batch(pixels()), enlarged(pixels(), scale))


def test_a_foreign_file_takes_floats(nearest_onnx: Any, complains: Any) -> None:
    floats = pixels() / np.float32(255)
    engine = open_engine(nearest_onnx(io="float32"))
    assert np.array_equal(engine.upscale_batch(floats), enlarged(floats))
    with complains(EngineError, "foreign.onnx", "--depth 8"):
        open_engine(nearest_onnx(io="uint8"), "onnxruntime").upscale_batch(floats)


def nodes(*descriptions: Any) -> list[Any]:
    from onnx import helper

    return [helper.make_node(*names, **options) for *names, options in descriptions]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 1}, ["float32", "expected RGB"]),
        ({"io": "uint8", "channels": 4}, ["uint8", "expected RGB"]),
        ({"sides": (32, 48)}, ["48x32", "free"]),
        ({"sides": (32, "w")}, ["free"]),
        ({"io": "uint8", "sides": (32, 48)}, ["48x32", "free"]),
        (
            {"extra": nodes(("ReduceMean", ["x"], ["y"], {}))},
            ["shape (1, 1, 4, 4)", "whole number of times"],
        ),
        (
            {"extra": nodes(("Concat", ["x", "x"], ["y"], {"axis": 1}))},
            ["shape (1, 6, 256, 256)", "whole number of times"],
        ),
    ],
    ids=["gray", "rgba", "fixed", "half fixed", "fixed bytes", "mean", "six"],
)
def test_foreign_files_that_do_not_fit(
    nearest_onnx: Any, complains: Any, options: Any, words: list[str]
) -> None:
    path = nearest_onnx(**options)
    with complains(EngineError, path, *words):
        open_engine(path)


def failing(shape: list[int]) -> list[Any]:
    """Nodes that take no image of a 64 x 64 tile's sides."""
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.array(shape, np.int64))
    return [
        helper.make_node("Constant", [], ["shape"], value=value),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]


def test_a_foreign_file_that_fails_on_a_tile(nearest_onnx: Any, complains: Any) -> None:
    path = nearest_onnx(extra=failing([1, 3, 7, 5]))
    with complains(EngineError, path, "64x64"):
        open_engine(path)


def test_a_failure_of_onnxruntime_is_a_runtime_error(nearest_onnx: Any) -> None:
    facts = FACTS.model_copy(update={"io": "float32"})
    session = OnnxRuntime().open(nearest_onnx(extra=failing([1, 3, 7, 5])), facts)
    with pytest.raises(RuntimeError, match=r"[Rr]eshape"):
        session.run(np.zeros((1, 9, 9, 3), np.float32))
    with pytest.raises(RuntimeError):
        session.compute(np.zeros((9, 9), np.float64))


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
@pytest.mark.parametrize("content", [b"", b"hello, I am a text\n" * 40, b"\x08\x0a\x12", "half"])
@pytest.mark.parametrize("known", [False, True], ids=["lone", "manifest"])
def test_files_that_are_no_engines(
    compact_export: Path, tmp_path: Path, complains: Any, backend: Any, content: Any, known: bool
) -> None:
    path = tmp_path / "x4.onnx"
    whole = (compact_export / "x4.onnx").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    if known:
        manifest = Manifest(model=FACTS, sha256=sha256(path), opset=18, srtool="0", made="")
        write_manifest(path, manifest)
    with complains(EngineError, path, "no ONNX model", "srtool export"):
        open_engine(path, backend)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.onnx", ["no such engine", "srtool export"]),
        ("folder.onnx", ["no such engine"]),
        ("missing.pth", ["no such engine"]),
        ("missing.plan", ["no such plan", "srtool export"]),
        ("x4.plan", ["x4.plan.json is missing"]),
        ("x4.engine", ["no engine that this version runs", ".onnx", ".plan"]),
        ("x4", ["no engine that this version runs"]),
        ("x4.png", ["no engine that this version runs"]),
    ],
)
def test_names_that_are_no_engines(
    tmp_path: Path, complains: Any, name: str, words: list[str]
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    if not name.startswith(("missing", "folder")):
        (tmp_path / name).write_bytes(b"x")
    with complains(EngineError, tmp_path / name, *words):
        open_engine(tmp_path / name)


@pytest.mark.parametrize("name", ["x4.pth", "x4.pt", "x4.safetensors"])
def test_weights_that_are_none(tmp_path: Path, complains: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"hello")
    with complains(CheckpointError, tmp_path / name):
        open_engine(tmp_path / name)


# Levels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_float_path(dtype: Any) -> None:
    peak = np.iinfo(dtype).max
    levels = np.arange(peak + 1, dtype=dtype)
    found = to_levels(levels.astype(np.float32) / np.float32(peak), dtype)
    assert found.dtype == dtype
    assert np.array_equal(found, levels)


def test_levels_are_rounded_and_clamped() -> None:
    values = np.array([-1.0, -1e-9, 0.49 / 255, 0.51 / 255, 1.0, 1.1, np.inf, -np.inf], np.float32)
    assert to_levels(values, np.uint8).tolist() == [0, 0, 0, 1, 255, 255, 255, 0]
    assert to_levels(values, np.uint16).tolist()[4:] == [65535, 65535, 65535, 0]


def test_bytes_through_a_float_engine_are_exact(nearest: Any) -> None:
    tiles = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    engine = nearest(io="float32")
    assert np.array_equal(engine.upscale_batch(tiles), enlarged(tiles))


OUT_OF_ORDER = """
import signal, sys
from pathlib import Path
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.onnx_files import open_on

first, second = (open_on(Path(sys.argv[1]), OpenVino("fp32")) for _ in range(2))
del first
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_after_sessions_were_closed_out_of_order(
    nearest_onnx: Callable[..., Path],
) -> None:
    # OpenVINO's plugin used to leave a dead signal stack behind: a segmentation fault.
    command = [sys.executable, "-X", "faulthandler", "-c", OUT_OF_ORDER, str(nearest_onnx())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "interrupted", done.stderr
