"""`srtool verify`: what is compared, what decides, and what the manifest says afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.benchmarks import reference as reference_module
from srtool.benchmarks import verify as module
from srtool.benchmarks.metrics.full_reference import ssim
from srtool.benchmarks.reference import deltas, relative_niqe
from srtool.benchmarks.verify import Config, Verification, verify
from srtool.errors import DataError, EngineError, ExportError, ImageError, UsageError
from srtool.export.mixed import EMULATED
from srtool.images.colour import luma, psnr, psnr_y
from srtool.images.imresize import make_lr
from srtool.images.reading import image_size
from srtool.manifest import read_manifest, sidecar, uncertified_reason, write_manifest
from srtool.parity import FAITHFUL, Gates
from srtool.runtime.onnx_files import installed_backends
from srtool.runtime.opening import open_engine

ORT = Config("onnxruntime", workers=1)
Complains = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "assets"))


@pytest.fixture(autouse=True)
def inline(score_inline: Callable[[Any], None]) -> None:
    """Score in this process; that the pool works is for the tests of evaluate."""
    score_inline(reference_module)


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    image = 128 + 60 * np.sin(x / 9)[..., None] + 50 * np.cos(y / 7)[..., None] * [1, 0.5, -1]
    return image.round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path, write_png: Any) -> Path:
    """A data set of two images, the second of 3 x 2 tiles."""
    folder = tmp_path / "Set2"
    write_png(folder / "HR" / "a.png", photograph(64, 80))
    write_png(folder / "HR" / "b.png", photograph(240, 280))
    return folder


Damage = Callable[[NDArray[Any]], NDArray[Any]]


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Damage], None]:
    """Changes what every engine under test makes; the reference is left alone."""
    found = module.open_on

    def use(change: Damage) -> None:
        def open_on(*arguments: Any) -> Any:
            engine = found(*arguments)
            compute = engine._session.compute
            engine._session.compute = lambda batch: change(compute(batch))
            return engine

        monkeypatch.setattr(module, "open_on", open_on)

    return use


def only(found: Verification) -> Any:
    (row,) = found.rows
    return row


# What is compared


def test_an_exact_engine_passes_everywhere(
    compact_weights: Path, compact_engine: Path, images: Path
) -> None:
    found = verify(compact_weights, [compact_engine], images, Config(workers=1))
    assert found.passed
    assert [row.backend for row in found.rows] == [str(backend) for backend in installed_backends()]
    assert (found.dataset, found.images, found.gates) == ("Set2", 2, FAITHFUL)
    row = found.rows[0]
    assert (row.engine, row.missed) == (str(compact_engine), [])
    assert row.fidelity.max_difference <= 1
    assert abs(row.fidelity.delta_psnr) < 1e-3
    assert row.fidelity.deltas.keys() == {"ssim", "ssim_wang"}
    assert Verification.model_validate_json(found.model_dump_json()) == found


def test_figures_of_a_known_difference(
    compact_weights: Path, compact_engine: Path, images: Path, damaged: Any
) -> None:
    """20 levels on one pixel of the larger image, 1 level all over the other."""

    def change(out: NDArray[Any]) -> NDArray[Any]:
        wide = out.astype(np.int16)
        if out.shape[1] == 240:
            wide[0, 100, 200] += np.where(wide[0, 100, 200] > 128, -20, 20)
        else:
            wide += np.where(wide > 128, -1, 1)
        return wide.astype(np.uint8)

    damaged(change)
    found = only(verify(compact_weights, [compact_engine], images, ORT)).fidelity
    values = 3 * (64 * 80 + 240 * 280)
    assert found.images == 2
    assert found.max_difference == 20
    assert found.mean_difference == pytest.approx((3 * 20 + 3 * 64 * 80) / values, rel=1e-3)
    assert found.share_over_1 == pytest.approx(3 / values)
    squares = 3 * 400 + 3 * 64 * 80
    assert found.psnr_between == pytest.approx(10 * np.log10(255**2 * values / squares), abs=0.01)
    tile = found.worst_tile
    assert (tile.image, tile.left, tile.top) == ("a.png", 0, 0)
    assert tile.psnr == pytest.approx(10 * np.log10(255**2), abs=0.01)
    reference = open_engine(compact_weights)
    gaps, ssims = [], []
    inner = np.s_[4:-4, 4:-4]
    for hr in (photograph(64, 80), photograph(240, 280)):
        plain = reference.upscale_batch(make_lr(hr, 4)[None])
        changed = change(plain.copy())[0]
        gaps.append(psnr_y(changed, hr) - psnr_y(plain[0], hr))
        one, other, true = (luma(image)[inner] for image in (changed, plain[0], hr))
        ssims.append(ssim(one, true) - ssim(other, true))
    assert found.delta_psnr == pytest.approx(sum(gaps) / 2, abs=1e-4)
    assert found.worst_delta_psnr == pytest.approx(min(gaps), abs=1e-4)
    assert found.deltas["ssim"] == pytest.approx(sum(ssims) / 2, abs=1e-6)
    assert abs(found.deltas["ssim"]) > 1e-4


def test_the_worst_tile(
    compact_weights: Path, compact_engine: Path, images: Path, damaged: Any
) -> None:
    def change(out: NDArray[Any]) -> NDArray[Any]:
        out = out.copy()
        if out.shape[1] == 240:
            out[0, 130:140, 260:] = 0  # LR row 32, column 65: the narrow tile at the right
        return out

    damaged(change)
    found = only(verify(compact_weights, [compact_engine], images, ORT)).fidelity
    tile = found.worst_tile
    assert (tile.image, tile.left, tile.top) == ("b.png", 64, 32)
    hr = photograph(240, 280)
    plain = open_engine(compact_weights).upscale_batch(make_lr(hr, 4)[None])[0]
    inside = np.s_[128:240, 256:280]
    expected = psnr(change(plain[None])[0][inside], plain[inside])
    assert tile.psnr == pytest.approx(expected, abs=0.01)


def test_lr_images_that_are_there_are_taken(
    compact_weights: Path, compact_engine: Path, images: Path, write_png: Any, damaged: Any
) -> None:
    seen = []
    damaged(lambda out: seen.append(out.mean()) or out)
    for name in ("a", "b"):
        size = image_size(images / "HR" / f"{name}.png")
        made = np.full((size[0] // 4, size[1] // 4, 3), 7, np.uint8)
        write_png(images / "LRx4" / f"{name}.png", made)
    verify(compact_weights, [compact_engine], images, ORT)
    assert max(seen) < 40


def test_images_in_the_folder_itself_are_hr(
    compact_weights: Path, compact_engine: Path, images: Path
) -> None:
    found = verify(compact_weights, [compact_engine], images / "HR", ORT)
    assert (found.dataset, found.images, found.passed) == ("Set2", 2, True)


def test_large_images_are_cut_alike(
    compact_weights: Path, compact_engine: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut changes both sides in the same way, even with tiles too small for the network."""
    monkeypatch.setattr(reference_module, "DEFAULT_TILE", 33)
    found = only(verify(compact_weights, [compact_engine], images, ORT)).fidelity
    assert found.max_difference <= 1


