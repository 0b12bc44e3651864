"""What is written, and that tritonclient reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from srtool.errors import EngineError, UsageError
from srtool.files import sha256
from srtool.manifest import Manifest, PlanFacts, PlanRecipe, Profile, read_manifest, write_manifest
from srtool.models import model_path
from srtool.runtime.opening import open_engine
from srtool.serving.triton.repository import write_repository


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())


@pytest.fixture
def plan(compact_engine: Path) -> Callable[..., Path]:
    """A plan beside the engine, as far as its manifest goes."""

    def written(name: str = "x4.plan", compute: tuple[str, ...] = ("8.9",), **more: Any) -> Path:
        path = compact_engine.with_name(name)
        path.write_bytes(name.encode())
        manifest = read_manifest(compact_engine)
        assert manifest is not None
        profiles = (
            Profile(min=(4, 256, 256), opt=(4, 256, 256), max=(4, 256, 256)),
            Profile(min=(1, 16, 16), opt=(1, 256, 256), max=(4, 256, 256)),
        )
        facts = PlanFacts(
            recipe=PlanRecipe(flavour=more.pop("flavour", "tensorrt"), profiles=profiles),
            onnx="x4.onnx",
            onnx_sha256="",
            version="10.3.0",
            cuda=12,
            compute=compute,
            gpu="",
            driver="",
            platform="linux x86_64",
            flags=(),
            seconds=1,
            key="",
            **more,
        )
        update = {"plan": facts, "sha256": sha256(path), "companion": None, "fidelity": {}}
        write_manifest(path, manifest.model_copy(update=update))
        return path

    return written


def test_onnx(compact_engine: Path, tmp_path: Path) -> None:
    written = write_repository([compact_engine], tmp_path / "models", "sr_x4", version=3)
    assert [model.name for model in written] == ["sr_x4", "sr_x4_pictures"]
    folder = tmp_path / "models/sr_x4"
    assert (folder / "3/model.onnx").read_bytes() == compact_engine.read_bytes()
    config = config_of(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("sr_x4", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    for tensor, name in ((config.input[0], "image"), (config.output[0], "upscaled")):
        assert (tensor.name, tensor.data_type, list(tensor.dims)) == (
            name,
            pb.TYPE_UINT8,
            [-1, -1, 3],
        )
    assert config.HasField("dynamic_batching")
    assert config.version_policy.latest.num_versions == 1
    assert config.model_warmup[0].inputs["image"].data_type == pb.TYPE_UINT8
    found = Manifest.model_validate_json(config.parameters["srtool"].string_value)
    assert found == read_manifest(compact_engine)
    assert "onnxruntime fp32: exact" in config.parameters["certified"].string_value


def test_pictures(compact_engine: Path, tmp_path: Path) -> None:
    write_repository([compact_engine], tmp_path / "models", "sr")
    folder = tmp_path / "models/sr_pictures"
    config = config_of(folder)
    assert config.backend == "python"
    assert {(tensor.name, tensor.optional, tensor.allow_ragged_batch) for tensor in config.input}
    assert [tensor.name for tensor in config.input] == ["image", "file"]
    assert all(tensor.optional and tensor.allow_ragged_batch for tensor in config.input)
    engine = folder / "1" / config.parameters["engine"].string_value
    with open_engine(engine) as opened:  # whole: with its manifest and companion
        assert opened.uncertified_reason == ""
        assert (folder / "1/x4.float32.onnx").is_file() or opened.facts.io == "float32"
    assert "srtool.serving.triton" in (folder / "1/model.py").read_text()


def test_a_shipped_network(tmp_path: Path) -> None:
    """Its companion takes its weights from the file beside it."""
    write_repository(["x4-fast"], tmp_path / "models")
    folder = tmp_path / "models/x4-fast_pictures/1"
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in model_path("x4-fast").parent.glob("x4-fast.*")} <= names


def test_weights_outside_the_file(compact_engine: Path, tmp_path: Path) -> None:
    """They go along under their name, and both copies open."""
    import onnx

    outside = tmp_path / "outside" / "net.onnx"
    outside.parent.mkdir()
    model = onnx.load(compact_engine)
    onnx.save(model, outside, save_as_external_data=True, location="net.data", size_threshold=64)
    write_repository([outside], tmp_path / "models", "net")
    image = np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), np.uint8)
    with open_engine(compact_engine) as opened:
        expected = opened.upscale_batch(image)
    for engine in ("net/1/model.onnx", "net_pictures/1/net.onnx"):
        with open_engine(tmp_path / "models" / engine) as opened:
            assert np.abs(opened.upscale_batch(image).astype(int) - expected).max() <= 1
    (outside.parent / "net.data").rename(outside.parent / "gone")
    with pytest.raises(EngineError) as caught:
        write_repository([outside], tmp_path / "more", "net")
    assert caught.value.path == outside.parent / "net.data"
    assert not (tmp_path / "more").exists()


def test_plans_of_two_gpus(compact_engine: Path, plan: Any, tmp_path: Path) -> None:
    ada, turing = plan("ada.plan"), plan("turing.plan", compute=("7.5",))
    written = write_repository([ada, turing, compact_engine], tmp_path / "models", "sr")
    assert [model.name for model in written] == ["sr", "sr_plan", "sr_pictures"]
    config = config_of(tmp_path / "models/sr_plan")
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {"8.9": "ada.plan", "7.5": "turing.plan"}
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 4]
    group = config.instance_group[0]
    assert (group.kind, list(group.profile)) == (pb.ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert config.parameters["tensorrt"].string_value == "10.3.0"
    assert (tmp_path / "models/sr_plan/1/turing.plan").read_bytes() == turing.read_bytes()


def test_what_triton_does_not_run(plan: Any, tmp_path: Path, compact_engine: Path) -> None:
    for engine, kind in (
        (plan("rtx.plan", flavour="tensorrt-rtx"), EngineError),
        (plan("stripped.plan", stripped=True), EngineError),
        (tmp_path / "nowhere.onnx", EngineError),
        (compact_engine.with_suffix(".pth"), EngineError),
    ):
        with pytest.raises(kind) as caught:
            write_repository([engine], tmp_path / "models")
        assert str(engine) in str(caught.value)
    assert not (tmp_path / "models").exists()


def test_wrong_arguments(compact_engine: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    for engines, name, version in (
        ([compact_engine], "a/b", 1),
        ([compact_engine], "", 1),
        ([compact_engine], "sr", 0),
        ([], "sr", 1),
        ([compact_engine, "x4-fast"], "sr", 1),
        ([compact_engine.with_name("x4.onnx"), compact_engine.with_name("copy.onnx")], "sr", 1),
    ):
        shutil.copy(compact_engine, compact_engine.with_name("copy.onnx"))
        with pytest.raises(UsageError):
            write_repository(engines, models, name, version)
    assert not models.exists()


def test_versions(compact_engine: Path, tmp_path: Path) -> None:
    """A second one beside the first; the same one again is refused and nothing is changed."""
    models = tmp_path / "models"
    write_repository([compact_engine], models, "sr")
    with pytest.raises(UsageError):
        write_repository([compact_engine], models, "sr")
    write_repository([compact_engine], models, "sr", version=2)
    assert {path.name for path in (models / "sr").iterdir()} == {"1", "2", "config.pbtxt"}


def test_command(run: Callable[..., Any], compact_engine: Path, tmp_path: Path) -> None:
    result = run("triton", compact_engine, tmp_path / "models", "--name", "sr_x4")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()] == [
        str(tmp_path / "models/sr_x4"),
        str(tmp_path / "models/sr_x4_pictures"),
    ]
    again = run("triton", compact_engine, tmp_path / "models", "--name", "sr_x4")
    assert again.code == 2
    assert "--version" in again.complaint


def test_a_file_without_manifest(compact_engine: Path, tmp_path: Path) -> None:
    compact_engine.with_name("x4.onnx.json").unlink()
    write_repository([compact_engine], tmp_path / "models", "sr")
    parameters = config_of(tmp_path / "models/sr").parameters
    assert parameters["certified"].string_value == "no"
    assert json.loads(parameters["srtool"].string_value)["model"]["scale"] == 4
