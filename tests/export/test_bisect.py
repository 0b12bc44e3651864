"""Overflow in float16: it shows on a CPU, its place is found, and a mixed graph mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from srtool.errors import ExportError
from srtool.export import onnx as onnx_export
from srtool.export.bisect import (
    Bisection,
    HalfGraph,
    bisect,
    blocks_from_nodes,
    modules_from_graph,
)
from srtool.export.certify import reference
from srtool.export.mixed import (
    EMULATED,
    emulated,
    emulated_session,
    half_nodes,
    mixed_from_half,
    model_from_file,
    open_model,
    write_mixed,
)
from srtool.export.onnx import onnx_from_network, weights_of
from srtool.images.colour import psnr
from srtool.manifest import ModelFacts, read_manifest
from srtool.networks.generator import Generator, GeneratorConfig
from srtool.networks.loading import load_network, save_generator
from srtool.networks.network import Network
from srtool.runtime.backends.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from srtool.networks.generator import DenseBlock

FACTS = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="test", halo=8)
PLANTED = "trunk.0.dense.1.convs.0"


class Case:
    """A network, its float16 graph and what `bisect` takes."""

    def __init__(self, network: Network, tile: NDArray[np.uint8]) -> None:
        self.network, self.tile = network, tile
        self.model = onnx_from_network(network, "uint8", "fp16")
        self.weights = weights_of(network)
        self.modules = modules_from_graph(self.model, network.module_names)
        self.half = HalfGraph(self.model, self.weights, self.modules)
        self.reference = reference(network, tile)
        self.names = [node.name for node in half_nodes(self.model)]

    def bisect(self, bound: float = 50.0, **more: Any) -> Bisection:
        return bisect(self.half, self.tile, self.reference, bound, **more)

    def mixed(self, nodes: Any) -> ModelProto:
        return mixed_from_half(self.model, self.weights, nodes)

    def psnr(self, model: ModelProto) -> float:
        return psnr(emulated_session(model, FACTS).run(self.tile[None])[0], self.reference)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Our generator with one convolution whose result is beyond 65504, though its weights are
    not; what reads it is scaled down, so that the function is an ordinary one."""
    config = GeneratorConfig(
        features=4,
        growth=2,
        blocks=1,
        taps=(1,),
        gradient_features=2,
        gradient_growth=1,
        hr_features=2,
        fusion_growth=1,
        image_skip=True,
        head="plain",
    )
    torch.manual_seed(0)
    generator = Generator(config)
    dense: DenseBlock = generator.trunk[0].dense[1]
    with torch.no_grad():
        first = dense.convs[0]
        scale = 5e4 / first.weight.abs().max()
        first.weight *= scale
        for reader in (*dense.convs[1:], dense.last):
            reader.weight[:, 4:6] /= scale
    path = tmp_path_factory.mktemp("planted") / "planted.safetensors"
    save_generator(path, generator, {})
    return Case(load_network(path), noise(24, 20))


@pytest.fixture(scope="module")
def compact(overflowing_weights: Path) -> Case:
    return Case(load_network(overflowing_weights), noise(24, 20))


# What float16 does, on a CPU


def test_onnxruntime_hides_an_overflow_and_the_emulation_shows_it(
    compact: Case, tmp_path: Path
) -> None:
    path = tmp_path / "x4.onnx"
    onnx.save(compact.model, path)
    plain = OnnxRuntime().open(path, FACTS).run(compact.tile[None])[0]
    shown = emulated_session(compact.model, FACTS).run(compact.tile[None])[0]
    if psnr(plain, compact.reference) < 30:
        pytest.skip("this ONNX Runtime rounds by itself: no emulation would be needed")
    assert psnr(shown, compact.reference) < 15


def test_every_value_of_the_emulation_is_a_float16(planted: Case) -> None:
    names = [name for node in half_nodes(planted.model) for name in node.output]
    found = open_model(emulated(planted.model), names)(planted.tile[None])[1:]
    assert len(found) == len(names) > 50
    for value in found:
        assert value.dtype == np.float32
        assert np.array_equal(value, value.astype(np.float16), equal_nan=True)
    assert any(np.isinf(value).any() for value in found)