def test_changes_of_the_metrics() -> None:
    reference: Any = {"a": {"niqe": 4.0, "ma": 8.0, "ssim": 0.5}, "b": {"niqe": "small", "ma": 7.0}}
    engine: Any = {"a": {"niqe": 4.5, "ma": 7.9, "ssim": 0.25}, "b": {"niqe": 3.0, "ma": 6.9}}
    found = deltas(engine, reference)
    assert found == pytest.approx({"niqe": 0.5, "ma": -0.1, "ssim": -0.25, "pi": 0.3})


def test_metrics_that_cannot_be_taken(
    compact_weights: Path, compact_engine: Path, images: Path
) -> None:
    found = verify(compact_weights, [compact_engine], images, ORT)
    assert found.unavailable.keys() == {"niqe", "pi", "lpips"}
    assert "srtool assets fetch ma" in found.unavailable["pi"]
    assert all("\n" not in line for line in found.unavailable.values())
    assert not found.unavailable.keys() & only(found).fidelity.deltas.keys()


# What decides


@pytest.mark.parametrize(
    ("gates", "missed"),
    [
        (Gates(), ["dB between", "delta PSNR"]),
        (Gates(min_psnr=40.0), ["delta PSNR"]),
        (Gates(max_delta_psnr=0.1), ["dB between"]),
        (Gates(min_psnr=40.0, max_delta_psnr=0.1), []),
    ],
)
def test_gates(
    compact_weights: Path,
    compact_engine: Path,
    images: Path,
    damaged: Any,
    gates: Gates,
    missed: list[str],
) -> None:
    damaged(lambda out: out ^ 1)  # one level: 48.1 dB
    found = verify(compact_weights, [compact_engine], images, Config("onnxruntime", gates))
    assert found.passed is (missed == [])
    assert len(only(found).missed) == len(missed)
    for line, words in zip(only(found).missed, missed, strict=True):
        assert words in line
    manifest = read_manifest(compact_engine)
    assert manifest is not None
    written = manifest.fidelity["onnxruntime fp32"]
    assert (written.gates, written.passed) == (gates, missed == [])
    assert bool(uncertified_reason(manifest, "onnxruntime fp32")) is bool(missed)


