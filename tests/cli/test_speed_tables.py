"""The tables of `srtool bench`: every figure once, readable in 80 columns, estimates marked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from srtool.benchmarks.speed.history.catalogue import Entry, gpu_class_rows, published
from srtool.benchmarks.speed.history.compare import compare
from srtool.benchmarks.speed.result import (
    Bench,
    EndToEnd,
    Machine,
    Measured,
    Point,
    Roofline,
    Scaling,
    Side,
    Spread,
    Timing,
)
from srtool.cli import speed_tables
from srtool.cli.columns import Column, print_columns
from srtool.cli.speed_tables import print_bench, print_catalogue, print_comparison

REFERENCE = "PyTorch eager fp32"
Drawn = Callable[..., tuple[str, str]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Drawn:
    """Standard output and standard error of a drawing on a console of some width."""

    def draw(function: Callable[[Any], None], subject: Any, width: int = 80) -> tuple[str, str]:
        monkeypatch.setattr(speed_tables, "_console", lambda: Console(highlight=False, width=width))
        capsys.readouterr()
        function(subject)
        out, err = capsys.readouterr()
        return out, err

    return draw


def timing(seconds: float, **others: Any) -> Timing:
    return Timing(size=(250, 200), seconds=(seconds,) * 6, warm_up=1, **others)


@pytest.fixture
def bench() -> Bench:
    end = EndToEnd(files=8, size=(64, 64), seconds=2.0, decode=0.1, compute=1.8, encode=0.1)
    known = {"speed": Spread(median=4.0, low=3.5, high=4.5), "peak_share": 0.42}
    engine = Side(
        name="x4 [bold] OpenVINO",
        kind="engine",
        software="openvino 2026.4.1",
        precision="bf16",
        load=1.25,
        cold=0.75,
        timings=(timing(0.25, bandwidth_share=0.11, peak_memory=512_000_000, **known),),
        end_to_end=(end,),
        psnr_between=71.25,
        max_difference=2,
        skipped={"960x540 x1": "takes 60 s a run"},
    )
    reference = engine.model_copy(
        update={
            "name": REFERENCE,
            "kind": "baseline",
            "timings": (timing(1.0),),
            "end_to_end": (),
            "psnr_between": None,
            "max_difference": None,
            "skipped": {},
        }
    )
    points = tuple(Point(value=at, megapixels=1, seconds=(cost,)) for at, cost in ((1, 2), (2, 3)))
    measured = Measured(
        network="x4-lite",
        architecture="generator",
        scale=4,
        flops=6.2e6,
        moved=3e4,
        parameters=1_360_000,
        reference=REFERENCE,
        sides=(reference, engine),
        absent={"ncnn": "pnnx knows no [Resize]"},
        scaling=(Scaling(axis="batch", side=engine.name, fixed="64x64", points=points),),
    )
    return Bench(
        made="2026-11-23T18:00:00+00:00",
        command="srtool bench x4.onnx",
        machine=Machine(cpu="Test CPU", cores=2, threads=4, memory=8 * 10**9, platform="Linux"),
        busy=1.75,
        roofline=Roofline(matrix={"fp32": 2e11}, bandwidth=2e10),
        networks=(measured,),
    )


def rows_of(out: str, start: str) -> str:
    return " ".join(line for line in out.splitlines() if line.startswith(start))


def test_a_bench_shows_every_figure(drawn: Drawn, bench: Bench) -> None:
    out, err = drawn(print_bench, bench)
    engine = rows_of(out, "x4 [bold] OpenVINO")
    for figure in (
        *("250", "4.00", "0.200", "3.20"),  # ms, images/s, LR and HR MP/s of 0.05 MP in 0.25 s
        *("4.00x (3.50-4.50)", "42 %", "11 %", "512"),
        *("1.25", "0.750", "4.00/s, 90 %", "71.2 dB", "bf16", "openvino 2026.4.1"),
    ):
        assert figure in engine, figure
    assert "1000" in rows_of(out, REFERENCE)
    assert "200 GFLOP/s fp32, 20.0 GB/s" in out
    assert "by batch (64x64); the dearest pixel costs 1.50x" in out
    assert "x4-lite, not run: ncnn: pnnx knows no [Resize]" in err
    assert "not run at 960x540 x1: takes 60 s a run" in err
    assert "others used 1.8 cores" in err


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_keep_to_the_width(drawn: Drawn, bench: Bench, width: int) -> None:
    out, _ = drawn(print_bench, bench, width)
    tables = [line for line in out.splitlines() if line.startswith(("x4 [", REFERENCE, "side"))]
    assert max(map(len, tables)) <= width
    heads = sum(line.startswith("side") for line in tables)
    assert heads == {80: 4, 100: 3, 200: 2}[width]


def test_what_no_side_has_is_no_column(drawn: Drawn, bench: Bench) -> None:
    out, _ = drawn(print_bench, bench, 200)
    assert "of peak" in out
    assert not {"GPU MB", "W", "MHz"} & set(out.split("  "))


def test_an_equal_output_is_said_to_be(drawn: Drawn, bench: Bench) -> None:
    network = bench.networks[0]
    sides = (
        network.sides[0],
        network.sides[1].model_copy(update={"psnr_between": None, "max_difference": 0}),
    )
    network = network.model_copy(update={"sides": sides})
    out, _ = drawn(print_bench, bench.model_copy(update={"networks": (network,)}))
    assert "equal" in rows_of(out, "x4 [bold]")


def test_a_comparison_names_its_regressions(drawn: Drawn, bench: Bench) -> None:
    network = bench.networks[0]
    slow = network.sides[1].model_copy(
        update={"timings": (timing(0.5, peak_memory=1_024_000_000),), "load": 2.5}
    )
    network = network.model_copy(update={"sides": (network.sides[0], slow)})
    later = bench.model_copy(update={"networks": (network,), "busy": 0.0})
    out, err = drawn(print_comparison, compare(bench, later))
    row = rows_of(out, "x4-lite  x4 [bold] OpenVINO")
    assert "slower" in row
    assert "0.500x (0.500-0.500)*" in row
    assert "1.25 -> 2.50 s" in row
    assert "90 -> 90 %" in row
    assert "2 regressions (1 of 2 rows without a verdict):" in out
    assert "2.00x the memory (512 -> 1024 MB)" in out
    assert "the earlier one was measured while others used" in err
    assert "no regression beyond the noise" in drawn(print_comparison, compare(bench, bench))[0]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_estimates_are_marked_in_every_table(drawn: Drawn, bench: Bench, width: int) -> None:
    out, err = drawn(print_catalogue, gpu_class_rows("GTX 1080 Ti", bench), width)
    rows = [line for line in out.splitlines() if line.startswith("GTX 1080 Ti")]
    assert len(rows) >= (4 if width < 100 else 2)
    assert all("estimate" in row and "at most" in row for row in rows)
    measured = [line for line in out.splitlines() if line.startswith("Test CPU")]
    assert measured
    assert not any("estimate" in row or "at most" in row for row in measured)
    assert "estimates are of data sheets and not measured" in err
    assert "what GTX 1080 Ti could at most" in err


def test_the_catalogue_gives_each_source_once_by_number(drawn: Drawn) -> None:
    entry = Entry("x4", "CPU", "a", "", "", 0.5, 1.25, "measured", "mine.json", (0.1, 0.25))
    other = Entry("x4", "GPU", "b", "fp16", "", 2.0, 2.0, "published", "a page [1]")
    out, err = drawn(print_catalogue, [entry, other, entry], 120)
    rows = [line.split() for line in out.splitlines() if line.startswith(("CPU", "GPU"))]
    assert rows[0] == ["CPU", "measured", "0.5-1.25", "10-25", "%", "not", "stated", "a", "1"]
    assert rows[1] == ["GPU", "published", "2", "fp16", "b", "2"]
    assert out.count("mine.json") == 1
    assert "2: a page [1]" in out
    assert "where no precision is stated" in err
    assert "estimates" not in err


def test_all_published_points_are_shown(drawn: Drawn) -> None:
    out, _ = drawn(print_catalogue, published(), 200)
    assert all(entry.hardware in out and entry.source in out for entry in published())


def test_columns_that_do_not_fit_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [
        Column("name", ["a", "b"], folds=True, key=True),
        *(Column(f"column {at}", [f"{at}.0", ""]) for at in range(5)),
        Column("empty", ["", ""]),
    ]
    print_columns(Console(width=30), columns)
    out = capsys.readouterr().out
    assert out.count("name") == 3
    assert "empty" not in out
    assert [f"{at}.0" in out for at in range(5)] == [True] * 5
    assert max(map(len, out.splitlines())) <= 30


def test_importing_the_tables_loads_nothing_heavy() -> None:
    code = (
        "import sys, srtool.cli.speed_tables; "
        "print([name for name in ('rich', 'numpy', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
