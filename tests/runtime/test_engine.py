"""Which backend runs a file and why, files that are no engines, and the two forms of pixels."""

from __future__ import annotations

import json
import os
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
from srtool.files import sha256
from srtool.images.colour import to_levels
from srtool.manifest import (
    METADATA_KEY,
    Manifest,
    ModelFacts,
    read_manifest,
    sidecar,
    write_manifest,
)
from srtool.parity import Fidelity
from srtool.runtime import onnx_files
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine
from srtool.runtime.foreign import Foreign, facts_by_trial
from srtool.runtime.onnx_files import facts_from_onnx, open_on
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
        monkeypatch.setattr(onnx_files, "installed_backends", lambda device=None: here)
        monkeypatch.setattr(
            onnx_files, "_seconds", lambda path, facts, backend: seconds[str(backend)]
        )
        monkeypatch.setattr(onnx_files, "facts_from_onnx", lambda path, told: FACTS)
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
    monkeypatch.setattr(onnx_files, "installed_backends", lambda device=None: here)
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
@pytest.mark.parametrize("scale", [2, 3, 4])
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
        ({"extra": nodes(("ReduceMean", ["x"], ["y"], {}))}, ["shape (1, 1, 4, 4)"]),
        ({"extra": nodes(("Concat", ["x", "x"], ["y"], {"axis": 1}))}, ["(1, 6, 128, 128)"]),
        ({"extra": nodes(("Sub", ["x", "x"], ["y"], {}))}, ["no photograph", "dB to bicubic"]),
        ({"extra": nodes(("Log", ["x"], ["l"], {}), ("Sqrt", ["l"], ["y"], {}))}, ["image"]),
        ({"scale": 1}, ["no larger image", "--output large"]),
    ],
    ids=["gray", "rgba", "mean", "six", "black", "NaN", "scale 1"],
)
def test_foreign_files_that_do_not_fit(
    nearest_onnx: Any, complains: Any, options: Any, words: list[str]
) -> None:
    path = nearest_onnx(**options)
    for backend in (OnnxRuntime(), OpenVino()):
        with complains(EngineError, path, *words):
            facts_by_trial(path, backend.inspect(path))


def scaled(by: float) -> list[Any]:
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.array(by, np.float32))
    return [
        helper.make_node("Constant", [], ["by"], value=value),
        helper.make_node("Mul", ["x", "by"], ["y"]),
    ]


def swapped() -> list[Any]:
    from onnx import helper, numpy_helper

    order = numpy_helper.from_array(np.array([2, 1, 0], np.int64))
    return [
        helper.make_node("Constant", [], ["order"], value=order),
        helper.make_node("Gather", ["x", "order"], ["y"], axis=1),
    ]


def clipped(high: float) -> list[Any]:
    """What a network that was trained on 0..255 does not do to values of 0..1, and the reverse."""
    from onnx import helper, numpy_helper

    limits = [numpy_helper.from_array(np.array(value, np.float32)) for value in (high / 50, high)]
    return [
        helper.make_node("Constant", [], ["low"], value=limits[0]),
        helper.make_node("Constant", [], ["high"], value=limits[1]),
        helper.make_node("Clip", ["x", "low", "high"], ["y"]),
    ]


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=str)
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"extra": scaled(255.0)}, (1, 255, False)),
        ({"extra": scaled(1 / 255)}, (255, 1, False)),
        ({"extra": clipped(255.0)}, (255, 255, False)),
        ({"extra": swapped()}, (1, 1, True)),
        ({"io": "uint8", "extra": swapped()}, (1, 1, True)),
        ({}, (1, 1, False)),
    ],
    ids=["out 255", "in 255", "both 255", "BGR", "BGR bytes", "plain"],
)
def test_what_values_a_foreign_file_takes_and_makes(
    nearest_onnx: Any, backend: Any, options: Any, found: Any
) -> None:
    path = nearest_onnx(**options)
    facts = facts_by_trial(path, backend.inspect(path))
    assert (facts.input_range, facts.output_range, facts.output_bgr) == found
    image = np.maximum(pixels()[0], 6)
    with open_on(path, backend, facts) as engine:
        assert np.abs(engine.upscale(image) - enlarged(image[None])[0].astype(int)).max() <= 1