def test_a_backend_that_fails_is_a_row_that_fails(
    compact_weights: Path, compact_engine: Path, images: Path, damaged: Any
) -> None:
    def fail(out: NDArray[Any]) -> NDArray[Any]:
        raise RuntimeError("no such\noperation")

    damaged(fail)
    found = verify(compact_weights, [compact_engine], images, ORT)
    assert (only(found).fidelity, found.passed) == (None, False)
    assert only(found).missed == ["fails: no such operation"]
    manifest = read_manifest(compact_engine)
    assert manifest is not None
    assert "onnxruntime fp32" not in manifest.fidelity


# What is written


def test_the_result_replaces_the_entry_of_its_backend(
    compact_weights: Path, compact_engine: Path, images: Path
) -> None:
    before = read_manifest(compact_engine)
    assert before is not None
    stale = before.fidelity["onnxruntime fp32"].model_copy(update={"psnr_between": 20.0})
    old = before.model_copy(update={"fidelity": {"onnxruntime fp32": stale, "other": stale}})
    write_manifest(compact_engine, old)
    assert "20.0 dB" in uncertified_reason(old, "onnxruntime fp32")
    found = verify(compact_weights, [compact_engine], images, ORT)
    after = read_manifest(compact_engine)
    assert after is not None
    assert after.fidelity == {"other": stale, "onnxruntime fp32": only(found).fidelity}
    assert after.model_copy(update={"fidelity": {}}) == old.model_copy(update={"fidelity": {}})
    written = json.loads(sidecar(compact_engine).read_text())["fidelity"]["onnxruntime fp32"]
    assert (written["dataset"], written["images"], written["passed"]) == ("Set2", 2, True)
    assert written["made"].startswith("20")
    assert written["gates"] == FAITHFUL.model_dump()
    assert written["deltas"].keys() == {"ssim", "ssim_wang"}
    assert uncertified_reason(after, "onnxruntime fp32") == ""


