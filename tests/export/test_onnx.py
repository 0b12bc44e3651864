"""ONNX files: they do what the network does, stand on their own, and appear whole or not at all."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import nn

from srtool.errors import DataError, ExportError
from srtool.export import onnx as onnx_export
from srtool.export.onnx import ExportConfig
from srtool.export.trace import Traced
from srtool.manifest import METADATA_KEY, read_manifest, sidecar
from srtool.networks.generator import Generator, GeneratorConfig
from srtool.networks.loading import load_network, save_generator
from srtool.networks.network import Network
from srtool.runtime.backends.openvino import OpenVinoSession
from srtool.runtime.opening import open_engine

SIZES = [(1, 5, 3), (1, 24, 40), (3, 17, 9)]


def images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(batch * height + width)
    return random.integers(0, 256, (batch, height, width, 3)).astype(np.uint8)


def expected_of(network: Network, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What PyTorch makes of it: (N, 3, 4H, 4W) float32."""
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
        found: NDArray[np.float32] = network.upscale(x).numpy()
    return found


def run(path: Path, batch: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [item.name for item in session.get_inputs()]
    result: NDArray[Any] = session.run(None, {name: batch})[0]
    return result


def assert_does_what_the_network_does(network: Network, path: Path, io: str, peak: int = 1) -> None:
    for size in SIZES:
        image = images(*size)
        expected = expected_of(network, image)
        if io == "float32":
            found = run(path, np.float32(image.transpose(0, 3, 1, 2)) / np.float32(255))
            assert found.dtype == np.float32
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-5
            continue
        found = run(path, image)
        levels = np.rint(expected.transpose(0, 2, 3, 1).clip(0, 1) * 255)
        assert found.dtype == np.uint8
        assert found.shape == levels.shape
        gap = np.abs(found - levels)
        assert gap.max() <= peak
        assert peak > 1 or (gap > 0).mean() < 1e-3


def dims(value: Any) -> list[int | str]:
    shape = value.type.tensor_type.shape
    return [d.dim_param if d.HasField("dim_param") else d.dim_value for d in shape.dim]


def assert_stands_alone(path: Path, io: str) -> ModelProto:
    """Valid, free sizes, all shapes inferred, with the facts, and without a trace of here."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [item.version for item in model.opset_import if item.domain == ""] == [18]
    assert {item.domain for item in model.opset_import} <= {""}

    (image,), (upscaled,) = model.graph.input, model.graph.output
    assert (image.name, upscaled.name) == ("image", "upscaled")
    kind = TensorProto.UINT8 if io == "uint8" else TensorProto.FLOAT
    for value in (image, upscaled):
        assert value.type.tensor_type.elem_type == kind
        sizes = dims(value)
        channels = 3 if io == "uint8" else 1
        assert sizes.pop(channels) == 3
        assert all(isinstance(size, str) for size in sizes), sizes

    known = {item.name: item for item in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        for output in node.output:
            assert known[output].type.tensor_type.elem_type, f"{output} has no type"
            assert known[output].type.tensor_type.HasField("shape"), f"{output} has no shape"

    (facts,) = [item for item in model.metadata_props if item.key == METADATA_KEY]
    manifest = read_manifest(path)
    assert manifest is not None
    assert json.loads(facts.value) == manifest.model.model_dump(mode="json")
    assert manifest.model.io == io

    content = path.read_bytes() + sidecar(path).read_bytes()
    for trace in ("/work", "/tmp", "/home", "site-packages", "Traceback", sys.prefix, path.parent):
        assert str(trace).encode() not in content, trace
    return model


def assert_is_fit_for_tensorrt(model: ModelProto) -> None:
    """Cast first, transpose after; transpose, then cast at the end."""
    (first,) = readers(model, "image")
    assert first.op_type == "Cast"
    assert [node.op_type for node in readers(model, first.output[0])] == ["Transpose"]
    (last,) = [node for node in model.graph.node if "upscaled" in node.output]
    assert last.op_type == "Cast"
    (before,) = [node for node in model.graph.node if last.input[0] in node.output]
    assert before.op_type == "Transpose"


def readers(model: ModelProto, name: str) -> list[NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def initialiser_types(model: ModelProto) -> set[int]:
    """Of all weights and biases; numbers and shapes have one value or are whole."""
    return {item.data_type for item in model.graph.initializer if np.prod(item.dims) > 8}


# Our generator


def test_generator_files(generator_export: Any) -> None:
    names = ["x4.float32.onnx", "x4.onnx", "x4.fp16.onnx"]
    assert [item.path.name for item in generator_export.written] == names
    beside = {"tiny.safetensors", *names, *(f"{name}.json" for name in names)}
    found = {path.name for path in generator_export.folder.iterdir() if path.suffix != ".lock"}
    assert found == beside
    for item in generator_export.written:
        assert item.manifest == read_manifest(item.path)
        assert item.manifest.companion == (None if "float32" in item.path.name else names[0])
        assert item.manifest.opset == 18
        model = item.manifest.model
        assert (model.scale, model.architecture, model.training) == (4, "srtool", {"steps": 7})
        assert model.weights == "tiny.safetensors"
        assert model.precision == ("fp16" if "fp16" in item.path.name else "fp32")
        assert item.manifest.fidelity["onnxruntime fp32"].images == 2
    halos = {item.manifest.model.halo for item in generator_export.written}
    assert len(halos) == 1
    assert halos.pop() >= 4


@pytest.mark.parametrize(("name", "io"), [("x4.float32.onnx", "float32"), ("x4.onnx", "uint8")])
def test_generator_in_fp32(generator_export: Any, name: str, io: str) -> None:
    path = generator_export.folder / name
    model = assert_stands_alone(path, io)
    if io == "uint8":
        assert_is_fit_for_tensorrt(model)
    assert initialiser_types(model) == {TensorProto.FLOAT}
    assert_does_what_the_network_does(generator_export.network, path, io)


def test_generator_in_fp16(generator_export: Any) -> None:
    path = generator_export.folder / "x4.fp16.onnx"
    model = assert_stands_alone(path, "uint8")
    assert_is_fit_for_tensorrt(model)
    assert initialiser_types(model) == {TensorProto.FLOAT16}
    known = {item.name: item.type.tensor_type.elem_type for item in model.graph.value_info}
    kinds = {
        kind: {known[node.output[0]] for node in model.graph.node if node.op_type == kind}
        for kind in ("Sqrt", "Conv", "LeakyRelu", "Round")
    }
    half, single = {TensorProto.FLOAT16}, {TensorProto.FLOAT}
    assert kinds == {"Sqrt": single, "Conv": half, "LeakyRelu": half, "Round": single}
    assert_does_what_the_network_does(generator_export.network, path, "uint8", peak=2)


def test_generator_keeps_no_useless_product(generator_export: Any) -> None:
    model = onnx.load(generator_export.folder / "x4.onnx")
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    products = [
        float(constants[name])
        for node in model.graph.node
        if node.op_type == "Mul"
        for name in node.input
        if name in constants and constants[name].size == 1
    ]
    # Three outer scales of RRDBs, pixels in and out of units of 1/256, units of the gradient map.
    found = Counter(round(value, 4) for value in products)
    assert found == Counter([0.2] * 3 + [0.0039, 256.0, 1.0039])


def test_generator_without_gradient_branch(hr_images: Path, tmp_path: Path) -> None:
    config = GeneratorConfig(
        features=4, growth=2, blocks=1, taps=(), hr_features=4, image_skip=True
    )
    torch.manual_seed(0)
    generator = Generator(config)
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    save_generator(tmp_path / "tiny.safetensors", generator, {})
    network = load_network(tmp_path / "tiny.safetensors")
    config = onnx_export.ExportConfig("both", "float32", hr_images)
    single, half = onnx_export.export(network, tmp_path / "x4.onnx", config)
    assert single.manifest.fidelity["onnxruntime fp32"].grade == "exact"
    assert half.manifest.fidelity["onnxruntime fp32"].grade in ("exact", "faithful")
    model = assert_stands_alone(single.path, "float32")
    assert "Sqrt" not in {node.op_type for node in model.graph.node}
    assert_does_what_the_network_does(network, single.path, "float32")


# Other people's networks


def test_real_weights(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_network(shared / "weights" / "realesr-animevideov3.pth")
    written = onnx_export.export(network, tmp_path / "x4.onnx")
    model = assert_stands_alone(tmp_path / "x4.onnx", "uint8")
    assert_is_fit_for_tensorrt(model)
    assert_stands_alone(tmp_path / "x4.float32.onnx", "float32")
    assert_does_what_the_network_does(network, tmp_path / "x4.onnx", "uint8")
    assert_does_what_the_network_does(network, tmp_path / "x4.float32.onnx", "float32")
    assert written[-1].manifest.model.architecture == "RealESRGAN Compact"
    assert written[-1].manifest.fidelity["onnxruntime fp32"].grade == "exact"
    # Pixels in and out of units of 1/256, and nothing in between.
    assert [node.op_type for node in model.graph.node].count("Mul") == 2
    assert capsys.readouterr() == ("", "")


def test_esrgan(esrgan_network: Network, hr_images: Path, tmp_path: Path) -> None:
    assert esrgan_network.architecture == "ESRGAN"
    config = onnx_export.ExportConfig(io="float32", images=hr_images)
    (item,) = onnx_export.export(esrgan_network, tmp_path / "x4.onnx", config)
    assert item.rewrites == {"scale folded into convolution": 3}
    assert_stands_alone(item.path, "float32")
    assert_does_what_the_network_does(esrgan_network, item.path, "float32")


# What is left on disk


Make = Callable[..., list[onnx_export.Written]]


@pytest.fixture
def make(
    monkeypatch: pytest.MonkeyPatch, compact_weights: Path, compact_export: Path, hr_images: Path
) -> Make:
    """Export the compact network with models made before; `damage` names the file whose weights
    come out wrong."""
    network = load_network(compact_weights)
    drafts, once = onnx_export.drafts, onnx_export.traced_from_network(network)

    def traced(network: Network, report: Any) -> Traced:
        model = ModelProto()
        model.CopyFrom(once.model)
        return Traced(model, once.exporter)

    def export(out: Path, *arguments: Any, damage: str = "none", **options: Any) -> Any:
        def damaged(
            network: Network, out: Path, config: ExportConfig, report: Any
        ) -> list[onnx_export.Draft]:
            files = drafts(network, out, config, report)
            for draft in files:
                if damage in (draft.facts.io, draft.facts.precision):
                    weights = draft.model.graph.initializer
                    (weight,) = [item for item in weights if list(item.dims) == [48, 8, 3, 3]]
                    values = numpy_helper.to_array(weight)
                    wrong = values + np.asarray(0.01, values.dtype)
                    weight.CopyFrom(numpy_helper.from_array(wrong, weight.name))
            return files

        monkeypatch.setattr(onnx_export, "drafts", damaged)
        monkeypatch.setattr(onnx_export, "traced_from_network", traced)
        report = options.pop("report", lambda line: None)
        config = ExportConfig(*arguments, **{"images": hr_images, **options})
        return onnx_export.export(network, out, config, report)

    return export


def names(folder: Path) -> set[str]:
    """Without what stands for a lock."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (("fp32", "uint8"), {"x4.onnx", "x4.float32.onnx"}),
        (("fp16", "uint8"), {"x4.onnx", "x4.float32.onnx"}),
        (("both", "uint8"), {"x4.onnx", "x4.fp16.onnx", "x4.float32.onnx"}),
        (("fp32", "float32"), {"x4.onnx"}),
        (("fp16", "float32"), {"x4.onnx"}),
        (("both", "float32"), {"x4.onnx", "x4.fp16.onnx"}),
    ],
)
def test_names(make: Make, tmp_path: Path, arguments: Any, files: set[str]) -> None:
    written = make(tmp_path / "new" / "x4.onnx", *arguments)
    assert names(tmp_path / "new") == files | {f"{name}.json" for name in files}
    for item in written:
        assert item.manifest.companion == (
            "x4.float32.onnx"
            if arguments[1] == "uint8" and "float32" not in item.path.name
            else None
        )
        open_engine(item.path, "onnxruntime")


