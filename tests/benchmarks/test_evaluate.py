"""Evaluation: the published figures, then all that can go wrong or be left over."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from srtool.benchmarks import evaluate as module
from srtool.benchmarks.evaluate import Config, Progress, Result, evaluate
from srtool.benchmarks.evaluation import Evaluation, evaluation_in
from srtool.benchmarks.methods import results_for
from srtool.benchmarks.report.quality import paper_figures, quality_table
from srtool.benchmarks.scores import metrics_from_text
from srtool.cli.console import print_tables
from srtool.cli.main import app
from srtool.errors import AssetError, DataError, EngineError, UsageError
from srtool.images.colour import psnr_y
from srtool.images.datasets import dataset_from_folder
from srtool.manifest import ModelFacts
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.index import Shard
from srtool.runtime.session import Backend, DirectSession

Complains = Callable[..., Any]
WritePng = Callable[[Path, NDArray[Any]], Path]

FAST = Config(("psnr",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "assets"
    monkeypatch.setenv("SRTOOL_ASSETS", str(folder))
    return folder


@pytest.fixture
def inline(score_inline: Callable[[Any], None]) -> None:
    """Score in this process."""
    score_inline(module)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Engines become nearest-neighbour upscaling. Returns what was opened: file, backend and
    precision."""
    calls: list[tuple[str, str, str]] = []

    def nearest(batch: NDArray[Any], /) -> NDArray[Any]:
        return batch.repeat(4, 1).repeat(4, 2)

    facts = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="nearest", halo=4)
    bf16 = OpenVino("bf16")

    def open_engine(
        path: Path, backend: str = "auto", precision: str = "auto", device: int | None = None
    ) -> Engine:
        calls.append((path.name, backend, precision))
        return Engine(EngineInfo(path, facts, bf16, "a test"), DirectSession(facts, nearest))

    def open_on(path: Path, backend: Backend) -> Engine:
        calls.append((path.name, backend.library, backend.precision))
        return Engine(EngineInfo(path, facts, backend, "a test"), DirectSession(facts, nearest))

    monkeypatch.setattr("srtool.benchmarks.methods.open_engine", open_engine)
    monkeypatch.setattr("srtool.benchmarks.methods.open_on", open_on)
    return calls


def messages(seen: list[Progress]) -> str:
    return "\n".join(event.message for event in seen)


# Published figures