def test_the_emulation_of_a_float32_graph_changes_nothing(planted: Case) -> None:
    everything = planted.mixed(planted.names)
    assert half_nodes(everything) == []
    casts = [node.attribute[0].i for node in everything.graph.node if node.op_type == "Cast"]
    assert TensorProto.FLOAT16 not in casts  # not even the gradient map is rounded
    assert np.array_equal(
        emulated_session(everything, FACTS).run(planted.tile[None]),
        open_model(everything)(planted.tile[None])[0],
    )


# Mixed graphs


def test_all_nodes_in_float32_do_what_the_network_does(planted: Case) -> None:
    gap = open_model(planted.mixed(planted.names))(planted.tile[None])[0][0] - planted.reference
    assert (np.abs(gap.astype(np.int8)) <= 1).all()
    assert (gap != 0).mean() < 1e-2


def test_no_node_in_float32_changes_nothing(planted: Case) -> None:
    same = planted.mixed([])
    assert [node.name for node in same.graph.node] == [n.name for n in planted.model.graph.node]
    assert half_nodes(same) == half_nodes(planted.model)


@pytest.mark.parametrize("step", [2, 3, 7])
def test_any_mixture_is_a_valid_graph(planted: Case, step: int) -> None:
    kept = planted.names[::step]
    mixed = onnx.shape_inference.infer_shapes(planted.mixed(kept), strict_mode=True)
    onnx.checker.check_model(mixed, full_check=True)
    assert [node.name for node in half_nodes(mixed)] == [
        name for name in planted.names if name not in kept
    ]
    types = {item.name: item.data_type for item in mixed.graph.initializer}
    for node in mixed.graph.node:
        if node.op_type == "Conv":
            wide = node.name in kept
            expected = TensorProto.FLOAT if wide else TensorProto.FLOAT16
            assert {types[name] for name in node.input[1:]} == {expected}
    open_model(mixed)


def test_float32_weights_are_the_networks_own(compact: Case) -> None:
    """Not those that float16 had rounded, or made infinite."""
    mixed = compact.mixed(compact.names)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in mixed.graph.initializer}
    name = "model.body.2.weight"
    assert np.array_equal(values[f"{name}.float32"], compact.weights[name])
    assert not np.array_equal(values[f"{name}.float32"], values[f"{name}.float32"].astype("f2"))


# The search


@pytest.fixture(scope="module")
def mended(planted: Case) -> Bisection:
    return planted.bisect()


def test_the_planted_overflow_is_found_and_mended(planted: Case, mended: Bisection) -> None:
    assert planted.psnr(planted.model) < 30
    assert mended.overflow is not None
    assert (mended.overflow.operation, mended.overflow.module) == ("Conv", PLANTED)
    assert planted.modules[mended.overflow.node] == PLANTED
    assert mended.blocks == ["trunk.0"]
    assert mended.before < 30
    assert mended.after == planted.psnr(planted.mixed(mended.float32_nodes)) >= 50


def test_no_node_can_be_left_out(planted: Case, mended: Bisection) -> None:
    kept = mended.float32_nodes
    assert 2 <= len(kept) <= 12  # of a dense block: what makes, carries and reads the values
    assert {planted.modules[name].rpartition(".dense.1")[0] for name in kept} == {"trunk.0"}
    for name in kept:
        assert planted.psnr(planted.mixed(kept - {name})) < 50


def test_a_tile_within_the_bound_is_to_get_better_still(planted: Case, mended: Bisection) -> None:
    lines: list[str] = []
    more = planted.bisect(given=mended.float32_nodes, report=lines.append)
    assert more.float32_nodes > mended.float32_nodes
    assert more.overflow is None
    assert more.after >= more.before + 3 >= 53
    assert all("\n" not in line for line in lines)
    assert lines[0].startswith(f"{more.blocks[0]} goes wrong")


