"""`srtool bench` as a whole, on a tiny network: real engines, real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from srtool.benchmarks.speed import bench as module
from srtool.benchmarks.speed import rounds
from srtool.benchmarks.speed.bench import Config, bench
from srtool.benchmarks.speed.candidates import Runner
from srtool.benchmarks.speed.networks import networks_from_files, random_weights
from srtool.benchmarks.speed.process import Process, ProcessError
from srtool.benchmarks.speed.result import Bench, Roofline, read_bench, write_bench
from srtool.errors import EngineError, UsageError
from srtool.files import sha256
from srtool.networks.loading import load_network

REFERENCE = "PyTorch eager fp32"
ROOFLINE = Roofline(matrix={"fp32": 1e11}, bandwidth=1e10)


@pytest.fixture(scope="module")
def measured(
    compact_export: Path, compact_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    """An engine and a baseline in two processes each, and a baseline that does not run."""
    folder = tmp_path_factory.mktemp("bench")
    networks = networks_from_files([compact_export / "x4.onnx"], [compact_weights], [], folder)
    config = Config(
        sizes=((40, 24),),
        batches=(1, 2),
        seconds=1e3,  # however slow the machine is, nothing is left out for it
        processes=2,
        files=3,
        backends=("onnxruntime",),
        compared=("eager fp32", "CUDA"),
        scaling=("batch",),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "MOST", 3)
        patch.setattr(rounds, "MOST_WARM_UP", 2)
        patch.setattr(module, "busy_cores", lambda: 0.0)
        patch.setattr(module, "measured_roofline", lambda *rest: ROOFLINE)
        return bench(networks, config, "srtool bench x4.onnx")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured of the machine itself is for the tests of that."""
    monkeypatch.setattr(module, "busy_cores", lambda: 0.0)
    monkeypatch.setattr(module, "measured_roofline", lambda *rest: Roofline())


@pytest.mark.slow
def test_every_candidate_is_measured_at_every_size_and_batch(measured: Bench) -> None:
    (network,) = measured.networks
    names = [candidate.name for candidate in network.candidates]
    assert names == [REFERENCE, "srtool, onnxruntime fp32"]
    assert network.reference == REFERENCE
    for candidate in network.candidates:
        assert [(t.size, t.batch) for t in candidate.timings] == [
            ((40, 24), 1),
            ((40, 24), 2),
        ]
        for found in candidate.timings:
            assert len(found.rounds) == 2
            assert min(found.rounds) >= 3  # half of five, rounded up
            assert sum(found.rounds) == len(found.seconds)
            assert found.warm_up >= 2
            assert found.p50 <= found.p90 <= found.p99
            assert (found.speed is None) == (candidate.name == REFERENCE)
            assert found.peak_memory is None or found.peak_memory > 10e6
        assert candidate.load > 0
        assert candidate.cold > 0
    assert {len(candidate.timings[0].seconds) for candidate in network.candidates} != {0}


@pytest.mark.slow
def test_all_candidates_compute_the_same(measured: Bench) -> None:
    for candidate in measured.networks[0].candidates[1:]:
        assert candidate.psnr_between is None or candidate.psnr_between > 60
        assert candidate.max_difference is not None
        assert candidate.max_difference <= 1


@pytest.mark.slow
def test_ratios_are_of_the_rounds(measured: Bench) -> None:
    reference, engine = measured.networks[0].candidates
    found = [a / b for a, b in zip(*(s.timings[0].seconds for s in (reference, engine)))]  # noqa: B905
    speed = engine.timings[0].speed
    assert speed is not None
    assert (speed.low, speed.high) == (min(found), max(found))


@pytest.mark.slow
def test_baselines_that_do_not_run_are_named_with_the_reason(measured: Bench) -> None:
    assert measured.networks[0].absent == {"ONNX Runtime CUDA": "takes an NVIDIA GPU"}


@pytest.mark.slow
def test_engines_run_from_file_to_file(measured: Bench) -> None:
    reference, *engines = measured.networks[0].candidates
    assert not reference.end_to_end
    for engine in engines:
        (found,) = engine.end_to_end
        assert (found.files, found.size) == (3, (40, 24))
        assert 0 < found.share < 1
        assert found.decode > 0
        assert found.encode > 0


@pytest.mark.slow
def test_the_roofline_is_set_against_the_counted_cost(measured: Bench) -> None:
    network = measured.networks[0]
    assert network.flops
    found = network.candidates[1].timings[0]
    expected = 40 * 24 / found.p50 * network.flops / 1e11
    assert found.peak_share == pytest.approx(expected)


@pytest.mark.slow
def test_scaling_is_of_the_fastest_engine(measured: Bench) -> None:
    (scaling,) = measured.networks[0].scaling
    assert scaling.axis == "batch"
    assert scaling.candidate.startswith("srtool, ")
    assert [point.value for point in scaling.points] == [1, 2, 4, 8, 16]
    smallest, largest = scaling.points[0], scaling.points[-1]
    assert len(smallest.seconds) == 3 * 8  # 3 rounds; a sixteenth of the largest point
    assert len(largest.seconds) == 3
    assert largest.megapixels == 16 * smallest.megapixels
    assert scaling.flatness >= 1


@pytest.mark.slow
def test_it_survives_its_file(measured: Bench, tmp_path: Path) -> None:
    write_bench(tmp_path / "speed.json", measured)
    assert read_bench(tmp_path / "speed.json") == measured
    written = json.loads((tmp_path / "speed.json").read_text())
    found = written["networks"][0]["candidates"][0]["timings"][0]
    assert found["p50"] == measured.networks[0].candidates[0].timings[0].p50


