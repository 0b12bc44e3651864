"""The tables of quality and of speed: which rows and figures they have, and which are marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.quality import (
    merged,
    quality_table,
    quality_tables,
    verification_table,
)
from srtool.benchmarks.report.standings import by_machine, fastest, networks_of
from srtool.benchmarks.report.timings import (
    comparison_table,
    fastest_table,
    machine_line,
    network_line,
    speed_tables,
    timing_table,
)
from srtool.benchmarks.speed.compare import compare
from srtool.benchmarks.speed.result import Bench, Measured, Point, Scaling
from srtool.tables.table import EMPTY, Cell, Table, figure, fixed


def row(table: Table, group: int, start: str) -> dict[str, Cell]:
    (found,) = [r for r in table.groups[group].rows if r[0].text == start]
    return dict(zip(table.columns, found, strict=True))


# Quality

PSNR, NIQE = "PSNR\u00a0↑", "NIQE\u00a0↓"


def test_a_row_per_engine_and_a_column_per_metric(evaluation_of: Callable[..., Evaluation]) -> None:
    table = quality_table(evaluation_of())
    assert [group.title for group in table.groups] == ["Set5, 5 images"]
    assert table.columns == ("engine", PSNR, "SSIM\u00a0↑", NIQE)
    psnr = {name: row(table, 0, name)[PSNR] for name in ("bicubic", "lite", "other")}
    assert [cell.text for cell in psnr.values()] == ["28.400", "30.123", "29.500"]
    assert [cell.best for cell in psnr.values()] == [False, True, False]
    niqe = [row(table, 0, name)[NIQE] for name in psnr]
    assert [cell.text for cell in niqe] == ["7.5200", "6.0100", "∞"]
    assert [cell.best for cell in niqe] == [False, True, False]
    assert [remark.startswith("PI not measured: ") for remark in table.remarks] == [True]


def test_the_paper_s_figures_stand_there_when_asked_for(
    evaluation_of: Callable[..., Evaluation],
) -> None:
    table = quality_table(evaluation_of(), paper=True)
    theirs = [cells[0].text for cells in table.rows if cells[0].text.startswith("paper: ")]
    assert theirs == [
        f"paper: {name}" for name in ("Bicubic", "SRGAN", "SFTGAN", "ESRGAN", "USRGAN", "Ours")
    ]
    assert row(table, 0, "paper: USRGAN")[PSNR].text == "30.840"
    assert row(table, 0, "lite")[PSNR].best  # of those measured here
    found = evaluation_of()
    for content in (found.datasets, found.mean, found.counts):
        content["mine"] = content.pop("Set5")  # type: ignore[attr-defined]
    assert len(quality_table(found, paper=True).rows) == 3


def test_what_is_asked_for(evaluation_of: Callable[..., Evaluation]) -> None:
    table = quality_table(evaluation_of(), engines=["lite", "new"], metrics=("psnr", "pi"))
    assert table.columns == ("engine", PSNR)
    assert [[cell.text for cell in cells] for cells in table.rows] == [
        ["lite", "30.123"],
        ["new", EMPTY],
    ]


def test_a_mean_over_fewer_images(evaluation_of: Callable[..., Evaluation]) -> None:
    found = evaluation_of()
    found.counts["Set5"]["lite"]["psnr"] = 3
    table = quality_table(found)
    assert [row(table, 0, name)[PSNR].note for name in ("bicubic", "lite")] == ["", "of 3"]


def test_several_evaluations_make_one_table(evaluation_of: Callable[..., Evaluation]) -> None:
    first = evaluation_of()
    second = evaluation_of(
        bicubic={"psnr": 28.4, "lpips": 0.4}, lite={"psnr": 30.5}, new={"psnr": 31.0}
    )
    whole = merged([("a.json", first), ("b.json", second)])
    assert list(whole.mean["Set5"]) == ["bicubic", "lite", "other", "lite (b.json)", "new"]
    assert whole.mean["Set5"]["bicubic"] == {
        "psnr": 28.4, "ssim": 0.81, "niqe": 7.52, "lpips": 0.4,
    }  # fmt: skip
    assert [len(table.rows) for table in quality_tables([("a", first), ("b", second)])] == [5]
    other = second.model_copy(update={"protocol": {"version": 2}})
    assert [len(table.rows) for table in quality_tables([("a", first), ("b", other)])] == [3, 3]
    assert first == evaluation_of()  # what was merged is as it was
    rounded = evaluation_of(bicubic={"psnr": 28.4 * (1 + 1e-12), "lpips": 0.4})
    assert list(merged([("a", first), ("b", rounded)]).mean["Set5"]) == ["bicubic", "lite", "other"]


# Verification


def test_verification(verification: Any) -> None:
    table = verification_table(verification)
    good, bad = table.rows
    texts = dict(zip(table.columns, [cell.text for cell in good], strict=True))
    assert texts["verdict"] == "passes, exact"
    assert texts["PSNR between, dB"] == "95.25"
    assert texts["ΔPSNR-Y, dB"] == "+0.0001"
    assert texts["ΔNIQE"] == "+0.0012"
    assert "ΔPI" not in texts  # was not taken
    assert [cell.text for cell in bad[2:4]] == ["fails: no GPU", EMPTY]
    assert any("NIQE within 2 %" in remark for remark in table.remarks)


# Speed


def test_timings(network: Measured) -> None:
    table = timing_table(network)
    assert [group.title for group in table.groups] == ["128×128", "256×256", "480×270", "960×540"]
    assert "W" not in table.columns  # nothing has a power
    first = table.groups[0].rows
    assert first[0][0].text == "openvino bf16"  # the fastest
    column = table.columns.index("p50, ms")
    candidate = network.candidate("openvino bf16")
    assert candidate is not None
    assert first[0][column].text == figure(1e3 * candidate.timings[0].p50)
    assert [cells[0].text for cells in first if cells[column].best] == ["openvino bf16"]
    assert "ncnn" not in [cells[0].text for cells in table.groups[3].rows]


def test_all_tables_of_a_network(network: Measured, bench: Bench) -> None:
    tables = speed_tables(network)
    assert [len(table.rows) for table in tables] == [31, 8, 1, 3]
    for table in tables:
        assert {len(cells) for cells in table.rows} == {len(table.columns)}
    assert "1.38 million parameters" in network_line(network)
    assert "AMD EPYC, 2 cores, AMX" in machine_line(bench)
    assert "210 GFLOP/s fp32" in machine_line(bench)


def test_a_row_for_so_many_callers(network: Measured) -> None:
    points = tuple(
        Point(value=count, megapixels=0.01, seconds=(0.1 * count,), rate=12.5)
        for count in (1, 2, 4, 8)
    )
    curve = Scaling(axis="callers", candidate="kserve grpc", fixed="100x100", points=points)
    table = speed_tables(network.model_copy(update={"scaling": (curve,)}))[-1]
    assert [group.title for group in table.groups] == ["kserve grpc: 100x100"]
    assert [[cell.text for cell in cells] for cells in table.rows] == [
        [str(count), figure(100 * count), figure(100 * count), figure(12.5), figure(0.125)]
        for count in (1, 2, 4, 8)
    ]


def test_the_fastest_engine_over_the_fastest_other(
    network_named: Callable[..., Measured], bench_of: Callable[..., Bench]
) -> None:
    network = network_named()
    best = fastest(network)
    assert best is not None
    assert (best.engine.name, best.place) == ("openvino bf16", ((480, 270), 1))
    assert best.other is not None
    assert best.other.name == "PyTorch eager bf16 channels_last"
    assert best.ahead is not None
    assert best.ahead.median == pytest.approx(0.061 / 0.019, rel=0.1)
    assert best.rounds == 30
    bench = bench_of(network, network_named("other", sha256="cd" * 32))
    again = fastest(network, [bench, bench])
    assert again is not None
    assert again.rounds == 60
    baselines = tuple(it for it in network.candidates if it.kind == "baseline")
    assert fastest(network.model_copy(update={"candidates": baselines})) is None
    assert len(fastest_table([bench]).rows) == 2


def test_results_of_several_machines(network: Measured, bench_of: Callable[..., Bench]) -> None:
    early = bench_of(network)
    machine = early.machine.model_copy(update={"cpu": "Other CPU"})
    late = early.model_copy(update={"machine": machine, "made": "2027-01-01T00:00:00+00:00"})
    assert by_machine([early, late, early]) == [[late], [early, early]]
    few = network.model_copy(update={"candidates": network.candidates[:2]})
    assert networks_of([bench_of(few), early]) == [network]


def test_a_comparison(network_named: Callable[..., Measured], bench_of: Any) -> None:
    before, after = bench_of(network_named()), bench_of(network_named(factor=0.5))
    found = compare(before, after)
    table = comparison_table(found)
    shown = {(cells[1].text, cells[2].text): cells for cells in table.rows}
    (slow,) = [it for it in found.rows if (it.candidate, it.place) == ("ncnn", "128x128 x1")]
    cells = shown["ncnn", "128x128 x1"]
    assert cells[3].text == slow.verdict
    assert cells[4].text == f"{fixed(slow.ratio.median, 2)}×"
    assert len(table.rows) == 31