def test_the_user_may_know_the_range(nearest_onnx: Any) -> None:
    path = nearest_onnx()  # repeats whatever comes: nothing tells one range from the other
    for white in (1, 255):
        facts = facts_by_trial(path, OnnxRuntime().inspect(path), Foreign(range=white))
        assert (facts.input_range, facts.output_range) == (white, white)


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=str)
@pytest.mark.parametrize("size", [(5, 8), (31, 47), (33, 100)])
def test_a_file_of_one_size_is_run_in_tiles_of_it(
    nearest_onnx: Any, backend: Any, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    path = nearest_onnx(sides=(32, 48))
    facts = facts_by_trial(path, backend.inspect(path))
    assert facts.fixed == (32, 48)
    facts = facts.model_copy(update={"halo": 4})
    with open_on(path, backend, facts) as engine:
        assert np.array_equal(engine.upscale(image), enlarged(image[None])[0])
        assert np.array_equal(engine.upscale_batch(image[None]), enlarged(image[None]))


@pytest.mark.parametrize("multiple", [2, 8])
@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=str)
def test_multiples_are_found(nearest_onnx: Any, backend: Any, multiple: int) -> None:
    from onnx import helper

    path = nearest_onnx(
        extra=[
            helper.make_node("SpaceToDepth", ["x"], ["small"], blocksize=multiple),
            helper.make_node("DepthToSpace", ["small"], ["y"], blocksize=multiple),
        ]
    )
    assert facts_by_trial(path, backend.inspect(path)).multiple_of == multiple
    image = pixels(31, 45)[0]
    with open_on(path, backend) as engine:
        assert np.array_equal(engine.upscale(image), enlarged(image[None])[0])


@pytest.fixture
def two_outputs(nearest_onnx: Any) -> Callable[..., Path]:
    """Adds outputs to a file: name -> the value in the graph."""
    import onnx

    def make(**outputs: str) -> Path:
        path: Path = nearest_onnx()
        model = onnx.load(path)
        for name, value in outputs.items():
            model.graph.node.append(onnx.helper.make_node("Identity", [value], [name]))
            shape = ["n", f"{name}c", f"{name}h", f"{name}w"]
            info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            model.graph.output.insert(0, info)
        onnx.save(model, path)
        return path

    return make


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_of_several_outputs_the_larger_image_is_taken(two_outputs: Any, backend: Any) -> None:
    with open_engine(two_outputs(small="x"), backend) as engine:
        assert engine.facts.output_name == "large"
        assert np.array_equal(engine.upscale_batch(pixels()), enlarged(pixels()))


def test_of_several_larger_ones_the_user_names_one(two_outputs: Any, complains: Any) -> None:
    path = two_outputs(small="x", other="z")
    with complains(EngineError, path, "several larger images", "--output"):
        open_engine(path, "onnxruntime")
    with complains(EngineError, path, "no output that", "--output"):
        open_engine(path, "onnxruntime", foreign=Foreign(output="that"))
    for name, scale in (("small", 1), ("other", 4), ("large", 4)):
        with open_engine(path, "onnxruntime", foreign=Foreign(output=name)) as engine:
            assert (engine.facts.output_name, engine.facts.scale) == (name, scale)
            found = engine.upscale_batch(pixels())
            assert np.array_equal(found, enlarged(pixels(), scale))


def test_a_manifest_knows_better_than_the_user(compact_engine: Path, complains: Any) -> None:
    with complains(UsageError, compact_engine, "manifest", "--range"):
        open_engine(compact_engine, "onnxruntime", foreign=Foreign(range=255))


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0},
        {"scale": -4},
        {"scale": 1 << 20},
        {"halo": -1},
        {"halo": 1 << 20},
        {"multiple_of": 0},
        {"minimum": -1},
        {"tile": 0},
        {"input_range": 7},
        {"fixed": [0, 5]},
    ],
    ids=str,
)
def test_facts_have_bounds(compact_engine: Path, complains: Any, change: Any) -> None:
    manifest = sidecar(compact_engine)
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["model"] |= change
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with complains(EngineError, manifest, "no manifest", next(iter(change))):
        open_engine(compact_engine)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_a_manifest_of_another_scale_is_found_out(
    compact_engine: Path, backend: Any, scale: int
) -> None:
    manifest = read_manifest(compact_engine)
    assert manifest is not None
    facts = manifest.model.model_copy(update={"scale": scale})
    write_manifest(compact_engine, manifest.model_copy(update={"model": facts}))
    with open_engine(compact_engine, backend, "fp32") as engine:
        for call in (engine.upscale_batch, lambda batch: engine.upscale(batch[0])):
            with pytest.raises(EngineError) as caught:
                call(pixels())
            assert "48" in caught.value.found
            assert str(12 * scale) in caught.value.expected


def failing(shape: list[int]) -> list[Any]:
    """Nodes that take no image of a trial's sides."""
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.array(shape, np.int64))
    return [
        helper.make_node("Constant", [], ["shape"], value=value),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]


def test_a_foreign_file_that_fails_on_a_tile(nearest_onnx: Any, complains: Any) -> None:
    path = nearest_onnx(extra=failing([1, 3, 7, 5]))
    with complains(EngineError, path, "32x32"):
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


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of Linux")
def test_onnxruntime_keeps_to_the_cpus_that_the_process_may_use(compact_export: Path) -> None:
    """By itself it starts a thread for each of the machine's, and pins it there."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        before = set(os.listdir("/proc/self/task"))
        with open_engine(compact_export / "x4.onnx", "onnxruntime") as engine:
            engine.upscale_batch(pixels())
            started = set(os.listdir("/proc/self/task")) - before
    finally:
        os.sched_setaffinity(0, allowed)
    assert started == set()
