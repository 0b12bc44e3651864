"""The file of a result: what is written is read again, and what is none gets one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtool.benchmarks.speed.result import (
    Bench,
    EndToEnd,
    Machine,
    Point,
    Scaling,
    Timing,
    read_bench,
    spread,
    write_bench,
)
from srtool.errors import DataError


@pytest.fixture
def bench(make_bench: Any) -> Bench:
    end = EndToEnd(files=8, size=(64, 64), seconds=2.0, decode=0.3, compute=1.8, encode=0.4)
    points = tuple(
        Point(value=side, megapixels=side**2 / 1e6, seconds=(cost * side**2 / 1e6,) * 3)
        for side, cost in ((64, 2.0), (128, 1.6), (256, 2.4))
    )
    scaling = Scaling(axis="tile", candidate="engine", fixed="256x256", points=points)
    found: Bench = make_bench(
        {"PyTorch eager fp32": [0.2, 0.4, 0.6], "engine": [0.1, 0.1, 0.2]},
        candidate={"end_to_end": (end,), "psnr_between": 80.5, "max_difference": 1},
        timing={"peak_share": 0.5, "watts": 70.0, "peak_memory": 10**9},
        measured={"absent": {"ncnn": "is not installed"}, "scaling": (scaling,)},
    )
    return found


def test_a_result_is_read_as_it_was_written(tmp_path: Path, bench: Bench) -> None:
    write_bench(tmp_path / "bench.json", bench)
    assert read_bench(tmp_path / "bench.json") == bench
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_what_follows_from_the_seconds_stands_in_the_file(tmp_path: Path, bench: Bench) -> None:
    write_bench(tmp_path / "bench.json", bench)
    network = json.loads((tmp_path / "bench.json").read_text())["networks"][0]
    reference, engine = network["candidates"]
    timing = engine["timings"][0]
    assert timing["p50"] == 0.1
    assert timing["p90"] == pytest.approx(0.18)  # 0.1 + 0.8 of the way to 0.2
    assert timing["images_per_second"] == pytest.approx(10)
    assert timing["lr_megapixels_per_second"] == pytest.approx(64 * 64 / 0.1 / 1e6)
    assert timing["hr_megapixels_per_second"] == pytest.approx(16 * 64 * 64 / 0.1 / 1e6)
    assert timing["speed"] == pytest.approx({"median": 3.0, "low": 2.0, "high": 4.0})
    assert reference["timings"][0]["speed"] is None
    assert engine["end_to_end"][0]["share"] == pytest.approx(0.9)
    assert engine["end_to_end"][0]["images_per_second"] == pytest.approx(4)
    assert [p["cost"] for p in network["scaling"][0]["points"]] == pytest.approx([2.0, 1.6, 2.4])
    assert network["scaling"][0]["flatness"] == pytest.approx(1.5)


def test_a_batch_counts_all_its_images() -> None:
    timing = Timing(size=(100, 50), batch=4, seconds=(0.5,), warm_up=1, scale=2)
    assert timing.images_per_second == 8
    assert timing.lr_megapixels_per_second == pytest.approx(0.04)
    assert timing.hr_megapixels_per_second == pytest.approx(0.16)


def test_a_spread_is_a_median_between_its_ends() -> None:
    found = spread([3.0, 1.0, 8.0, 2.0])
    assert (found.median, found.low, found.high) == (2.5, 1.0, 8.0)


def test_the_fingerprint_is_of_hardware_only(machine: Machine) -> None:
    software = machine.model_copy(update={"versions": {"torch": "9"}, "driver": "999"})
    assert software.fingerprint == machine.fingerprint
    for change in ({"cores": 3}, {"gpu": "RTX 4090"}, {"instructions": ("avx2",)}):
        assert machine.model_copy(update=change).fingerprint != machine.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machin": {}}, ("machin", "Extra inputs")),
        ({"bench": 3}, ("bench", "2")),
        ({"networks": [{"network": "tiny"}]}, ("networks.0.architecture", "required")),
        ({"made": None}, ("made",)),
    ],
)
def test_a_misspelt_old_or_partial_file_gets_one_line(
    tmp_path: Path, bench: Bench, complains: Any, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({**bench.model_dump(mode="json"), **change}))
    with complains(DataError, "bench.json", "srtool bench", *words):
        read_bench(path)


@pytest.mark.parametrize("content", [b"", b'{"bench": 1', b"[]", b"\xff\xfe\x00"])
def test_a_damaged_file_gets_one_line(tmp_path: Path, complains: Any, content: bytes) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with complains(DataError, "bench.json"):
        read_bench(path)


def test_a_missing_file_gets_one_line(tmp_path: Path, complains: Any) -> None:
    with complains(DataError, "none.json", "no such file", "srtool bench"):
        read_bench(tmp_path / "none.json")
    with complains(DataError, "cannot be read"):
        read_bench(tmp_path)


def test_what_callers_wait_and_what_all_get(tmp_path: Path) -> None:
    """Twenty calls, one of them late; four at a time got 8 a second."""
    point = Point(value=4, megapixels=0.5, seconds=(*[0.4] * 19, 2.0), rate=8.0)
    assert point.p50 == 0.4
    assert point.p95 == pytest.approx(0.4 + 0.05 * 1.6)
    assert point.cost == pytest.approx(1 / 8 / 0.5)