@pytest.mark.slow
def test_a_candidate_that_would_take_too_long_is_left_out_there(
    compact_export: Path, tmp_path: Path, idle: None
) -> None:
    networks = networks_from_files([compact_export / "x4.onnx"], [], [], tmp_path)
    config = Config(sizes=((16, 16), (800, 800)), seconds=0.001, files=0, backends=("onnxruntime",))
    (network,) = bench(networks, config, "").networks
    (candidate,) = network.candidates
    assert [t.size for t in candidate.timings] == [(16, 16)]
    assert "more than the 0.001 s" in candidate.skipped["800x800 x1"]
    assert all("needs compact.pth" in why for why in network.absent.values())
    assert len(network.absent) > 5


@pytest.mark.slow
def test_an_engine_that_does_not_open_is_one_line(
    compact_engine: Path, tmp_path: Path, idle: None
) -> None:
    networks = networks_from_files([compact_engine], [], [], tmp_path)
    config = Config(sizes=((16, 16),), backends=("onnxruntime-cuda",))
    with pytest.raises(EngineError, match=r"x4\.onnx on onnxruntime-cuda: "):
        bench(networks, config, "")


def test_engines_of_one_network_stand_together(
    compact_engine: Path, compact_weights: Path, tmp_path: Path
) -> None:
    other = shutil.copy(compact_engine, tmp_path / "copy.onnx")
    shutil.copy(f"{compact_engine}.json", f"{other}.json")
    (network,) = networks_from_files([compact_engine, Path(other)], [compact_weights], [], tmp_path)
    assert network.name == "compact"
    assert [path.name for path in network.engines] == ["x4.onnx", "copy.onnx"]
    assert network.weights == compact_weights
    assert network.cost is not None
    # 3 -> 8 -> 8 -> 48 channels of 3x3, a multiplication and an addition each
    assert network.cost.flops == 2 * 9 * (3 * 8 + 8 * 8 + 8 * 48)


def test_weights_are_found_beside_the_engine(compact_engine: Path, compact_weights: Path) -> None:
    (network,) = networks_from_files([compact_engine], [], [], compact_engine.parent)
    assert network.weights is None
    shutil.copy(compact_weights, compact_engine.parent)
    (network,) = networks_from_files([compact_engine], [], [], compact_engine.parent)
    assert network.weights == compact_engine.parent / "compact.pth"


@pytest.mark.slow
def test_weights_are_exported_first(compact_weights: Path, tmp_path: Path) -> None:
    (network,) = networks_from_files([compact_weights], [], [], tmp_path)
    assert network.engines == [tmp_path / "compact.onnx"]
    assert network.facts.weights_sha256 == sha256(compact_weights)


def test_bad_names(compact_engine: Path, compact_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.onnx: no such file"):
        networks_from_files([tmp_path / "none.onnx"], [], [], tmp_path)
    with pytest.raises(UsageError, match=r"none\.pth: no such file"):
        networks_from_files([compact_engine], [tmp_path / "none.pth"], [], tmp_path)
    stranger = random_weights("lite", tmp_path)
    with pytest.raises(UsageError, match="no engine was made of it"):
        networks_from_files([compact_engine], [stranger], [], tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UsageError, match="is no engine"):
        networks_from_files([text], [], [], tmp_path)
    with pytest.raises(UsageError, match="huge: no such network; expected one of full, lite"):
        random_weights("huge", tmp_path)


def test_random_weights_are_repeatable_and_make_an_image(tmp_path: Path) -> None:
    import torch

    first = random_weights("lite", tmp_path)
    digest = sha256(first)
    assert sha256(random_weights("lite", tmp_path)) == digest
    with torch.inference_mode():
        out = load_network(first).upscale(torch.rand(1, 3, 24, 24))
    assert 0.1 < out.mean() < 0.9


def test_a_folder_of_which_an_image_fails_is_no_measure(
    compact_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: None
) -> None:
    def failing(*rest: Any) -> None:
        raise ProcessError("2 of 3 images failed")

    monkeypatch.setattr(Process, "folder", failing)
    networks = networks_from_files([compact_export / "x4.onnx"], [], [], tmp_path)
    config = Config(sizes=((16, 16),), seconds=0.001, files=3, backends=("onnxruntime",))
    (candidate,) = bench(networks, config, "").networks[0].candidates
    assert not candidate.end_to_end
    assert candidate.skipped == {"16x16, 3 files": "2 of 3 images failed"}


def test_each_process_adds_its_rounds_and_one_that_is_lost_takes_none_along(
    compact_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: None
) -> None:
    opened: list[str] = []
    real = Runner.open

    def failing_once(self: Runner, *rest: Any) -> None:
        opened.append(self.entry.label)
        if "openvino" in opened[-1] and opened.count(opened[-1]) == 2:
            self.is_open = False
            raise ProcessError("no memory")
        real(self, *rest)

    monkeypatch.setattr(Runner, "open", failing_once)
    networks = networks_from_files([compact_export / "x4.onnx"], [], [], tmp_path)
    config = Config(
        sizes=((16, 16),),
        seconds=1e-6,  # two rounds, however fast the machine is
        processes=3,
        files=0,
        backends=("onnxruntime", "openvino"),
    )
    (network,) = bench(networks, config, "").networks
    steady, lost = network.candidates
    assert [len(it.timings[0].seconds) for it in network.candidates] == [6, 4]
    assert lost.skipped == {"process 2 of 3": "no memory"}
    assert not steady.skipped
    pairs = zip(steady.timings[0].seconds, lost.timings[0].seconds, strict=False)
    assert lost.timings[0].speed
    assert lost.timings[0].speed.high == max(slow / fast for slow, fast in pairs)
