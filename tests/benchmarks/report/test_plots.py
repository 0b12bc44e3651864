"""Every plot draws what there is, at the edges too; a warning of matplotlib fails a test."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report import drawing, plots
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.speed.result import Bench, Measured
from srtool.errors import DataError


def drawn(network: Measured) -> list[drawing.Plot]:
    found = list(plots.plots_of_network(network, drawing.Slugs()))
    for plot in found:
        ElementTree.fromstring(drawing.inline_svg(plot))  # is drawn, and is XML
    return found


def test_all_of_them(network: Measured) -> None:
    before = dict(mpl.rcParams)
    found = drawn(network)
    assert dict(mpl.rcParams) == before
    assert [plot.slug for plot in found] == [
        "x4-fast-throughput",
        "x4-fast-latency",
        "x4-fast-roofline",
        "x4-fast-scaling-batch",
        "x4-fast-scaling-threads",
    ]
    for plot in found:
        assert len(plot.alt) > 40


def test_one_size_and_one_side(network: Measured) -> None:
    candidate = network.candidates[0]
    timing = candidate.timings[0].model_copy(
        update={"seconds": (0.5,), "peak_share": None, "bandwidth_share": None}
    )
    small = network.model_copy(
        update={"candidates": (candidate.model_copy(update={"timings": (timing,)}),), "scaling": ()}
    )
    assert [plot.title for plot in drawn(small)] == ["Distribution of latency"]


def test_nothing_was_timed(network: Measured) -> None:
    empty = network.model_copy(update={"candidates": (), "scaling": ()})
    assert drawn(empty) == []


def test_a_missing_reference(network: Measured) -> None:
    """Nor is one of the candidates of a scaling curve among the candidates."""
    candidates = tuple(
        candidate for candidate in network.candidates if candidate.name != network.reference
    )
    assert len(drawn(network.model_copy(update={"candidates": candidates}))) == 5


def test_only_one_share_is_known(network: Measured) -> None:
    candidates = [
        candidate.model_copy(
            update={
                "timings": tuple(
                    timing.model_copy(update={"bandwidth_share": None})
                    for timing in candidate.timings
                )
            }
        )
        for candidate in network.candidates
    ]
    assert len(drawn(network.model_copy(update={"candidates": tuple(candidates)}))) == 5


def test_sides_a_thousand_times_apart(network: Measured) -> None:
    candidate = network.candidates[0]
    slow = [
        timing.model_copy(update={"seconds": tuple(1000 * value for value in timing.seconds)})
        for timing in candidate.timings
    ]
    other = candidate.model_copy(update={"name": "slow", "timings": tuple(slow)})
    network = network.model_copy(update={"candidates": (candidate, other)})
    figure = plots.throughput_by_size(network, 1)
    assert figure.axes[0].get_yscale() == "log"
    assert len(drawn(network)) == 5


def test_long_names_and_single_points(network: Measured) -> None:
    """A plot whose names leave no room for it would warn."""
    candidate = network.candidates[0].model_copy(update={"name": "x" * 200})
    scaling = network.scaling[0]
    one = scaling.model_copy(update={"points": scaling.points[:1], "candidate": candidate.name})
    none = scaling.model_copy(update={"points": (), "axis": "tile"})
    long = {
        "network": "y" * 200,
        "candidates": (*network.candidates, candidate),
        "scaling": (one, none),
    }
    assert len(drawn(network.model_copy(update=long))) == 4


def test_names_are_no_markup(network: Measured) -> None:
    candidate = network.candidates[0].model_copy(update={"name": "<b> & $x_1$ -- 100 %"})
    plot = drawn(network.model_copy(update={"candidates": (candidate,)}))[0]
    svg = drawing.inline_svg(plot)
    assert "<b>" not in svg
    assert "&lt;b&gt; &amp; $x_1$ -- 100 %" in svg


def against(bench: Bench, *evaluations: Evaluation) -> list[drawing.Plot]:
    sources = Sources([("bench", bench)], [("evaluation", found) for found in evaluations])
    return list(plots.quality_plots(sources, drawing.Slugs()))


def test_quality_against_speed(
    bench_of: Callable[..., Bench],
    network_named: Callable[..., Measured],
    evaluation_of: Callable[..., Evaluation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One network is known by the hash of its weights and one by its name."""
    bench = bench_of(network_named(), network_named("other.pth", 2.0, sha256=""))
    assert against(bench, evaluation_of()) == []  # two points are no plot
    monkeypatch.setattr(plots, "FEWEST", 1)
    (plot,) = against(bench, evaluation_of())
    assert plot.slug == "quality-against-speed-set5"
    assert "x4-fast 30.12 at 0.05" in plot.alt
    assert "other.pth 29.50 at 0.1" in plot.alt
    assert [axes.get_title(loc="left") for axes in plot.figure.axes] == [
        "Set5: PSNR, dB (higher is better)",
        "Set5: NIQE (lower is better)",
    ]
    ElementTree.fromstring(drawing.inline_svg(plot))


