"""The proof of engines on a GPU, on a fake one and on the CPU: what it compares, and that it can
fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gpu_engines
import pytest

from srtool.manifest import read_manifest
from srtool.models import engine_path
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino

HERE = (OnnxRuntime(), OpenVino("fp32"))


def test_a_plan_for_another_gpu_is_opened_all_the_same(make_plan: Any, nearest_onnx: Any) -> None:
    """Both repeat pixels."""
    nearest_onnx("x4.onnx", io="uint8")
    made = make_plan("rtx", name="x4-sm80.plan", seed=1)
    found = gpu_engines.run(made.path.parent, HERE, 48)
    assert set(found) == {"x4.onnx, onnxruntime fp32", "x4.onnx, openvino fp32", "x4-sm80.plan"}
    for figures in found.values():
        assert figures["passed"]
        assert figures["PSNR between, dB"] is None
        assert figures["most levels"] == 0
        assert figures["LR megapixels/s"] > 0
    assert found["x4-sm80.plan"]["backend"] == "tensorrt-rtx fp16"


def test_other_pixels_show(make_plan: Any, nearest_onnx: Any) -> None:
    from onnx import helper

    darker = [
        helper.make_node("Constant", [], ["share"], value_float=0.9),
        helper.make_node("Mul", ["x", "share"], ["y"]),
    ]
    nearest_onnx("x4.onnx", io="uint8", extra=darker)
    made = make_plan("rtx", name="x4-portable.plan", seed=1)
    found = gpu_engines.run(made.path.parent, HERE[:1], 48)
    assert not found["x4-portable.plan"]["passed"]
    assert found["x4-portable.plan"]["most levels"] > 0


def test_a_plan_that_does_not_open_is_a_finding(make_plan: Any, nearest_onnx: Any) -> None:
    nearest_onnx("x4.onnx", io="uint8")
    made = make_plan("rtx", name="x4-sm80.plan")
    made.path.write_bytes(b"no plan")
    made.path.with_name("x4-sm80.plan.json").unlink()
    (figures,) = gpu_engines.run(made.path.parent, (), 48).values()
    assert figures["opens"] is False
    assert figures["error"]


def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_engines.main(["run", str(tmp_path), str(tmp_path / "out.json")]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_plans_to_carry(tmp_path: Path) -> None:
    """Of the real TensorRT-RTX."""
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    network = engine_path(None)
    assert gpu_engines.main(["prepare", str(tmp_path / "plans"), str(network)]) == 0
    for target in gpu_engines.TARGETS:
        manifest = read_manifest(tmp_path / "plans" / f"{network.stem}-{target}.plan")
        assert manifest is not None
        assert manifest.plan is not None
        assert manifest.plan.recipe.gpus == (target,)