@pytest.fixture(scope="module")
def baselines(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Both baselines on both sets, scored in the real process pool."""
    sets = [shared / "data" / name for name in ("Set5", "Set14")]
    out = tmp_path_factory.mktemp("out")
    return evaluate(sets, ["bicubic", "bicubic-float"], Config(("psnr", "ssim_wang")), out)


def test_the_papers_bicubic_column_in_every_printed_digit(baselines: Result) -> None:
    for name, psnr, ssim in (("Set5", 28.420, 0.8245), ("Set14", 26.100, 0.7850)):
        mean = baselines.record.mean[name]["bicubic-float"]
        assert round(mean["psnr"] or 0, 3) == psnr
        assert round(mean["ssim_wang"] or 0, 4) == ssim
        paper = paper_figures()
        column = paper["columns"].index("Bicubic")
        assert paper["figures"][name]["psnr"][column] == psnr
        assert paper["figures"][name]["ssim_wang"][column] == ssim


def test_bicubic_as_every_engine_gets_it(baselines: Result, reference: dict[str, Any]) -> None:
    for name in ("Set5", "Set14"):
        expected = reference["lr_uint8"][name]
        images = baselines.record.images[name]["bicubic"]
        for metric, tolerance in (("psnr", 1e-3), ("ssim_wang", 1e-4)):
            values = [images[metric][file] for file in sorted(images[metric])]
            figures = [image[metric] for image in expected["images"]]
            assert values == pytest.approx(figures, abs=tolerance)
            mean = baselines.record.mean[name]["bicubic"][metric]
            assert mean == pytest.approx(expected["mean"][metric], abs=tolerance)


def test_the_table_of_the_paper(baselines: Result, capsys: pytest.CaptureFixture[str]) -> None:
    found = baselines.record, baselines.datasets, baselines.engines
    print_tables([quality_table(*found, ("psnr", "ssim_wang"), paper=True)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Set5,", "5", "images", "bicubic", "28.418", "0.8244"] in rows
    assert ["bicubic-float", "28.420", "0.8245"] in rows
    assert ["paper:", "Bicubic", "28.420", "0.8245"] in rows
    assert ["paper:", "SRGAN", "29.940", "0.8688"] in rows
    assert ["Set14,", "14", "images", "bicubic", "26.087", "0.7845"] in rows
    assert ["paper:", "Bicubic", "26.100", "0.7850"] in rows
    print_tables([quality_table(*found, ("psnr",))], "md")
    assert "paper" not in capsys.readouterr().out


def test_the_papers_figures_are_copied_rightly(shared: Path) -> None:
    table = json.loads((shared / "reference" / "paper_tables.json").read_text())["table1"]
    paper = paper_figures()
    assert {"columns": paper["columns"], **paper["figures"]} == table


@pytest.mark.parametrize(("rounding", "expected"), [("nearest", 32.611), ("none", 32.634)])
def test_results_of_rcan(shared: Path, inline: None, rounding: Any, expected: float) -> None:
    folder = shared / "data" / "rcan-set5-x4"
    config = Config(("psnr",), rounding)
    record = evaluate([folder], [f"RCAN={folder / 'SR'}"], config).record
    assert round(record.mean["rcan-set5-x4"]["RCAN"]["psnr"] or 0, 3) == expected


# Small images


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_the_command_and_its_files(photographs: Path, tmp_path: Path) -> None:
    """One real process pool, and everything that the files must hold to repeat it."""
    out = tmp_path / "out"
    options = ["--engine", "bicubic", "--engine", f"same={photographs}", "--out", out]
    result = run(photographs, *options, "--metrics", "psnr,ssim", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    stored = json.loads((out / "evaluation.json").read_text())
    assert {**stored, "made": ""} == {**printed, "made": ""}
    images = stored["images"]["photographs"]["bicubic"]["psnr"]
    assert list(images) == ["0.png", "1.png", "2.png"]
    assert stored["mean"]["photographs"]["bicubic"]["psnr"] == np.mean(list(images.values()))
    assert stored["mean"]["photographs"]["same"] == {"psnr": None, "ssim": pytest.approx(1)}
    assert stored["counts"]["photographs"]["bicubic"] == {"psnr": 3, "ssim": 3}
    assert stored["protocol"]["y_rounding"] == "nearest"
    assert {"srtool", "numpy", "scipy", "python"} <= stored["versions"].keys()
    assert stored["datasets"]["photographs"] == {
        "folder": photographs.name,
        "images": 3,
        "lr_read": 0,
    }
    rows = list(csv.DictReader((out / "images.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png"] * 2
    assert float(rows[1]["psnr"]) == pytest.approx(images["1.png"], abs=1e-6)
    assert rows[3]["psnr"] == "inf"


def test_lr_is_read_where_it_is_and_made_where_not(
    photographs: Path, tmp_path: Path, write_png: WritePng, inline: None
) -> None:
    made = evaluate([photographs], ["bicubic"], FAST).record.images["photographs"]["bicubic"]
    folder = tmp_path / "set"
    folder.mkdir()
    photographs.rename(folder / "HR")
    for name, shape in (("0", (12, 16, 3)), ("1", (15, 11, 3)), ("2", (16, 10, 3))):
        write_png(folder / "LR_bicubic" / "X4" / f"{name}x4.png", np.full(shape, 128, np.uint8))
    record = evaluate([folder], ["bicubic"], FAST).record
    read = record.images["set"]["bicubic"]
    for name, figure in made["psnr"].items():
        assert (read["psnr"][name] or 0) < (figure or 0)
    assert record.datasets["set"]["lr_read"] == 3


def test_engines_get_colour_of_gray_images_and_are_described(
    tmp_path: Path, write_png: WritePng, inline: None, opened: list[tuple[str, str, str]]
) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (12, 16)).astype(np.uint8)
    hr = lr.repeat(4, 0).repeat(4, 1)
    noisy = (hr ^ 1).astype(np.uint8)
    write_png(tmp_path / "gray" / "HR" / "a.png", noisy)
    write_png(tmp_path / "gray" / "LRx4" / "a.png", lr)
    engine = tmp_path / "x4.onnx"
    engine.write_bytes(b"an engine")
    seen: list[Progress] = []
    record = evaluate([tmp_path / "gray"], [str(engine)], FAST, report=seen.append).record
    assert record.mean["gray"]["x4.onnx"]["psnr"] == pytest.approx(psnr_y(hr, noisy))
    facts = record.engines["x4.onnx"]
    assert facts["backend"] == "openvino bf16"
    assert len(facts["sha256"]) == 64
    assert facts["manifest"] is None
    assert opened == [("x4.onnx", "auto", "auto")]
    assert "x4.onnx on openvino bf16 (a test)" in messages(seen)


def test_broken_images_are_named_and_left_out(
    photographs: Path, tmp_path: Path, write_png: WritePng, inline: None
) -> None:
    whole = evaluate([photographs], ["bicubic"], FAST).record.images["photographs"]["bicubic"]
    (photographs / "1.png").write_bytes((photographs / "1.png").read_bytes()[:2000])
    write_png(photographs / "3.png", np.zeros((8, 40, 3), np.uint8))
    write_png(photographs / "4.png", np.zeros((16, 40, 3), np.uint8))
    result = run(photographs, "--engine", "bicubic", "--metrics", "psnr,ssim")
    assert result.exit_code == 1
    assert f"{photographs / '1.png'}: cannot be decoded" in result.stderr
    assert f"{photographs / '3.png'}: has nothing inside the shaved border" in result.stderr
    assert f"{photographs / '4.png'} by bicubic: SSIM needs at least 11 x 11" in result.stderr
    assert "(of 2)" in result.stdout
    assert "(of 3)" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[1][:3] == ["photographs,", "5", "images"]
    record = evaluate([photographs], ["bicubic"], FAST).record
    assert sorted(record.failures["photographs"]["bicubic"]) == ["1.png", "3.png"]
    kept = record.images["photographs"]["bicubic"]["psnr"]
    assert {kept["0.png"], kept["2.png"]} == {whole["psnr"]["0.png"], whole["psnr"]["2.png"]}


def test_what_is_there_is_not_done_again(
    photographs: Path, tmp_path: Path, inline: None, opened: list[tuple[str, str, str]]
) -> None:
    engine, out = tmp_path / "x4.onnx", tmp_path / "out"
    engine.write_bytes(b"an engine")
    files = sorted(photographs.iterdir())

    def again(metrics: tuple[str, ...] = ("psnr",)) -> tuple[list[str], Evaluation]:
        """The images that were scored, and the record."""
        opened.clear()
        scored: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            load = module.load_pair
            patch.setattr(module, "load_pair", lambda s, b: [load(s, b), scored.append(s.name)][0])
            return scored, evaluate([photographs], [str(engine)], Config(metrics), out).record

    names = [file.name for file in files]
    scored, first = again()
    assert scored == names
    scored, second = again()
    assert scored == []
    assert opened == []  # nothing to do, nothing to open
    assert second.mean == first.mean
    assert second.engines == first.engines

    files[1].write_bytes(files[2].read_bytes())
    scored, _ = again()
    assert scored == names[1:2]
    assert opened == [("x4.onnx", "openvino", "bf16")]  # goes on with what it began with
    scored, third = again(("psnr", "ssim"))
    assert scored == names
    assert third.counts["photographs"]["x4.onnx"] == {"psnr": 3, "ssim": 3}

    engine.write_bytes(b"another engine")
    scored, _ = again()
    assert scored == names
    assert opened == [("x4.onnx", "auto", "auto")]
    files[0].unlink()
    scored, fourth = again()
    assert scored == []
    assert fourth.counts["photographs"]["x4.onnx"] == {"psnr": 2}

    files[1].write_bytes(b"broken")
    for _ in range(2):  # what failed is tried again
        scored, fifth = again()
        assert list(fifth.failures["photographs"]["x4.onnx"]) == names[1:2]
        assert fifth.counts["photographs"]["x4.onnx"] == {"psnr": 1}
    files[1].write_bytes(files[2].read_bytes())
    scored, sixth = again()
    assert scored == names[1:2]
    assert sixth.failures.get("photographs", {}) == {}


def test_an_interrupt_keeps_what_was_scored(
    photographs: Path, tmp_path: Path, inline: None
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 2 and not progress.message:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate([photographs], ["bicubic"], FAST, out, interrupt)
    stored = evaluation_in(out, module.protocol_of(FAST))
    assert stored.counts["photographs"]["bicubic"]["psnr"] == 2
    seen: list[Progress] = []
    evaluate([photographs], ["bicubic"], FAST, out, seen.append)
    assert [event.done for event in seen] == [2, 2, 3]


def test_one_folder_collects_engines_and_sets(
    photographs: Path, tmp_path: Path, inline: None
) -> None:
    out = tmp_path / "out"
    evaluate([photographs], ["bicubic"], FAST, out)
    result = evaluate([photographs], ["bicubic-float"], FAST, out)
    assert result.engines == ["bicubic-float"]
    assert list(result.record.mean["photographs"]) == ["bicubic", "bicubic-float"]


def test_figures_of_two_protocols_do_not_mix(
    photographs: Path, tmp_path: Path, inline: None, complains: Complains
) -> None:
    out = tmp_path / "out"
    evaluate([photographs], ["bicubic"], FAST, out)
    with complains(UsageError, out, "y_rounding nearest", "none", "--out"):
        evaluate([photographs], ["bicubic"], Config(("psnr",), "none"), out)
    (out / "evaluation.json").write_text("{}")
    with complains(DataError, out / "evaluation.json", "--out"):
        evaluate([photographs], ["bicubic"], FAST, out)


def test_shards_together_are_the_whole(photographs: Path, tmp_path: Path, inline: None) -> None:
    whole = evaluate([photographs], ["bicubic"], FAST).record
    out = tmp_path / "out"
    for number in (1, 2, 3):
        part = replace(FAST, shard=Shard(number, 3))
        assert not evaluate([photographs], ["bicubic"], part, out).failed
    scored = [json.loads(path.read_text()) for path in out.glob("shard-*-of-3/evaluation.json")]
    files = [f for it in scored for d in it["images"].values() for f in d["bicubic"]["psnr"]]
    assert sorted(files) == sorted(whole.images["photographs"]["bicubic"]["psnr"])
    lines: list[Progress] = []
    gathered = evaluate([photographs], ["bicubic"], FAST, out, lines.append).record
    assert lines[0].done == lines[0].total  # nothing is done again
    assert gathered.mean == whole.mean
    assert gathered.images == whole.images


def test_metrics_without_their_files(
    photographs: Path, cache: Path, inline: None, complains: Complains
) -> None:
    result = run(photographs, "--engine", "bicubic")
    assert result.exit_code == 0
    assert "PI not measured: " in result.stdout
    assert "`srtool assets fetch ma`" in result.stdout
    assert "NIQE not measured: " in result.stdout
    assert "`srtool assets fetch niqe`" in result.stdout
    assert run(photographs, "--engine", "bicubic", "--metrics", "psnr,lpips").exit_code == 1
    with complains(AssetError, "`srtool assets fetch alexnet`"):
        evaluate([photographs], ["bicubic"], Config(("lpips",)))


def test_another_model_file_makes_its_figures_void(
    photographs: Path, cache: Path, tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    monkeypatch.setattr("srtool.benchmarks.scores._model", lambda metric, path: path.read_bytes())
    monkeypatch.setattr("srtool.benchmarks.scores.niqe", lambda y, model: float(len(model)))
    monkeypatch.setattr("srtool.benchmarks.scores.ma", lambda y, model: float(len(model)))
    (cache / "niqe_modelparameters.mat").write_bytes(b"4444")
    (cache / "model.mat").write_bytes(b"88888888")
    config, out = Config(("pi", "psnr")), tmp_path / "out"
    record = evaluate([photographs], ["bicubic"], config, out).record
    assert record.mean["photographs"]["bicubic"]["pi"] == ((10 - 8) + 4) / 2
    assert record.counts["photographs"]["bicubic"]["pi"] == 3
    (cache / "model.mat").write_bytes(b"666666")
    seen: list[Progress] = []
    record = evaluate([photographs], ["bicubic"], config, out, seen.append).record
    assert record.mean["photographs"]["bicubic"]["pi"] == ((10 - 6) + 4) / 2


def test_pi_is_made_of_means_over_the_same_images() -> None:
    record = Evaluation(protocol={})
    record.keep_only("set", "x4", dict.fromkeys("abc", ""))
    for file, niqe, ma in (("a", 3.0, 7.0), ("b", 4.0, 8.5), ("c", 100.0, None)):
        record.record("set", "x4", file, "niqe", niqe)
        if ma:
            record.record("set", "x4", file, "ma", ma)
    record.summarise()
    assert record.mean["set"]["x4"]["pi"] == ((10 - 7.75) + 3.5) / 2
    assert record.counts["set"]["x4"] == {"niqe": 3, "ma": 2, "pi": 2}


# Folders of results, and what the user may get wrong


@pytest.mark.parametrize(
    ("hr", "results", "expected"),
    [
        (["a.png", "b.png"], ["a.png", "b.webp"], ["a.png", "b.webp"]),
        (["img_1.png", "img_10.png"], ["img_1.png", "img_10.png"], ["img_1.png", "img_10.png"]),
        (["a.png", "b.png"], ["ax4.png", "bx4.png", "c.png"], ["ax4.png", "bx4.png"]),
        (
            ["a_HR_x4.png", "b_HR_x4.png"],
            ["a_N_x4.png", "b_N_x4.png"],
            ["a_N_x4.png", "b_N_x4.png"],
        ),
        (["aHR.png", "b-gt.png"], ["aHR_y.png", "b_y.png"], ["aHR_y.png", "b_y.png"]),
        (["s/a.png", "t/a.png"], ["s/a_y.png", "t/a_y.png"], ["s/a_y.png", "t/a_y.png"]),
        (["a.png", "b.png"], ["a_y.png", "b_y.png", "a.png"], ["a_y.png", "b_y.png"]),
        (["a.png", "b.png"], ["a_y.png"], ["a_y.png"]),
    ],
)
def test_results_are_matched_by_name(
    hr: list[str], results: list[str], expected: list[str], tmp_path: Path
) -> None:
    for folder, names in (("HR", hr), ("SR", results)):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).touch()
    found = results_for(dataset_from_folder(tmp_path), tmp_path / "SR")
    assert [path.relative_to(tmp_path / "SR").as_posix() for path in found.values()] == expected
    assert [path.relative_to(tmp_path / "HR").as_posix() for path in found] == hr[: len(expected)]


def test_results_that_do_not_fit(
    photographs: Path, tmp_path: Path, write_png: WritePng, inline: None, complains: Complains
) -> None:
    results = tmp_path / "results"
    write_png(results / "0_y.png", np.zeros((48, 64, 3), np.uint8))
    write_png(results / "1_y.png", np.zeros((61, 47, 3), np.uint8))
    seen: list[Progress] = []
    outcome = evaluate([photographs], [str(results)], FAST, report=seen.append)
    assert outcome.failed
    assert f"{photographs / '2.png'}: {results} has no result for it" in messages(seen)
    assert outcome.record.counts["photographs"]["results"] == {"psnr": 2}  # cropped as HR is
    write_png(results / "2_y.png", np.zeros((40, 64, 3), np.uint8))
    outcome = evaluate([photographs], [str(results)], FAST, report=seen.append)
    assert f"{results / '2_y.png'}: is 64x40, expected 40x64" in messages(seen)
    for number in range(3):
        write_png(results / f"{number}_z.png", np.zeros((48, 64, 3), np.uint8))
    with complains(UsageError, results, "*_y", "*_z"):
        evaluate([photographs], [str(results)], FAST)
    write_png(results / "0_z.webp", np.zeros((48, 64, 3), np.uint8))
    with complains(UsageError, results / "0_z.png", results / "0_z.webp"):
        evaluate([photographs], [str(results)], FAST)
    write_png(tmp_path / "other" / "x.png", np.zeros((48, 64, 3), np.uint8))
    with complains(UsageError, tmp_path / "other", photographs, "0.png"):
        evaluate([photographs], [str(tmp_path / "other")], FAST)
    write_png(tmp_path / "other" / "photographs" / "0.png", np.zeros((48, 64, 3), np.uint8))
    assert evaluate([photographs], [str(tmp_path / "other")], FAST).failed


def test_wrong_arguments(photographs: Path, tmp_path: Path, complains: Complains) -> None:
    with complains(UsageError, "bicubik", "bicubic-float"):
        evaluate([photographs], ["bicubik"])
    with complains(UsageError, "=bicubic", "NAME=PATH"):
        evaluate([photographs], ["=bicubic"])
    with complains(UsageError, "bicubic", "NAME=", "--engine"):
        evaluate([photographs], ["bicubic", "bicubic"])
    with complains(UsageError, "both called photographs"):
        evaluate([photographs, photographs], ["bicubic"])
    with complains(DataError, tmp_path / "missing"):
        evaluate([tmp_path / "missing"], ["bicubic"])
    (tmp_path / "empty").mkdir()
    with complains(DataError, tmp_path / "empty", "no images"):
        evaluate([tmp_path / "empty"], ["bicubic"])
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    with complains(EngineError, text):
        evaluate([photographs], [str(text)], FAST)
    with complains(UsageError, "fid", "psnr"):
        metrics_from_text("psnr,fid")
    assert metrics_from_text("psnr, ma/pi,psnr") == ("psnr", "ma", "pi")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with complains(DataError, blocked, "--out"):
        evaluate([photographs], ["bicubic"], FAST, blocked)


def test_an_engine_of_another_scale(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complains: Complains
) -> None:
    def open_engine(path: Path, backend: str, precision: str, device: int | None = None) -> Engine:
        facts = ModelFacts(scale=2, io="uint8", precision="fp32", architecture="x", halo=4)
        info = EngineInfo(path, facts, OnnxRuntime(), "a test")
        return Engine(info, DirectSession(facts, lambda batch: batch))

    monkeypatch.setattr("srtool.benchmarks.methods.open_engine", open_engine)
    engine = tmp_path / "x2.onnx"
    engine.write_bytes(b"an engine")
    with complains(UsageError, engine, "x2", "x4"):
        evaluate([photographs], [str(engine)], FAST)