def test_results_of_one_machine_share_a_plot(
    bench_of: Callable[..., Bench],
    network_named: Callable[..., Measured],
    evaluation_of: Callable[..., Evaluation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plots, "FEWEST", 1)
    first, second = bench_of(network_named()), bench_of(network_named("other.pth", 2.0, sha256=""))
    machine = second.machine.model_copy(update={"cpu": "another"})
    elsewhere = second.model_copy(update={"machine": machine})
    found = [("evaluation", evaluation_of())]
    for benches, names in (
        ([first, second], [["x4-fast", "other.pth"]]),
        ([first, elsewhere], [["x4-fast"], ["other.pth"]]),
    ):
        sources = Sources([(str(number), bench) for number, bench in enumerate(benches)], found)
        made = list(plots.quality_plots(sources, drawing.Slugs()))
        for plot, expected in zip(made, names, strict=True):
            assert [name for name in ("x4-fast", "other.pth") if name in plot.alt] == expected
            cpu = "another" if expected == ["other.pth"] else first.machine.cpu
            assert f"per second on {cpu}, " in plot.alt


def test_quality_that_is_infinite_or_of_others(
    bench: Bench, evaluation_of: Callable[..., Evaluation]
) -> None:
    assert against(bench) == []
    assert against(bench, evaluation_of(lite={"psnr": None})) == []
    assert against(bench, evaluation_of(another={"psnr": 30.0})) == []
    found = evaluation_of(another={"psnr": 30.0})
    found.engines["another"] = {"sha256": "cd" * 32, "file": "x4-fast.pth"}
    assert against(bench, found) == []  # the name is the same, the weights are not


def test_labels_keep_apart() -> None:
    assert drawing.spread_out([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]
    moved = drawing.spread_out([0.5, 0.5, 0.51, 0.9], 0.1)
    assert all(b - a > 0.0999 for a, b in pairwise(moved))
    assert sum(moved[:3]) == pytest.approx(0.5 + 0.5 + 0.51)


def test_a_plot_in_the_page(network: Measured) -> None:
    one, two = (drawing.inline_svg(plot) for plot in drawn(network)[:2])
    assert one.startswith("<svg ")
    assert 'role="img" aria-label="x4-fast: Throughput by image size; the figures' in one
    for colour in (drawing.INK, drawing.MUTED, drawing.GRID, *drawing.SERIES):
        assert colour not in one + two  # the page's colours take their place
    assert "currentColor" in one
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (one, two)]
    assert len(ids[0]) == len(set(ids[0])) > 0
    assert not set(ids[0]) & set(ids[1])
    used = re.findall(r'(?:url\(|href=")#([^")]+)', one)
    assert set(used) <= set(ids[0])


def test_files_for_papers(network: Measured, tmp_path: Path) -> None:
    found = drawn(network)[:1]
    written = drawing.write_plots(tmp_path / "plots", found)
    assert [path.name for path in written] == ["x4-fast-throughput.png", "x4-fast-throughput.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    svg = written[1].read_bytes()
    assert drawing.INK in svg.decode()
    drawing.write_plots(tmp_path / "plots", found)
    assert written[1].read_bytes() == svg  # no date, no random ids


def test_plots_that_cannot_be_written(network: Measured, tmp_path: Path, complains: object) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as caught:
        drawing.write_plots(tmp_path / "file", drawn(network)[:1])
    assert caught.value.parameter == "plots"


def test_slugs_differ() -> None:
    slugs = drawing.Slugs()
    assert [slugs("A b", "c"), slugs("a-b-c"), slugs("a-b-c-2"), slugs("…")] == [
        "a-b-c", "a-b-c-2", "a-b-c-2-2", "plot"]  # fmt: skip