def test_harm_by_rounding_alone(compact_weights: Path, tmp_path: Path) -> None:
    state = torch.load(compact_weights, weights_only=True)["params"]
    state["body.0.weight"] *= 2e4  # within float16, but what reads it is below it
    state["body.0.bias"] *= 2e4
    state["body.2.weight"] /= 5e6
    state["body.3.weight"] = state["body.3.weight"].clamp(min=0.2)
    state["body.4.weight"] *= 250
    torch.save({"params": state}, tmp_path / "weights.pth")
    case = Case(load_network(tmp_path / "weights.pth"), noise(24, 20) // 8)
    found = case.bisect(60.0)
    assert found.before < 60 <= found.after
    assert found.overflow is None
    assert found.blocks == ["body.2"]
    assert {case.modules[name] for name in found.float32_nodes} == {"body.2"}


def test_another_network(planted: Case) -> None:
    other = 255 - planted.reference
    with pytest.raises(ExportError, match="other weights"):
        bisect(planted.half, planted.tile, other, 50.0)


# Blocks


def test_modules_of_nodes(planted: Case) -> None:
    modules = dict.fromkeys(planted.modules[name] for name in planted.names)
    expected = {name for name, module in planted.network.module.named_modules()
                if isinstance(module, torch.nn.Conv2d)} - {"gradient_out"}  # fmt: skip
    assert set(modules) == expected
    by_name = {node.name: node for node in planted.model.graph.node}
    maker = {name: node.name for node in by_name.values() for name in node.output}
    for name in planted.names:
        if by_name[name].op_type == "LeakyRelu":
            assert planted.modules[name] == planted.modules[maker[by_name[name].input[0]]]


def test_blocks_are_rrdbs(planted: Case) -> None:
    blocks = blocks_from_nodes(planted.names, planted.modules)
    assert set(blocks) == {
        "head", "gradient_head", "trunk.0", "trunk_conv", "upsampler",
        "gradient_blocks.0", "gradient_conv", "gradient_upsampler", "fusion",
    }  # fmt: skip
    assert sorted(name for inside in blocks.values() for name in inside) == sorted(planted.names)


def test_large_blocks_are_divided() -> None:
    modules = {f"{block}.{n}": f"model.1.sub.{block}.RDB1.conv{n}" for block in range(3)
               for n in range(30)}  # fmt: skip
    modules |= {"first": "model.0", "last": "model.1.sub.3"}
    blocks = blocks_from_nodes(list(modules), modules)
    sizes = {name: len(inside) for name, inside in blocks.items()}
    numbers = {f"model.1.sub.{block}": 30 for block in range(3)}
    assert sizes == {"model.0": 1, **numbers, "model.1.sub.3": 1}


# Files


@pytest.fixture(scope="module")
def exported(
    overflowing_weights: Path, hr_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """x4.onnx in float16, forced."""
    path = tmp_path_factory.mktemp("forced") / "x4.onnx"
    config = onnx_export.ExportConfig("fp16", "uint8", hr_images, True)
    onnx_export.export(load_network(overflowing_weights), path, config)
    return path


def test_the_export_refuses_it_and_names_the_next_step(
    overflowing_weights: Path, hr_images: Path, tmp_path: Path, complains: Any
) -> None:
    path, network = tmp_path / "x4.onnx", load_network(overflowing_weights)
    words = ("x4.onnx", "GPU", "expected at least 50", "--force", "srtool verify")
    with complains(ExportError, *words):
        onnx_export.export(network, path, onnx_export.ExportConfig("fp16", "float32", hr_images))
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_forced_file_says_how_it_fails(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest is not None
    assert not manifest.fidelity[str(EMULATED)].passed
    assert read_manifest(exported.with_name("x4.float32.onnx")) is not None


def test_a_mixed_file_stands_by_itself(
    exported: Path, overflowing_weights: Path, compact: Case, tmp_path: Path
) -> None:
    parent = read_manifest(exported)
    assert parent is not None
    kept = compact.bisect().float32_nodes
    named = tuple(dict.fromkeys(compact.modules[name] for name in compact.names if name in kept))
    found = parent.fidelity[str(EMULATED)].model_copy(update={"psnr_between": 60.0})
    path = tmp_path / "x4.mixed.onnx"
    written = write_mixed(path, compact.mixed(kept), parent, named, found)
    assert read_manifest(path) == written
    assert (written.model.precision, written.companion) == ("mixed", "x4.float32.onnx")
    assert written.model.float32_modules == ("body.0", "body.2")
    assert written.fidelity == {str(EMULATED): found}
    assert compact.psnr(model_from_file(path)) >= 50
    out = OnnxRuntime().open(path, FACTS).run(compact.tile[None])[0]
    assert psnr(out, compact.reference) >= 50


def test_a_file_without_float16(exported: Path, complains: Any) -> None:
    with complains(ExportError, "x4.float32.onnx", "float16"):
        model_from_file(exported.with_name("x4.float32.onnx"))
