"""The table of GPUs: what is called how, what serves it, and what the roofline makes of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from srtool.errors import ExportError, UsageError
from srtool.export.flops import (
    GENERATORS,
    Cost,
    cost_from_onnx,
    megapixels_per_second,
    memory_of,
)
from srtool.export.tensorrt.builder import GENERATIONS
from srtool.export.tensorrt.gpus import (
    GPUS,
    SUPPORT,
    Gpu,
    Target,
    gpu_of_device,
    precision_for,
    serves,
    support_of,
    target_from_text,
    targets_from_texts,
)
from srtool.export.tensorrt.installing import PINNED
from srtool.networks.deployed import plain_module
from srtool.networks.generator import PRESETS, Generator
from srtool.networks.network import Network
from srtool.runtime.gpu.machine import Library, Machine

NOWHERE = Machine()


def named(name: str) -> Gpu:
    return next(gpu for gpu in GPUS if gpu.name == name)


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("1080 ti", "GTX 1080 Ti"),
        ("GTX 1080", "GTX 1080"),
        ("A100", "A100 40GB"),
        ("a100-80gb", "A100 80GB"),
        ("V100", "Tesla V100 16GB"),
        ("T4", "Tesla T4"),
        ("L4", "L4"),
        ("H100", "H100"),
    ],
)
def test_products(text: str, name: str) -> None:
    target = target_from_text(text, NOWHERE)
    assert target.name == name
    assert target.gpu == named(name)
    assert target.support.compute == target.gpu.compute


@pytest.mark.parametrize("text", ["sm89", "SM89", "sm_89", "8.9", " sm 89"])
def test_classes(text: str) -> None:
    assert target_from_text(text, NOWHERE) == Target(support_of("8.9"), "sm89", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("RTX 4900", ["did you mean RTX 4090", "sm89"]),
        ("GTX 1080 Tj", ["GTX 1080 Ti"]),
        ("Voodoo", ["no such GPU", "sm61"]),
        ("", ["no such GPU"]),
        ("sm99", ["no such class", "sm90", "sm121"]),
        ("local", ["no NVIDIA GPU", "try --gpu sm89"]),
    ],
)
def test_what_is_no_gpu(text: str, words: list[str], complains: Any) -> None:
    with complains(UsageError, text, "(--gpu)", *words):
        target_from_text(text, NOWHERE)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("Tesla V100-SXM2-16GB", "Tesla V100 16GB"),
        ("NVIDIA GeForce GTX 1660 Ti", "GTX 1660 Ti"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3080 Ti", None),
        ("NVIDIA GeForce GTX 1660 SUPER", None),
        ("AMD Radeon", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_names_that_devices_give_themselves(device: str, name: str | None) -> None:
    found = gpu_of_device(device)
    assert (found and found.name) == name


def test_the_gpu_of_this_machine(complains: Any) -> None:
    here = Machine("NVIDIA GeForce RTX 3080 Ti", "8.6", "580.1")
    assert target_from_text("local", here) == Target(support_of("8.6"), here.gpu, None)
    with complains(UsageError, "compute capability 5.2", "6.0"):
        target_from_text("local", Machine("GTX 980", "5.2", "580.1"))


@pytest.mark.parametrize("compute", ["7.2", "8.7", "10.3", "11.0"])
def test_a_gpu_that_the_table_does_not_know(compute: str) -> None:
    """Its machine has a TensorRT for it; no other library builds for it anywhere."""
    here = Machine("NVIDIA Thor", compute, "580.1")
    target = target_from_text("local", here)
    assert (target.support.compute, target.name) == (compute, here.gpu)
    assert serves(Library("tensorrt", "10.13.0"), target.support)
    assert not serves(Library("tensorrt-rtx", "1.7.1"), target.support)
    assert precision_for((target,))[0] == "fp16"


def test_portable() -> None:
    found = targets_from_texts(("portable",), NOWHERE)
    assert [target.support.compute for target in found] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
    assert all(target.support.rtx for target in found)
    with pytest.raises(UsageError):
        targets_from_texts(("portable", "sm89"), NOWHERE)


# Facts


def test_the_table_is_whole() -> None:
    classes = {support.compute for support in SUPPORT}
    assert {gpu.compute for gpu in GPUS} <= classes
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    wanted = ["GTX 1080 Ti", "GTX 1660", "RTX 2080 Ti", "T4", "V100", "A100", "RTX 3060"]
    for name in [*wanted, "RTX 3090", "L4", "RTX 4090", "H100", "H200", "RTX 5090"]:
        target_from_text(name, NOWHERE)
    assert {s.tensorrt[1] for s in SUPPORT if s.tensorrt[1]} == set(PINNED)
    for gpu in GPUS:
        ratio = gpu.fp16 / gpu.fp32
        slow = support_of(gpu.compute).compute == "6.1"
        assert ratio == pytest.approx(1 / 64, rel=0.03) if slow else 1.9 < ratio < 17


def test_half_precision_is_for_tensor_cores() -> None:
    chosen = {s.compute: precision_for((Target(s, s.sm),))[0] for s in SUPPORT}
    assert {compute for compute in chosen if chosen[compute] == "fp32"} == {"6.0", "6.1", "6.2"}
    pascal, ampere = (Target(support_of(compute), compute) for compute in ("6.1", "8.6"))
    precision, why = precision_for((ampere, pascal))
    assert (precision, "1/64" in why) == ("fp32", True)


@pytest.mark.parametrize(
    ("flavour", "version", "classes"),
    [
        ("tensorrt", "8.6.1", "6.0 6.1 6.2 7.0 7.5 8.0 8.6 8.9 9.0"),
        ("tensorrt", "10.4.0", "7.0 7.5 8.0 8.6 8.9 9.0"),
        ("tensorrt", "10.5.0", "7.5 8.0 8.6 8.9 9.0"),
        ("tensorrt", "10.9.0.34", "7.5 8.0 8.6 8.9 9.0 10.0 12.0"),
        ("tensorrt", "11.4.0.106", "7.5 8.0 8.6 8.9 9.0 10.0 12.0 12.1"),
        ("tensorrt-rtx", "1.7.1.116", "7.5 8.0 8.6 8.9 12.0 12.1"),
    ],
)
def test_which_library_serves_which_class(flavour: Any, version: str, classes: str) -> None:
    library = Library(flavour, version)
    assert [s.compute for s in SUPPORT if serves(library, s)] == classes.split()


def test_no_version_has_two_generations() -> None:
    spans = sorted((g.flavour, g.first, g.before) for g in GENERATIONS)
    for (flavour, _, before), (other, first, _) in pairwise(spans):
        assert flavour != other or before <= first


# Costs


def test_operations_are_those_that_pytorch_counts(generator_export: Any) -> None:
    module = plain_module(generator_export.network)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, 3, 64, 64))
    half = onnx.load(generator_export.folder / "x4.fp16.onnx")
    for name in ("x4.onnx", "x4.float32.onnx", "x4.fp16.onnx"):
        cost = cost_from_onnx(onnx.load(generator_export.folder / name))
        # PyTorch computes the gradient branch's own image as well, which export drops.
        unused = 2 * 16 * 4 * 3
        assert cost.flops == counter.get_total_flops() / 64**2 - unused
    assert cost_from_onnx(half).flops == cost.flops


@pytest.mark.parametrize("name", ["full", "fast"])
def test_costs_of_the_presets(name: str) -> None:
    with torch.device("meta"):
        network = Network(Generator(PRESETS[name]), 4, "srtool", None)  # type: ignore[arg-type]
        module = plain_module(network)
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 3, 64, 64))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # Here with the last convolution of the gradient branch, which export drops
    assert GENERATORS[name].flops == pytest.approx(counter.get_total_flops() / 64**2, rel=1e-2)
    assert GENERATORS[name].parameters == pytest.approx(parameters, rel=1e-2)


def small_graph(*nodes: Any, **shapes: Any) -> onnx.ModelProto:
    kind = TensorProto.FLOAT
    image = helper.make_tensor_value_info("image", kind, ["n", 3, "h", "w"])
    upscaled = helper.make_tensor_value_info("out", kind, None)
    weights = [
        helper.make_tensor(name, kind, shape, [0.5] * int(torch.tensor(shape).prod()))
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(list(nodes), "small", [image], [upscaled], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_a_graph_by_hand() -> None:
    model = small_graph(
        helper.make_node("Conv", ["image", "a"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("ConvTranspose", ["y", "b"], ["z"], strides=[2, 2]),
        helper.make_node("Conv", ["z", "c"], ["out"], group=2),
        a=(8, 3, 3, 3),
        b=(8, 4, 2, 2),
        c=(6, 2, 1, 1),
    )
    cost = cost_from_onnx(model)
    # By LR pixel: 8 values of 27 products, 8 values spread 16 times, 4 x 6 values of 2 products.
    assert cost.flops == 2 * (8 * 27 + 8 * 16 + 24 * 2)
    assert cost.moved == (3 + 8) + (8 + 16) + (16 + 24)
    assert cost.live == 16 + 24
    assert cost.parameters == 216 + 128 + 12


def test_products_of_matrices() -> None:
    model = small_graph(
        helper.make_node("Flatten", ["image"], ["x"], axis=3),
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("Gemm", ["b", "y"], ["out"], transA=1),
        a=(64, 5),
        b=(192, 2),
    )
    assert cost_from_onnx(model).flops == 2 * (192 * 5 * 64 + 2 * 5 * 192) / 64**2


def test_sizes_that_are_not_known(complains: Any) -> None:
    model = small_graph(
        helper.make_node("NonZero", ["image"], ["x"]),
        helper.make_node("Cast", ["x"], ["out"], to=TensorProto.FLOAT),
    )
    with complains(ExportError, "only when the network runs"):
        cost_from_onnx(model)


def test_rooflines() -> None:
    rrdb, pascal = GENERATORS["RRDB-23"], named("GTX 1080 Ti")
    assert rrdb.flops == pytest.approx(36e6, rel=0.01)
    assert megapixels_per_second(rrdb, pascal, "fp32") == pytest.approx(0.31, abs=0.01)
    assert megapixels_per_second(rrdb, pascal, "fp16") < 0.006
    published = {"RTX 4090": 2.4, "A100 40GB": 2.4, "RTX 3060": 0.57, "Tesla V100 16GB": 1.05}
    for name, measured in published.items():
        assert measured < megapixels_per_second(rrdb, named(name), "fp16") < 10 * measured
    copying = Cost(flops=1, moved=1e6, live=1, parameters=1)
    assert megapixels_per_second(copying, named("L4"), "fp32") == pytest.approx(0.075)


def test_memory() -> None:
    cost = Cost(flops=1, moved=1, live=100, parameters=1000)
    assert memory_of(cost, "fp32", 10) == 4 * (1000 + 1000)
    assert memory_of(cost, "fp16", 10) == 2 * (1000 + 1000)
