"""The file between export and runtime: written, read back, and never believed blindly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from srtool.errors import EngineError
from srtool.manifest import (
    Fidelity,
    Manifest,
    ModelFacts,
    facts_from_metadata,
    read_manifest,
    sha256,
    sidecar,
    write_manifest,
)

FACTS = ModelFacts(
    scale=4,
    io="uint8",
    precision="fp16",
    architecture="srtool",
    halo=12,
    weights="x4.safetensors",
    weights_sha256="ab",
    training={"steps": 3, "recipe": {"seed": 1}, "name": "Zürich ✓"},
)
FIDELITY = Fidelity(
    images=4,
    max_difference=1,
    mean_difference=0.001,
    share_different=0.001,
    share_over_1=0.0,
    psnr_between=None,
    delta_psnr=-0.01,
    worst_delta_psnr=None,
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "x4.onnx"
    path.write_bytes(b"engine")
    return path


def manifest_of(engine: Path, **changes: Any) -> Manifest:
    manifest = Manifest(
        model=FACTS,
        sha256=sha256(engine),
        opset=18,
        srtool="0.1.0",
        made="2025-01-01T00:00:00+00:00",
        companion="x4.float32.onnx",
        fidelity={"onnxruntime fp32": FIDELITY},
    )
    return manifest.model_copy(update=changes)


def test_a_manifest_comes_back(engine: Path) -> None:
    assert read_manifest(engine) is None
    write_manifest(engine, manifest_of(engine))
    assert sidecar(engine) == engine.with_name("x4.onnx.json")
    assert read_manifest(engine) == manifest_of(engine)
    assert {path.name for path in engine.parent.iterdir()} == {"x4.onnx", "x4.onnx.json"}
    text = sidecar(engine).read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text)["manifest"] == 1
    assert "Zürich ✓" in text


def test_a_manifest_moves_with_its_engine(engine: Path, tmp_path: Path) -> None:
    write_manifest(engine, manifest_of(engine))
    (tmp_path / "b").mkdir()
    moved = Path(shutil.move(engine, tmp_path / "b" / "other.onnx"))
    shutil.move(sidecar(engine), sidecar(moved))
    assert read_manifest(moved) == manifest_of(moved)


def test_a_manifest_of_another_file_is_refused(engine: Path, complains: Any) -> None:
    write_manifest(engine, manifest_of(engine))
    engine.write_bytes(b"enginf")
    with complains(EngineError, sidecar(engine), engine, "SHA-256", "export"):
        read_manifest(engine)


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": 2},
        {"unknown": 1},
        {"opset": "many"},
        {"model": {}},
        {"model": None},
        {"fidelity": {"onnxruntime fp32": {}}},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_manifest_that_is_off_is_refused(engine: Path, complains: Any, change: Any) -> None:
    write_manifest(engine, manifest_of(engine))
    content = json.loads(sidecar(engine).read_text(encoding="utf-8"))
    sidecar(engine).write_text(json.dumps({**content, **change}), encoding="utf-8")
    (field,) = change
    with complains(EngineError, sidecar(engine), "no manifest", field, "export"):
        read_manifest(engine)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"null", b"x" * 5000])
def test_a_file_that_is_no_manifest_is_refused(
    engine: Path, complains: Any, content: bytes
) -> None:
    sidecar(engine).write_bytes(content)
    with complains(EngineError, sidecar(engine), "no manifest"):
        read_manifest(engine)


def test_facts_are_checked_and_fixed() -> None:
    with pytest.raises(ValidationError):
        ModelFacts.model_validate({**FACTS.model_dump(), "io": "bgr"})
    with pytest.raises(ValidationError):
        FACTS.scale = 2


def test_facts_in_metadata() -> None:
    text = json.dumps(FACTS.model_dump(mode="json"))
    assert facts_from_metadata(text) == FACTS
    for other in (None, "", "{", "[]", "3", json.dumps({"scale": 4})):
        assert facts_from_metadata(other) is None


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"")
    assert sha256(path).startswith("e3b0c44298fc1c149afbf4c8996fb924")
    path.write_bytes(bytes(3 * (1 << 20) + 1))
    assert len(sha256(path)) == 64
