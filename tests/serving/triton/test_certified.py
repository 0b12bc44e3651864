"""A deployed network is certified and measured by the commands that do so for files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srtool.serving.triton.repository import write_repository

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def triton(compact_export: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    repository = tmp_path_factory.mktemp("repository")
    write_repository([compact_export / "x4.onnx"], repository, "sr")
    return serve(repository, "sr_pictures")


def test_verify(
    triton: Any,
    run: Callable[..., Any],
    compact_weights: Path,
    hr_images: Path,
    tmp_path: Path,
) -> None:
    engines = [f"{address}/sr_pictures" for address in triton.addresses]
    options = ["--images", hr_images, "--json", tmp_path / "parity.json"]
    result = run("verify", compact_weights, *engines, *options)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "parity.json").read_text())["rows"]
    assert [(row["engine"], row["backend"]) for row in rows] == [
        (engines[0], "kserve grpc"),
        (engines[1], "kserve http"),
    ]
    for row in rows:
        assert row["missed"] == []
        assert row["fidelity"]["grade"] in ("exact", "faithful")


def test_evaluate(
    triton: Any, run: Callable[..., Any], compact_export: Path, hr_images: Path
) -> None:
    address = f"{triton.addresses[0]}/sr_pictures"
    options = ["--engine", f"served={address}", "--engine", f"file={compact_export / 'x4.onnx'}"]
    result = run("evaluate", hr_images, *options, "--metrics", "psnr", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["engines"]["served"]["file"] == address
    (images,) = record["images"].values()
    assert set(images["served"]["psnr"]) == {"0.png", "1.png"}
    assert images["served"] == images["file"]


def test_bench(triton: Any, run: Callable[..., Any], tmp_path: Path) -> None:
    address = f"{triton.addresses[0]}/sr_pictures"
    out = tmp_path / "bench.json"
    options = ["--sizes", "48x32", "--seconds", "1", "--baselines", "none", "--files", "0"]
    result = run("bench", address, *options, "--out", out)
    assert result.code == 0, result.err
    (network,) = json.loads(out.read_text())["networks"]
    assert network["candidates"][0]["software"].startswith("kserve")
    (curve,) = network["scaling"]
    assert curve["axis"] == "callers"
    assert [point["value"] for point in curve["points"]] == [1, 2, 4, 8]
    for point in curve["points"]:
        assert 0 < min(point["seconds"]) <= point["p50"] <= point["p95"] <= max(point["seconds"])
        # As many wait as there are callers (Little's law), less at the ends of the rounds
        waiting = point["rate"] * sum(point["seconds"]) / len(point["seconds"])
        assert 0.5 * point["value"] < waiting <= point["value"] * 1.001
    assert "callers" in result.out
