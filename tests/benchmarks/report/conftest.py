"""Fixtures for the report: results as `bench`, `evaluate` and `verify` write them, made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.speed.result import (
    Bench,
    Candidate,
    EndToEnd,
    Machine,
    Measured,
    Point,
    Roofline,
    Scaling,
    Timing,
    spread,
    write_bench,
)

WEIGHTS = "ab" * 32
CANDIDATES = {  # name -> kind, precision, LR megapixels per second
    "PyTorch eager fp32": ("baseline", "fp32", 0.011),
    "PyTorch eager bf16 channels_last": ("baseline", "bf16", 0.019),
    "torch.compile fp32": ("baseline", "fp32", 0.016),
    "spandrel tiles": ("baseline", "fp32", 0.0105),
    "ncnn": ("baseline", "fp16", 0.0135),
    "onnxruntime fp32": ("engine", "fp32", 0.021),
    "openvino fp32": ("engine", "fp32", 0.022),
    "openvino bf16": ("engine", "bf16", 0.061),
}
SIZES = ((128, 128), (256, 256), (480, 270), (960, 540))


def made_up_network(
    name: str = "x4-fast", factor: float = 1.0, sha256: str = WEIGHTS, runs: int = 30
) -> Measured:
    random = np.random.default_rng(5)
    reference: dict[tuple[int, int], float] = {}
    candidates = []
    for label, (kind, precision, rate) in CANDIDATES.items():
        timings = []
        for size in SIZES:
            if label == "ncnn" and size[0] > 480:
                continue
            pixels = size[0] * size[1]
            base = pixels / 1e6 / (rate * factor) * (1 + 3e3 / pixels)
            seconds = base * (1 + random.gamma(1.2, 0.03, runs))
            reference.setdefault(size, base)
            shares = [reference[size] * 1.04 / value for value in seconds]
            timings.append(
                Timing(
                    size=size,
                    seconds=tuple(seconds),
                    warm_up=4,
                    speed=None if label == "PyTorch eager fp32" else spread(shares),
                    peak_share=min(0.97, 9.4 * rate),
                    bandwidth_share=3.1 * rate,
                    peak_memory=int(4e8 + 2e3 * pixels),
                )
            )
        candidates.append(
            Candidate(
                name=label,
                kind=kind,  # type: ignore[arg-type]
                software=f"{label.split()[0]} 2.1",
                precision=precision,
                load=2.31,
                cold=0.87,
                timings=tuple(timings),
                end_to_end=(
                    EndToEnd(
                        files=24,
                        size=(256, 256),
                        seconds=31.0,
                        decode=0.6,
                        compute=29.4,
                        encode=3.1,
                    ),
                )
                if label == "openvino bf16"
                else (),
                psnr_between=None if label == "PyTorch eager fp32" else 97.3,
                max_difference=None if label == "PyTorch eager fp32" else 1,
                skipped={"960x540 x1": "takes more than 2 GB"} if label == "ncnn" else {},
            )
        )
    threads = tuple(
        Point(value=value, megapixels=0.065, seconds=tuple(2.0 / value * random.normal(1, 0.01, 5)))
        for value in (1, 2, 4, 8)
    )
    batches = tuple(
        Point(value=value, megapixels=0.065 * value, seconds=(value * (1.1 + 0.3 / value),) * 3)
        for value in (1, 2, 4, 8)
    )
    return Measured(
        network=name,
        architecture="srtool lite",
        scale=4,
        flops=2.9e6,
        moved=5.1e3,
        parameters=1_380_000,
        sha256=sha256,
        reference="PyTorch eager fp32",
        candidates=tuple(candidates),
        absent={"onnxruntime-cuda": "there is no NVIDIA GPU here"},
        scaling=(
            Scaling(axis="threads", candidate="openvino bf16", fixed="256x256", points=threads),
            Scaling(axis="batch", candidate="openvino bf16", fixed="256x256", points=batches),
            Scaling(
                axis="batch", candidate="PyTorch eager fp32", fixed="256x256", points=batches[:2]
            ),
        ),
    )


def made_up_bench(*networks: Measured) -> Bench:
    return Bench(
        made="2026-11-23T18:00:00+00:00",
        command="srtool bench weights/x4-fast.safetensors --seconds 60",
        machine=Machine(
            cpu="AMD EPYC",
            cores=2,
            threads=2,
            memory=16_700_000_000,
            platform="Linux x86_64",
            instructions=("avx2", "avx512f", "amx_bf16"),
            versions={"python": "3.11.7", "torch": "2.14.1"},
        ),
        busy=0.12,
        roofline=Roofline(matrix={"fp32": 2.1e11, "bf16": 9.8e11}, bandwidth=2.2e10),
        networks=networks or (made_up_network(),),
    )


def made_up_evaluation(**engines: dict[str, float | None]) -> Evaluation:
    """Set5 by engine, as means; the engine "lite" has the weights of the network."""
    engines = engines or {
        "bicubic": {"psnr": 28.4, "ssim": 0.81, "niqe": 7.52},
        "lite": {"psnr": 30.123, "ssim": 0.86, "niqe": 6.01},
        "other": {"psnr": 29.5, "ssim": 0.87, "niqe": None},
    }
    return Evaluation(
        protocol={"version": 1},
        made="2026-11-23T17:00:00+00:00",
        versions={"srtool": "0.1.0"},
        datasets={"Set5": {"images": 5}},
        engines={name: {"sha256": WEIGHTS} if name == "lite" else {} for name in engines},
        mean={"Set5": engines},
        counts={"Set5": {name: dict.fromkeys(figures, 5) for name, figures in engines.items()}},
        unavailable={"pi": "model.mat is not installed; run `srtool assets fetch ma`"},
    )


@pytest.fixture(scope="session")
def bench() -> Bench:
    return made_up_bench()


@pytest.fixture(scope="session")
def network() -> Measured:
    return made_up_network()


@pytest.fixture(scope="session")
def network_named() -> Callable[..., Measured]:
    return made_up_network


@pytest.fixture(scope="session")
def bench_of() -> Callable[..., Bench]:
    return made_up_bench


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[..., Evaluation]:
    return made_up_evaluation


@pytest.fixture
def bench_file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    write_bench(path, made_up_bench())
    return path


@pytest.fixture
def evaluation_folder(tmp_path: Path) -> Path:
    """As `srtool evaluate --out` leaves it."""
    path = tmp_path / "evaluated" / "evaluation.json"
    path.parent.mkdir()
    path.write_text(made_up_evaluation().model_dump_json(indent=1))
    return path.parent


@pytest.fixture(scope="session")
def verification() -> Any:
    from srtool.benchmarks.verify import Row, Verification
    from srtool.parity import FAITHFUL, Fidelity, WorstTile

    near = Fidelity(
        images=4,
        max_difference=1,
        mean_difference=0.00002,
        share_different=0.00002,
        share_over_1=0.0,
        psnr_between=95.25,
        delta_psnr=0.00012,
        worst_delta_psnr=-0.0001,
        deltas={"ssim": -0.00001, "niqe": 0.0012},
        worst_tile=WorstTile(image="astronaut.png", left=32, top=64, psnr=88.5),
    )
    return Verification(
        made="2026-11-23T16:00:00+00:00",
        versions={"srtool": "0.1.0"},
        model="weights/x4-fast.safetensors",
        model_sha256=WEIGHTS,
        dataset="samples",
        images=4,
        gates=FAITHFUL,
        rows=[
            Row(engine="x4.onnx", backend="openvino fp32", fidelity=near, missed=[]),
            Row(engine="x4.plan", backend="tensorrt", fidelity=None, missed=["fails: no GPU"]),
        ],
        unavailable={"lpips": "alexnet is not installed"},
    )