@pytest.mark.parametrize("damage", ["float32", "uint8", "fp16"])
def test_a_file_that_fails_leaves_nothing(
    make: Make, tmp_path: Path, complains: Any, damage: str
) -> None:
    with complains(ExportError, "x4.", "does not do what the network does", "--force"):
        make(tmp_path / "x4.onnx", "both", damage=damage)
    assert names(tmp_path) == set()


def test_a_file_that_fails_leaves_the_old_one(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "x4.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ExportError):
        make(tmp_path / "x4.onnx", damage="uint8")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_force_keeps_what_fails_and_says_so(make: Make, tmp_path: Path) -> None:
    written = make(tmp_path / "x4.onnx", damage="uint8", force=True)
    assert names(tmp_path) == {
        "x4.onnx", "x4.onnx.json", "x4.float32.onnx", "x4.float32.onnx.json"
    }  # fmt: skip
    manifest = read_manifest(tmp_path / "x4.onnx")
    assert manifest == written[-1].manifest
    assert manifest is not None
    assert {found.grade for found in manifest.fidelity.values()} == {"lossy"}
    assert written[0].manifest.fidelity["onnxruntime fp32"].grade == "exact"


def test_a_backend_that_does_not_run_it_is_recorded_and_not_chosen(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Any:
        raise RuntimeError("[cpu]reshape: 1.61.47.60\nconflicts")

    monkeypatch.setattr(OpenVinoSession, "run", fails)
    lines: list[str] = []
    manifest = make(tmp_path / "x4.onnx", report=lines.append)[-1].manifest
    assert set(manifest.fidelity) == {"onnxruntime fp32"}
    assert manifest.fails["openvino fp32"] == "[cpu]reshape: 1.61.47.60 conflicts"
    assert any("openvino fp32" in line for line in lines)
    assert open_engine(tmp_path / "x4.onnx").backend.library == "onnxruntime"
    asked = open_engine(tmp_path / "x4.onnx", "openvino", precision="fp32")
    assert "reshape" in asked.uncertified_reason


@pytest.mark.parametrize("at", range(3))
def test_an_interrupt_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > at:
            raise KeyboardInterrupt
        return found(*arguments)

    found = onnx_export.certify.fidelity
    monkeypatch.setattr(onnx_export.certify, "fidelity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "x4.onnx", "both")
    assert names(tmp_path) == set()


def test_nothing_is_written_without_images_to_certify_with(
    make: Make, tmp_path: Path, complains: Any
) -> None:
    with complains(DataError, tmp_path / "none"):
        make(tmp_path / "out" / "x4.onnx", images=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_steps_are_reported(make: Make, tmp_path: Path) -> None:
    lines: list[str] = []
    make(tmp_path / "x4.onnx", report=lines.append)
    assert all("\n" not in line for line in lines)
    assert any("x4.onnx" in line for line in lines)
