"""The manifest: what certifies an engine, and files that older versions wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtool.errors import EngineError
from srtool.files import sha256
from srtool.manifest import (
    Manifest,
    ModelFacts,
    read_manifest,
    sidecar,
    uncertified_reason,
    write_manifest,
)
from srtool.parity import Fidelity, Gates, WorstTile

OLD = {
    "images": 4,
    "max_difference": 2,
    "mean_difference": 0.1,
    "share_different": 0.1,
    "share_over_1": 0.0,
    "psnr_between": 57.0,
    "delta_psnr": 0.01,
    "worst_delta_psnr": -0.004,
}


def fidelity(**changes: Any) -> Fidelity:
    return Fidelity.model_validate({**OLD, **changes})


def manifest_of(path: Path, found: dict[str, Fidelity]) -> Manifest:
    path.write_bytes(b"engine")
    model = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="test", halo=4)
    return Manifest(model=model, sha256=sha256(path), opset=18, srtool="0", made="", fidelity=found)


@pytest.mark.parametrize("delta", [0.5, float("inf")])
def test_a_file_says_what_follows_from_its_figures_and_reads_as_it_was(
    tmp_path: Path, delta: float
) -> None:
    tile = WorstTile(image="a.png", left=32, top=64, psnr=41.0)
    found = fidelity(delta_psnr=delta, worst_tile=tile, dataset="Set5", deltas={"niqe": 0.1})
    path = tmp_path / "x4.onnx"
    manifest = manifest_of(path, {"onnxruntime fp32": found})
    write_manifest(path, manifest)
    written = json.loads(sidecar(path).read_text())["fidelity"]["onnxruntime fp32"]
    assert (written["passed"], written["grade"]) == (False, "lossy")
    assert read_manifest(path) == manifest
    again = read_manifest(path)
    assert again is not None
    assert not again.fidelity["onnxruntime fp32"].passed


def test_a_verdict_that_was_edited_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x4.onnx"
    write_manifest(path, manifest_of(path, {"test": fidelity(psnr_between=20.0)}))
    text = sidecar(path).read_text().replace('"passed": false', '"passed": true')
    sidecar(path).write_text(text)
    manifest = read_manifest(path)
    assert manifest is not None
    assert not manifest.fidelity["test"].passed


def test_a_manifest_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "x4.onnx"
    content = json.loads(manifest_of(path, {}).model_dump_json())
    content["fidelity"] = {"onnxruntime fp32": dict(OLD)}
    sidecar(path).write_text(json.dumps(content))
    manifest = read_manifest(path)
    assert manifest is not None
    found = manifest.fidelity["onnxruntime fp32"]
    assert (found.passed, found.grade, found.gates) == (True, "faithful", Gates())
    gates = {"max_delta_psnr": 0.02, "max_delta_pi": 0.01, "min_psnr": 60.0}
    content["fidelity"]["onnxruntime fp32"]["gates"] = gates
    sidecar(path).write_text(json.dumps(content))
    manifest = read_manifest(path)
    assert manifest is not None
    assert not manifest.fidelity["onnxruntime fp32"].passed
    content["fidelity"]["onnxruntime fp32"]["surprise"] = 1
    sidecar(path).write_text(json.dumps(content))
    with pytest.raises(EngineError, match="surprise"):
        read_manifest(path)


def test_doubts(tmp_path: Path) -> None:
    found = {"good": fidelity(), "bad": fidelity(psnr_between=40.0)}
    manifest = manifest_of(tmp_path / "x4.onnx", found)
    assert uncertified_reason(manifest, "good") == ""
    assert [
        word for word in ("bad", "40.0 dB", "50") if word not in uncertified_reason(manifest, "bad")
    ] == []
    assert "srtool verify" in uncertified_reason(manifest, "other")
    assert "srtool export" in uncertified_reason(None, "good")
