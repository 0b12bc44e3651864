"""The page: what stands in it, and that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.page import page_from_sources, write_page
from srtool.benchmarks.report.sources import Sources
from srtool.benchmarks.speed.result import Bench, Measured
from srtool.errors import DataError
from srtool.tables.table import figure

MADE = "2026-11-23T18:40:00+00:00"
Run = Callable[..., Any]


class Reader(HTMLParser):
    """Tags with their attributes, ids, and the text outside of <style> and <script>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))

    @property
    def ids(self) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get("id"))]

    @property
    def sections(self) -> list[str]:
        return [attributes.get("id") or "" for tag, attributes in self.tags if tag == "section"]


def read(sources: Sources) -> Reader:
    return Reader(page_from_sources(sources, [], MADE).html)


@pytest.fixture
def full(bench: Bench, evaluation_of: Callable[..., Evaluation], verification: Any) -> Sources:
    return Sources([("b.json", bench)], [("e.json", evaluation_of())], [("p.json", verification)])


def test_everything(full: Sources, bench: Bench) -> None:
    found = read(full)
    assert found.sections == ["summary", "quality", "parity", "speed", "origins", "not-run"]
    assert len(found.ids) == len(set(found.ids))
    links = [a["href"] or "" for tag, a in found.tags if tag == "a" and "href" in a]
    assert [link for link in links if link.startswith("#") and link[1:] not in found.ids] == []
    network = bench.networks[0]
    candidate = network.candidate("openvino bf16")
    assert candidate is not None
    timing = candidate.timing((480, 270))
    assert timing is not None
    assert timing.speed is not None
    for text in (
        bench.machine.fingerprint,
        bench.command,
        "2026-11-23 18:00 UTC",
        "torch 2.14.1",
        f"{timing.speed.median:.2f}×",
        figure(timing.lr_megapixels_per_second) + " LR MP/s",
        figure(1e3 * timing.p99),
        "x4-fast: use openvino bf16",
        "as fast as the fastest other, PyTorch eager bf16 channels_last",
        "Set5: PSNR 30.12, NIQE 6.010",
        "1 of 2 engines do what PyTorch does on samples",
        "at most 1 of 255 levels apart",
        "there is no NVIDIA GPU here",
        "takes more than 2 GB",
        "fails: no GPU",
    ):
        assert text in found.text


def test_sections_without_data_are_left_out(full: Sources) -> None:
    name, bench = full.benches[0]
    (network,) = bench.networks
    bare = network.model_copy(update={"candidates": network.candidates[:1], "scaling": ()})
    bench = bench.model_copy(update={"networks": (bare,)})
    end = ["origins", "not-run"]
    assert read(Sources([(name, bench)])).sections == ["speed", *end]  # of a baseline alone
    assert read(Sources([], full.evaluations)).sections == [
        "summary",
        "quality",
        "origins",
        "not-run",
    ]
    assert read(Sources([], [], full.parities)).sections == [
        "summary",
        "parity",
        "origins",
        "not-run",
    ]
    found = full.parities[0][1].model_copy(update={"unavailable": {}, "rows": []})
    assert read(Sources([], [], [("p.json", found)])).sections == ["parity", "origins"]


def test_two_results_of_one_network(bench_of: Callable[..., Bench], network: Measured) -> None:
    bench = bench_of(
        network.model_copy(update={"candidates": network.candidates[:1], "scaling": ()})
    )
    found = read(Sources([("a.json", bench), ("b.json", bench)]))
    assert len(found.ids) == len(set(found.ids))


def test_names_are_no_markup(
    bench_of: Callable[..., Bench],
    network: Measured,
    evaluation_of: Callable[..., Evaluation],
) -> None:
    bad = '<b>"bold"</b><script>alert(1)</script>'
    candidate = network.candidates[0].model_copy(update={"name": bad})
    names = {
        "network": bad,
        "candidates": (*network.candidates[:1], candidate),
        "absent": {bad: bad},
    }
    network = network.model_copy(update=names)
    evaluation = evaluation_of(**{"bicubic": {"psnr": 1.0}, bad: {"psnr": 2.0}})
    html = page_from_sources(
        Sources([(bad, bench_of(network))], [(bad, evaluation)]), [], MADE
    ).html
    assert "<b>" not in html
    assert "alert(1)</script>" not in html
    assert bad in " ".join(Reader(html).words)


def test_an_infinite_psnr(evaluation_of: Callable[..., Evaluation]) -> None:
    found = read(Sources([], [("e", evaluation_of(bicubic={"psnr": 28.0}, same={"psnr": None}))]))
    assert "∞" in found.text
    assert "nan" not in found.text.lower()


def test_the_policy_lets_nothing_be_loaded(full: Sources) -> None:
    html = page_from_sources(full, [], MADE).html
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)[0]
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    for _, attributes in Reader(html).tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_a_file_that_cannot_be_written(full: Sources, tmp_path: Path, complains: Any) -> None:
    page = page_from_sources(Sources([], full.evaluations), [], MADE)
    with complains(DataError, tmp_path, "-o"):
        write_page(tmp_path, page)
    assert list(tmp_path.iterdir()) == []


# srtool report


@pytest.mark.slow
def test_the_command(
    run: Run,
    bench_file: Path,
    evaluation_folder: Path,
    compact_engine: Path,
    compact_weights: Path,
    photographs: Path,
) -> None:
    files = "-o", "out/r.html", "--plots", "plots", "--images", photographs, "--count", "2"
    networks = "--engine", compact_engine, "--model", compact_weights
    result = run("report", bench_file, evaluation_folder, *files, *networks)
    size = Path("out/r.html").stat().st_size
    assert (result.code, result.out) == (0, f"out/r.html  {size / 1e6:.1f} MB\n")
    assert [path.name for path in Path("out").iterdir()] == ["r.html"]
    found = Reader(Path("out/r.html").read_text())
    assert found.sections == ["summary", "pictures", "quality", "speed", "origins", "not-run"]
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) == 2 * (4 + 1 + 4)
    assert all(image["alt"] for image in images)
    assert "No NIQE: niqe_modelparameters.mat is not installed" in found.text
    assert len(list(Path("plots").iterdir())) == 10


def test_one_s_own_photographs(run: Run, compact_engine: Path, photographs: Path) -> None:
    result = run("report", photographs, "--engine", compact_engine, "--count", 2)
    assert result.code == 0, result.err
    found = Reader(Path("report.html").read_text())
    assert found.sections == ["pictures"]
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(images) >= 2 * (2 + 2)  # a slider and a detail each, bicubic and the engine


def test_one_line_for_what_does_not_fit(run: Run, bench_file: Path, photographs: Path) -> None:
    for arguments in (
        ("none.json",),
        (bench_file, "--images", photographs),
        (bench_file, "--engine", "none.onnx"),
    ):
        result = run("report", *arguments)
        assert result.code == 2
        assert len(result.lines) == 1
        assert not Path("report.html").exists()


def test_only_a_page_is_written_over(run: Run, bench_file: Path, photographs: Path) -> None:
    photograph = next(photographs.glob("*.png"))
    before = photograph.read_bytes()
    result = run("report", bench_file, "-o", photograph)
    assert result.code == 2
    assert "--out" in result.complaint
    assert photograph.read_bytes() == before


def test_an_interrupt_leaves_no_file(
    run: Run, bench_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srtool.benchmarks.report import page

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page.Path, "write_bytes", interrupted)
    assert run("report", bench_file, "-o", "r.html").code == 130
    assert list(Path().glob("*.html")) + list(Path().glob(".srtool*")) == []