def test_other_weights_are_named(
    compact_weights: Path, compact_engine: Path, images: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(compact_weights.read_bytes() + b" ")
    messages: list[str] = []
    verify(compact_weights, [compact_engine], images, ORT, lambda p: messages.append(p.message))
    assert not any(messages)
    verify(copy, [compact_engine], images, ORT, lambda p: messages.append(p.message))
    (line,) = filter(None, messages)
    assert [
        word for word in (str(compact_engine), "compact.pth", str(copy)) if word not in line
    ] == []


def test_progress_reaches_its_end(
    compact_weights: Path, compact_engine: Path, images: Path
) -> None:
    seen: list[Any] = []
    verify(compact_weights, [compact_engine], images, ORT, seen.append)
    assert [(step.done, step.total) for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]


# What is wrong with the input


def test_what_cannot_be_verified(
    compact_weights: Path,
    compact_engine: Path,
    images: Path,
    tmp_path: Path,
    write_png: Any,
    complains: Complains,
) -> None:
    with complains(UsageError, compact_engine, "weights", "first"):
        verify(compact_engine, [compact_engine], images)
    with complains(UsageError, compact_weights, ".onnx"):
        verify(compact_weights, [compact_weights], images)
    with complains(EngineError, "none.onnx", "srtool export"):
        verify(compact_weights, [tmp_path / "none.onnx"], images)
    with complains(DataError, tmp_path / "none"):
        verify(compact_weights, [compact_engine], tmp_path / "none")
    lone = shutil.copy(compact_engine, tmp_path / "lone.onnx")
    with complains(EngineError, lone, "lone.onnx.json", "srtool export"):
        verify(compact_weights, [lone], images)
    manifest = read_manifest(compact_engine)
    assert manifest is not None
    model = manifest.model.model_copy(update={"scale": 2})
    write_manifest(lone, manifest.model_copy(update={"model": model}))
    with complains(UsageError, lone, "x2", "x4"):
        verify(compact_weights, [lone], images)
    (images / "HR" / "a.png").write_bytes(b"no image")
    with complains(ImageError, images / "HR" / "a.png"):
        verify(compact_weights, [compact_engine], images)


def test_weights_that_make_no_image(
    compact_engine: Path, images: Path, tmp_path: Path, compact_weights: Path, complains: Complains
) -> None:
    import torch

    state = torch.load(compact_weights, weights_only=True)
    state["params"]["body.4.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with complains(ExportError, "nan.pth", "NaN", images / "HR" / "a.png"):
        verify(tmp_path / "nan.pth", [compact_engine], images)


# Float16


@pytest.fixture(scope="module")
def half_engine(
    overflowing_weights: Path, hr_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from srtool.export import onnx
    from srtool.networks.loading import load_network

    path = tmp_path_factory.mktemp("half") / "x4.fp16.onnx"
    config = onnx.ExportConfig("fp16", "uint8", hr_images, True)
    onnx.export(load_network(overflowing_weights), path, config)
    return path


def test_an_overflow_that_the_cpu_hides_fails(
    half_engine: Path, overflowing_weights: Path, images: Path
) -> None:
    rows = verify(overflowing_weights, [half_engine], images, ORT).rows
    assert [row.backend for row in rows] == ["onnxruntime fp32", str(EMULATED)]
    assert rows[1].missed


def test_bisect_writes_a_mixed_file_that_passes(
    half_engine: Path, overflowing_weights: Path, images: Path
) -> None:
    messages: list[str] = []
    config = Config("onnxruntime", bisect=True)
    found = verify(
        overflowing_weights, [half_engine], images, config, lambda p: messages.append(p.message)
    )
    (mended,) = found.mixed
    mixed = half_engine.with_name("x4.mixed.onnx")
    assert (mended.source, mended.engine) == (str(half_engine), str(mixed))
    assert mended.overflow is not None
    assert (mended.overflow.operation, mended.overflow.module) == ("Conv", "body.0")
    assert 0 < len(mended.float32_nodes) < mended.nodes
    assert [(row.engine, row.backend, row.missed) for row in found.rows[2:]] == [
        (str(mixed), str(EMULATED), []), (str(mixed), "onnxruntime fp32", [])
    ]  # fmt: skip
    assert not found.passed  # what was asked about fails all the same
    manifest = read_manifest(mixed)
    assert manifest is not None
    assert manifest.model.float32_modules == ("body.0", "body.2")
    assert manifest.fidelity.keys() == {str(EMULATED), "onnxruntime fp32"}
    assert uncertified_reason(manifest, "onnxruntime fp32") == ""
    again = verify(overflowing_weights, [mixed], images, config)
    assert (again.passed, again.mixed) == (True, [])
    assert all("\n" not in line for line in messages)


def test_bisect_with_other_weights(half_engine: Path, compact_weights: Path, images: Path) -> None:
    messages: list[str] = []
    config = Config("onnxruntime", bisect=True)
    found = verify(
        compact_weights, [half_engine], images, config, lambda p: messages.append(p.message)
    )
    assert (found.passed, found.mixed, len(found.rows)) == (False, [], 2)
    line = messages[-1]
    words = [str(half_engine), "other weights", str(compact_weights), "overflowing.pth"]
    assert [word for word in words if word not in line] == []


def test_niqe_changes_relative_to_the_references_own() -> None:
    engine: Any = {"a": {"niqe": 5.5}, "b": {"niqe": 4.1}, "c": {"niqe": "too small"}, "d": {}}
    reference: Any = {
        "a": {"niqe": 5.0},
        "b": {"niqe": 4.0},
        "c": {"niqe": 9.0},
        "d": {"niqe": 9.0},
    }
    assert relative_niqe(engine, reference) == pytest.approx(0.6 / 9)
    assert relative_niqe({"a": {"psnr": 30.0}}, {"a": {"psnr": 30.0}}) is None
