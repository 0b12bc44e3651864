"""The catalogue: what it holds, what an estimate is, and what stands beside a GPU not at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from srtool.benchmarks.speed.history.catalogue import (
    Entry,
    catalogue,
    estimates,
    gpu_class_rows,
    published,
)
from srtool.benchmarks.speed.result import Machine, write_bench
from srtool.errors import DataError, UsageError
from srtool.export.flops import GENERATORS, Cost
from srtool.export.tensorrt.gpus import gpu_named

RRDB = {"RRDB-23": GENERATORS["RRDB-23"]}


def gpu(name: str) -> Any:
    found = gpu_named(name)
    assert found is not None
    return found


def one(entries: list[Entry], **fields: str) -> Entry:
    found = [
        entry
        for entry in entries
        if all(getattr(entry, name) == value for name, value in fields.items())
    ]
    assert len(found) == 1, found
    return found[0]


# What was published


@pytest.mark.parametrize(
    ("hardware", "low", "high"),
    [
        ("RTX 4090", 1.8, 2.4),
        ("A100", 2.4, 2.4),
        ("RTX 3090", 1.4, 1.4),
        ("V100", 1.05, 1.05),
        ("RTX 3060", 0.57, 0.57),
        ("GTX 1070 Ti", 0.18, 0.18),
    ],
)
def test_published_points_have_their_source(hardware: str, low: float, high: float) -> None:
    entry = one(published(), hardware=hardware)
    assert (entry.network, entry.kind) == ("RRDB-23", "published")
    assert (entry.low, entry.high) == (low, high)
    assert entry.source
    assert entry.share is not None
    assert 0.1 < entry.share[0] <= entry.share[1] < 1


def test_the_share_of_the_roofline_by_hand() -> None:
    """GTX 1070 Ti: 8.19 TFLOP/s over 35.853696 MFLOP a pixel are 0.22843 MP/s."""
    entry = one(published(), hardware="GTX 1070 Ti")
    assert entry.precision == "fp32"
    assert entry.share == pytest.approx((0.18 / 0.22843, 0.18 / 0.22843), rel=1e-4)


def test_hardware_that_is_not_in_the_table_has_no_share() -> None:
    assert one(published(), hardware="RTX 3060 Ti").share is None


# Estimates


def test_an_estimate_is_the_lower_of_arithmetic_and_memory() -> None:
    """RTX 4090: 82.6 TFLOP/s FP32, 165 FP16, 1008 GB/s."""
    networks = {"work": Cost(1e6, 1, 0, 0), "traffic": Cost(1, 1e3, 0, 0)}
    found = estimates(gpu("RTX 4090"), networks)
    assert [(entry.network, entry.precision) for entry in found] == [
        ("work", "fp32"),
        ("work", "fp16"),
        ("traffic", "fp32"),
        ("traffic", "fp16"),
    ]
    assert [entry.high for entry in found] == pytest.approx([82.6, 165, 252, 504])
    assert {entry.kind for entry in found} == {"estimate"}
    assert all(entry.low == entry.high for entry in found)


def test_a_pascal_gpu_gets_no_estimate_in_fp16_and_the_reason() -> None:
    (found,) = estimates(gpu("GTX 1080 Ti"), RRDB)
    assert found.precision == "fp32"
    assert found.high == pytest.approx(11.3e6 / 35.853696 / 1e6, rel=1e-6)  # 0.315, as designed
    assert any("1/64" in remark for remark in found.remarks)


def test_what_was_reached_stands_beside_the_estimate() -> None:
    fp32, fp16 = estimates(gpu("RTX 3090"), RRDB, published())
    assert fp32.remarks == ()
    assert fp16.remarks == (
        "80 % of its own was published for RTX 3060, of the same class",
        "71 % of it was published (TensorRT)",
    )
    *_, fp16 = estimates(gpu("RTX 4090"), RRDB, published())
    assert any(remark.startswith("39 to 52 % of it was published") for remark in fp16.remarks)


# What was measured


def test_a_measured_file_gives_an_entry_per_side(tmp_path: Path, make_bench: Any) -> None:
    seconds = {"PyTorch eager fp32": [0.4] * 3, "engine": [0.1, 0.2, 0.3]}
    shares = {"peak_share": 0.25, "bandwidth_share": 0.5}
    write_bench(tmp_path / "mine.json", make_bench(seconds, timing=shares))
    mine = [entry for entry in catalogue([tmp_path]) if entry.source == "mine.json"]
    engine = one(mine, software="engine (engine 1.0)")
    assert len(mine) == 2
    assert (engine.kind, engine.hardware) == ("measured", "Test CPU, 2 cores")
    assert (engine.size, engine.precision) == ("64x64", "fp32")
    assert engine.high == pytest.approx(64 * 64 / 0.2 / 1e6)
    assert engine.share == (0.5, 0.5)  # the roof that it is nearer to
    assert one(mine, software="PyTorch eager fp32 (torch 2.14.1)").share is None


def test_several_sizes_are_one_entry(tmp_path: Path, make_bench: Any) -> None:
    bench = make_bench({"engine": [0.1] * 3})
    network = bench.networks[0]
    small = network.sides[0].timings[0]
    large = small.model_copy(update={"size": (128, 64), "seconds": (0.4,), "batch": 2})
    side = network.sides[0].model_copy(update={"timings": (large, small)})
    network = network.model_copy(update={"sides": (side,)})
    path = tmp_path / "mine.json"
    write_bench(path, bench.model_copy(update={"networks": (network,)}))
    entry = one(catalogue([path]), source="mine.json")
    assert entry.size == "64x64 to 128x64 x2"
    assert (entry.low, entry.high) == pytest.approx((0.04096, 2 * 8192 / 0.4 / 1e6))


@pytest.mark.parametrize(
    ("name", "on_gpu"),
    [
        ("PyTorch eager fp32", True),
        ("tensorrt-rtx", True),
        ("onnxruntime-cuda fp16", True),
        ("ONNX Runtime TensorRT", True),
        ("onnxruntime fp32", False),
        ("ONNX Runtime", False),
        ("openvino bf16", False),
        ("ncnn", False),
    ],
)
def test_a_gpu_is_the_hardware_of_what_runs_on_it(
    tmp_path: Path, make_bench: Any, machine: Machine, name: str, on_gpu: bool
) -> None:
    here = machine.model_copy(update={"gpu": "NVIDIA GeForce RTX 3090"})
    write_bench(tmp_path / "gpu.json", make_bench({name: [0.01]}, machine=here))
    write_bench(tmp_path / "cpu.json", make_bench({name: [0.01]}))
    found = catalogue([tmp_path])
    cpu = "Test CPU, 2 cores"
    assert one(found, source="gpu.json").hardware == (here.gpu if on_gpu else cpu)
    assert one(found, source="cpu.json").hardware == cpu


def test_the_share_of_a_gpu_in_the_table_is_of_its_data_sheet(
    tmp_path: Path, make_bench: Any, machine: Machine
) -> None:
    """RTX 3090 FP16: 71 TFLOP/s over 71 MFLOP a pixel are 1 MP/s, and memory allows more."""
    bench = make_bench(
        {"plan": [0.01]},
        timing={"peak_share": 0.9},
        side={"precision": "fp16"},
        measured={"flops": 71e6, "moved": 1e3},
        machine=machine.model_copy(update={"gpu": "NVIDIA GeForce RTX 3090"}),
    )
    write_bench(tmp_path / "gpu.json", bench)
    assert one(catalogue([tmp_path]), source="gpu.json").share == pytest.approx((0.4096, 0.4096))


def test_other_files_are_passed_over(tmp_path: Path, make_bench: Any) -> None:
    shipped = len(catalogue())
    (tmp_path / "evaluation.json").write_text(json.dumps({"evaluation": 1}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "note.txt").write_text("{")
    assert len(catalogue([tmp_path])) == shipped
    write_bench(tmp_path / "mine.json", make_bench({"engine": [0.1]}))
    assert len(catalogue([tmp_path])) == shipped + 1
    assert len(catalogue([tmp_path, tmp_path / "mine.json"])) == shipped + 1  # once


def test_what_srtool_ships_can_be_read() -> None:
    found = catalogue()
    assert {entry.kind for entry in found} <= {"measured", "published"}
    assert sum(entry.kind == "published" for entry in found) == len(published())


@pytest.mark.parametrize("text", ['{"bench": 1}', '{"bench": 9, "made": ""}', '{"bench": 1, "ma'])
def test_a_damaged_result_is_named(tmp_path: Path, complains: Any, text: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with complains(DataError, "mine.json", "srtool bench"):
        catalogue([tmp_path])


def test_a_missing_folder_and_a_file_of_another_kind_are_named(
    tmp_path: Path, complains: Any
) -> None:
    with complains(DataError, "none", "no such file or folder"):
        catalogue([tmp_path / "none"])
    (tmp_path / "other.json").write_text("{}")
    with complains(DataError, "other.json"):
        catalogue([tmp_path / "other.json"])


# A GPU that is not at hand


def test_a_gpu_that_is_not_at_hand(make_bench: Any) -> None:
    """GTX 1080 Ti: 11.3 TFLOP/s over 1 MFLOP a pixel are 11.3 MP/s."""
    bench = make_bench({"PyTorch eager fp32": [0.01] * 3, "engine": [0.1] * 3, "other": [0.2] * 3})
    found = gpu_class_rows("1080 ti", bench)
    roof = one(found, kind="estimate", network="tiny")
    assert (roof.hardware, roof.high) == ("GTX 1080 Ti", pytest.approx(11.3))
    assert one(found, hardware="GTX 1070 Ti").low == 0.18  # as published, not scaled
    here = one(found, kind="measured")
    assert here.software.startswith("engine")  # the fastest engine, not the faster baseline
    assert here.high == pytest.approx(0.04096)
    assert here.remarks == ("this machine reaches 0.0036x of what GTX 1080 Ti could at most",)
    reference = one(found, kind="estimate", network="RRDB-23")
    assert any(
        "79 % of its own was published for GTX 1070 Ti" in text for text in reference.remarks
    )
    assert all(entry.kind == "estimate" for entry in found if entry.hardware == "GTX 1080 Ti")


def test_without_a_result_srtools_own_networks_are_estimated() -> None:
    found = gpu_class_rows("RTX 4090", None)
    networks = {entry.network for entry in found if entry.kind == "estimate"}
    assert networks == set(GENERATORS)
    assert {entry.hardware for entry in found if entry.kind == "published"} == {"RTX 4090", "L40S"}


def test_a_class_is_all_its_gpus() -> None:
    found = [entry for entry in gpu_class_rows("sm75", None) if entry.network == "RRDB-23"]
    assert {"Tesla T4", "RTX 2080 Ti", "GTX 1660"} <= {entry.hardware for entry in found}


def test_a_network_whose_cost_is_unknown_is_not_estimated(make_bench: Any) -> None:
    bench = make_bench({"engine": [0.1] * 3}, measured={"flops": None})
    found = gpu_class_rows("RTX 4090", bench)
    assert {entry.network for entry in found if entry.kind == "estimate"} == {"RRDB-23"}
    assert one(found, kind="measured").remarks == ()


def test_an_unknown_gpu_is_one_line(complains: Any) -> None:
    with complains(UsageError, "--gpu-class RTX 4091", "did you mean", "RTX 4090"):
        gpu_class_rows("RTX 4091", None)
