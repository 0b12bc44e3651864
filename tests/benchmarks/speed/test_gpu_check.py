"""The check of a GPU machine, as far as it goes without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from srtool.benchmarks import gpu_check as module
from srtool.benchmarks.gpu_check import Checked, check, main, missed, write
from srtool.benchmarks.gpu_sides import (
    Folder,
    Ratio,
    Side,
    engine_side,
    folder_run,
    interleaved,
    matrix_peak,
    ratio,
    tiles_from_photographs,
    torch_side,
    write_folder,
)
from srtool.errors import EngineError
from srtool.manifest import Fidelity, ModelFacts, Profile
from srtool.runtime.cuda import find_gpu
from srtool.runtime.engine import Engine
from srtool.runtime.plan import Machine
from srtool.train.checkpoint import Network, load_network


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def network(compact_weights: Path) -> Network:
    return load_network(compact_weights)


def engine(name: str = "test", fail: bool = False) -> Engine:
    def run(batch: NDArray[Any]) -> NDArray[Any]:
        if fail:
            raise RuntimeError("broken")
        return batch.repeat(4, 1).repeat(4, 2)

    facts = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="", halo=4)
    return Engine(Path("x4.plan"), facts, name, "4 tiles at a time", run)


def fidelity(between: float | None = 60.0) -> Fidelity:
    return Fidelity(
        images=1,
        max_difference=2,
        mean_difference=0.1,
        share_different=0.1,
        share_over_1=0.0,
        psnr_between=between,
        delta_psnr=0.0,
        worst_delta_psnr=0.0,
    )


def test_pieces_of_photographs() -> None:
    images = [noise(40, 60), noise(20, 100)]
    tiles = tiles_from_photographs(images, 5, 32, 48)
    assert tiles.shape == (5, 32, 48, 3)
    assert np.array_equal(tiles, tiles_from_photographs(images, 5, 32, 48))
    assert not np.array_equal(tiles[0], tiles[2])
    windows = np.lib.stride_tricks.sliding_window_view(images[0], (32, 48, 3))
    assert (windows == tiles[0]).all((3, 4, 5)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pytorch_runs_and_leaves_the_network_as_it_was(network: Network, dtype: Any) -> None:
    tiles = tiles_from_photographs([noise(40, 60)], 5, 8, 12)
    side = torch_side(network, tiles, 2, "cpu", dtype)
    kind = "fp16" if dtype == torch.float16 else "fp32"
    assert side.name == f"PyTorch eager {kind} channels_last, batch 2"
    side.run()
    assert {value.dtype for value in network.module.parameters()} == {torch.float32}


def test_pytorch_with_too_little_memory(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x

    from srtool.benchmarks import gpu_sides

    monkeypatch.setattr(gpu_sides, "plain_module", lambda network: Large())
    tiles = tiles_from_photographs([noise(40, 60)], 9, 8, 12)
    assert torch_side(network, tiles, 8, "cpu", torch.float32).name.endswith("batch 2")


def test_an_engine_that_fails_is_not_fast() -> None:
    tiles = tiles_from_photographs([noise(40, 60)], 3, 8, 12)
    engine_side(engine(), tiles).run()
    with pytest.raises(RuntimeError, match="broken"):
        engine_side(engine(fail=True), tiles).run()


def test_rounds_are_interleaved() -> None:
    calls: list[str] = []
    sides = [Side(name, lambda name=name: calls.append(name)) for name in "ab"]  # type: ignore[misc]
    seconds = interleaved(sides, 3)
    assert calls == ["a", "a", "b", "b", *"ababab"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_ratios_round_by_round() -> None:
    assert ratio([1.0, 2.0, 4.0], [2.0, 5.0, 6.0]) == Ratio(2.0, 1.5, 2.5)


def test_the_matrix_peak() -> None:
    assert matrix_peak("cpu", torch.float32, side=32, tries=2) > 0


def test_a_folder(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "in", [noise(40, 60), noise(400, 700)], 3)
    found = folder_run(engine(), paths, tmp_path / "out")
    assert (found.images, found.failed) == (3, 0)
    assert found.pixels == sum((300 + 12 * n) * (510 - 9 * n) for n in range(3))
    assert found.gpu_share == found.compute / found.seconds < 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def checked(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """What a machine with one engine finds, on a CPU."""

    def opened(name: str, *rest: Any) -> tuple[Engine, Fidelity]:
        if name != "tensorrt":
            raise EngineError(f"{name}: compute capability 9.0 is not supported")
        return engine("tensorrt fp16"), fidelity()

    monkeypatch.setattr(module, "_opened", opened)
    small = Profile(min=(1, 8, 8), opt=(2, 16, 24), max=(2, 16, 24))
    monkeypatch.setattr(module, "DEFAULT_PROFILE", small)
    here = Machine("Fake GPU", "8.9", "580.65.06")
    options: dict[str, Any] = {"rounds": 2, "tiles": 4, "images": 2, "device": "cpu"}
    return check(network, tmp_path, here, compiled=False, peak=1e12, **options)


def test_what_is_measured_and_what_is_not(checked: Checked, tmp_path: Path) -> None:
    assert checked.precision == "fp16"
    assert checked.flops_per_pixel > 1000
    (found,) = checked.engines
    assert found.name == "tensorrt fp16"
    assert found.over_eager is not None
    assert found.over_eager.low <= found.over_eager.median <= found.over_eager.high
    pixels = 4 * 16 * 24
    rate = pixels / np.median(found.seconds)
    assert found.megapixels_per_second == pytest.approx(rate / 1e6)
    assert found.peak_share == pytest.approx(rate * checked.flops_per_pixel / 1e12)
    assert found.folder.images == 2
    assert set(checked.absent) == {
        "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt", "torch.compile",
    }  # fmt: skip
    assert "9.0" in checked.absent["tensorrt-rtx"]
    assert "torch.compile was not measured" in checked.missed
    out = tmp_path / "results" / "gpu.json"
    write(out, Machine("Fake GPU", "8.9", "580"), 1e12, [checked])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["gpu"] == {"name": "Fake GPU", "compute": "8.9", "driver": "580"}
    (written,) = record["networks"]
    assert written["engines"][0]["fidelity"]["grade"] == "faithful"
    assert written["engines"][0]["over_compiled"] is None
    assert list(written["references"]) == ["PyTorch eager fp16 channels_last, batch 2"]
    module.print_results([checked], 1e12)


def measured(speed: float, eager: float, compiled: float, share: float, between: float) -> Any:
    ratios = (Ratio(x, x, x) for x in (eager, compiled))
    folder = Folder(200, 0, 10, 10.0, 10 * share, share)
    return module.Measured(
        "tensorrt fp16", "", [1.0], speed, 0.5, *ratios, fidelity(between), folder
    )


def found_with(*engines: Any) -> Checked:
    return Checked("x4", "fp16", 1.0, (256, 256), 4, 64, engines=list(engines))


def test_the_bars() -> None:
    assert missed(found_with(measured(1, 2.0, 1.2, 0.9, 55))) == []
    # The fastest one counts; a slower one only has to be faithful.
    assert missed(found_with(measured(1, 0.1, 0.1, 0.1, 55), measured(2, 3, 3, 1, 55))) == []
    lines = missed(found_with(measured(1, 1.99, 1.1, 0.89, 45)))
    assert [word for word in ("lossy", "1.99x", "1.10x", "89%") if word not in str(lines)] == []
    assert len(lines) == 4
    assert missed(found_with()) == ["no engine could be measured"]


def test_without_a_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    assert main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("gpu-check: not on this machine: ")
