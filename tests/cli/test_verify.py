"""`srtool verify` and what `srtool infer` makes of it, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.manifest import Manifest, read_manifest, sidecar, write_manifest

Run = Callable[..., Any]  # of conftest
SIDE = 112  # of the HR images: NIQE needs 96 and the border


@pytest.fixture
def scene(run: Run, compact_engine: Path, write_png: Any) -> Path:
    """engine/x4.onnx, set/HR/ and in/ in the current folder."""
    y, x = np.mgrid[:SIDE, :SIDE]
    shades = (128 + 50 * np.sin(x / 7) + 50 * np.cos(y / 9)).astype(np.uint8)
    write_png(Path("set/HR/a.png"), np.stack([shades, shades.T, shades[::-1]], -1))
    write_png(Path("in/a.png"), np.stack([shades[:20, :24]] * 3, -1))
    return Path.cwd()


ENGINE = "engine/x4.onnx"


def manifest_with(**changes: Any) -> Manifest:
    """Of the engine, after changes to what is known of ONNX Runtime."""
    manifest = read_manifest(Path(ENGINE))
    assert manifest is not None
    name = "onnxruntime fp32"
    changed = manifest.fidelity[name].model_copy(update=changes)
    manifest = manifest.model_copy(update={"fidelity": {**manifest.fidelity, name: changed}})
    write_manifest(Path(ENGINE), manifest)
    return manifest


# verify


def test_a_good_engine(scene: Path, run: Run, compact_weights: Path) -> None:
    """With a real process pool."""
    result = run("verify", compact_weights, ENGINE, "--images", "set", "--backend", "onnxruntime",
                 "--json", "out/parity.json")  # fmt: skip
    assert result.code == 0
    (line,) = [line for line in result.out.splitlines() if line.startswith("x4.onnx")]
    assert line.split()[1:5] == ["onnxruntime", "fp32", "passes,", "exact"]
    assert [word for word in ("set, 1 image", "ΔPSNR-Y", "ΔSSIM") if word not in result.out] == []
    assert "ΔPI " not in result.out.partition("To pass")[0]
    for title in ("PI", "NIQE", "LPIPS"):
        (line,) = [
            line for line in result.out.splitlines() if line.startswith(f"{title} not measured")
        ]
        assert "srtool assets fetch" in line
    stored = json.loads(Path("out/parity.json").read_text())
    assert (stored["rows"][0]["engine"], stored["rows"][0]["missed"]) == (ENGINE, [])
    manifest = read_manifest(Path(ENGINE))
    assert manifest is not None
    assert manifest.fidelity["onnxruntime fp32"].dataset == "set"


def test_a_gate_that_is_not_kept(scene: Path, run: Run, compact_weights: Path) -> None:
    options = ["--images", "set", "--backend", "onnxruntime"]
    result = run("verify", compact_weights, ENGINE, *options, "--min-psnr", 200)
    assert result.code == 1
    assert "at least" in result.out
    assert "passes" not in result.out
    assert run("verify", compact_weights, ENGINE, *options).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.pth", ENGINE, "--images", "set"], ["none.pth", "no such"]),
        (["engine/x4.onnx", ENGINE, "--images", "set"], ["engine/x4.onnx", "no checkpoint"]),
        (["W", "none.onnx", "--images", "set"], ["none.onnx", "srtool export"]),
        (["W", ENGINE, "--images", "none"], ["none", "no such folder"]),
    ],
)
def test_bad_input_is_one_line(
    scene: Path, run: Run, compact_weights: Path, arguments: list[str], words: list[str]
) -> None:
    given = [str(compact_weights) if text == "W" else text for text in arguments]
    result = run("verify", *given)
    assert result.code == 2
    assert result.out == ""
    (line,) = result.lines
    assert line.startswith("srtool: ")
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "w.pth", "--images", "set"],
        ["verify", "w.pth", ENGINE],
        ["verify", "w.pth", ENGINE, "--images", "set", "--backend", "torch"],
        ["verify", "w.pth", ENGINE, "--images", "set", "--max-delta-pi", "-1"],
    ],
)
def test_bad_options(scene: Path, run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


def test_bisect_says_what_it_found(
    scene: Path, run: Run, overflowing_weights: Path, hr_images: Path
) -> None:
    run("export", overflowing_weights, "-o", "half.onnx", "--precision", "fp16", "--images",
        hr_images, "--force")  # fmt: skip
    result = run("verify", overflowing_weights, "half.onnx", "--images", "set", "--backend",
                 "onnxruntime", "--bisect")  # fmt: skip
    assert result.code == 1
    lines = [line for line in result.lines if line.startswith("half.onnx: ")]
    assert any("Conv of body.0" in line and "float16" in line for line in lines)
    assert any("half.mixed.onnx keeps" in line for line in lines)
    passing = [line for line in result.out.splitlines() if "passes" in line]
    assert sum("half.mixed.onnx" in line for line in passing) == 2
    done = run("infer", "in", "--engine", "half.mixed.onnx", "--backend", "onnxruntime",
               "--require-certified")  # fmt: skip
    assert (done.code, len(done.lines)) == (0, 1)


# infer


def infer(run: Run, *options: object, engine: object = ENGINE) -> Any:
    fixed = ["--engine", engine, "--backend", "onnxruntime", "--overwrite"]
    return run("infer", "in", *fixed, *options)


def test_what_export_certified_is_not_doubted(scene: Path, run: Run) -> None:
    result = infer(run, "--require-certified")
    assert result.code == 0
    assert len(result.lines) == 1


@pytest.mark.parametrize("kind", ["failed", "unknown", "alone"])
def test_doubt_is_one_line_and_may_be_refused(scene: Path, run: Run, kind: str) -> None:
    words = {"failed": "40.0 dB", "unknown": "never compared", "alone": "no manifest"}
    if kind == "alone":
        sidecar(Path(ENGINE)).unlink()
    else:
        manifest = manifest_with(psnr_between=40.0)
        if kind == "unknown":
            write_manifest(Path(ENGINE), manifest.model_copy(update={"fidelity": {}}))
    result = infer(run)
    assert result.code == 0
    (line,) = result.lines[1:]
    assert line.startswith(f"{ENGINE}: is not certified: ")
    assert words[kind] in line
    Path("upscaled/a.png").unlink()
    refused = infer(run, "--require-certified")
    assert (refused.code, refused.out) == (2, "")
    assert refused.lines[-1] == f"srtool: {line}"
    assert not Path("upscaled/a.png").exists()


def test_the_reference_is_not_doubted(scene: Path, run: Run, compact_weights: Path) -> None:
    result = run("infer", "in", "--engine", compact_weights, "--require-certified")
    assert (result.code, len(result.lines)) == (0, 1)
