"""What choices are worth: measured on engines of the CPU, which stand for a GPU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gpu_choices
import gpu_install
import pytest

from srtool.manifest import PlanRecipe
from srtool.models import engine_path
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.gpu.machine import Machine
from srtool.runtime.onnx_files import open_on

ADA = Machine("NVIDIA GeForce RTX 4090", "8.9", "580.65.06")


def test_each_choice_is_held_against_the_first_of_its_library() -> None:
    path = engine_path(None)
    engines = {
        "onnxruntime, as it is": open_on(path, OnnxRuntime()),
        "onnxruntime, again": open_on(path, OnnxRuntime()),
        "openvino, as it is": open_on(path, OpenVino("fp32")),
    }
    found = gpu_choices.worth(engines, side=24, seconds=0.05)
    assert set(found) == set(engines)
    assert found["onnxruntime, as it is"]["over as it is"] == 1
    assert found["openvino, as it is"]["over as it is"] == 1
    low, high = found["onnxruntime, again"]["range"]
    assert 0 < low <= found["onnxruntime, again"]["over as it is"] <= high


def test_every_choice_is_a_recipe() -> None:
    recipes = [
        PlanRecipe(flavour="tensorrt", **(choice.recipe or {})) for choice in gpu_choices.PLANS
    ]
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)
    assert recipes[0] == PlanRecipe(flavour="tensorrt")


def test_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_choices, "this_machine", Machine)
    assert gpu_choices.main(["x4.onnx", "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("here", "wanted", "unwanted"),
    [
        (ADA, ["onnxruntime-gpu", "tensorrt", "cuda-python", "tensorrt-rtx-cu13-libs"], "numpy"),
        (Machine("T4", "7.5", "550.1"), ["onnxruntime-gpu", "tensorrt-cu12"], "tensorrt"),
        (Machine("GTX 1080 Ti", "6.1", "550.1"), ["nvidia-cudnn-cu12", "tensorrt"], "torch"),
    ],
)
def test_what_is_installed(here: Machine, wanted: list[str], unwanted: str) -> None:
    if "linux" not in here.platform:
        pytest.skip("names what Linux takes")
    from packaging.requirements import Requirement

    found: list[Any] = [Requirement(item) for item in gpu_install.requirements_for(here)]
    names = [item.name for item in found]
    assert set(wanted) <= set(names)
    assert unwanted not in names
