"""What a network costs, counted in its ONNX graph; what a GPU could make of that at best, and what
others published."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from srtool.errors import ExportError, UsageError
from srtool.export.tensorrt.gpus import Gpu

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BYTES = {"fp32": 4, "fp16": 2}
_SIDE = 64  # LR pixels of the image that is counted
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class Cost:
    """Of one network, per LR pixel but for the parameters.

    flops: of convolutions and matrix products, a multiplication and an addition each. moved:
    values that these read and write. live: values that are needed at the same time, at most.
    """

    flops: float
    moved: float
    live: float
    parameters: int


# `cost_from_onnx` of the paper's generator, of the one that ships, and of an ESRGAN, whose speed is
# published for many GPUs.
GENERATORS = {
    "full": Cost(flops=104_792_832, moved=151_030, live=12_288, parameters=24_777_804),
    "fast": Cost(flops=2_991_168, moved=5_558, live=323, parameters=1_498_268),
    "RRDB-23": Cost(flops=35_853_696, moved=63_283, live=2_048, parameters=16_697_991),
}


def cost_from_file(path: Path) -> Cost:
    """`cost_from_onnx` of an .onnx file. UsageError where it is none."""
    import onnx

    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected an .onnx file")
    try:
        model = onnx.load(path)
    except Exception:  # of protobuf, as onnx does not wrap them
        raise UsageError(f"{path}: is no ONNX model; expected a file of `srtool export`") from None
    if not model.graph.input:
        raise UsageError(f"{path}: has no input; expected a file of `srtool export`")
    return cost_from_onnx(model)


def cost_from_onnx(model: ModelProto) -> Cost:
    """Count a graph on an image of 64 x 64 LR pixels. ExportError where sizes are known only when
    it runs."""
    sizes = _sizes(model)
    constants = {item.name: prod(item.dims) for item in model.graph.initializer}
    kernels = {item.name: tuple(item.dims) for item in model.graph.initializer}
    last = {name: at for at, node in enumerate(model.graph.node) for name in node.input}
    flops = moved = 0
    live = peak = prod(sizes[model.graph.input[0].name])
    for at, node in enumerate(model.graph.node):
        try:
            read = [prod(sizes[name]) for name in node.input if name and name not in constants]
            made = [prod(sizes[name]) for name in node.output if name]
            if node.op_type in _PRODUCTS:
                flops += 2 * _products(node, {**kernels, **sizes})
                moved += sum(read) + sum(made)
        except KeyError as error:
            raise ExportError(
                f"the size of {error} ({node.op_type} {node.name}) is known only when the network "
                "runs, so that its cost cannot be counted"
            ) from None
        live += sum(made)
        peak = max(peak, live)
        ended = {name for name in node.input if last[name] == at and name in sizes}
        ended |= {name for name in node.output if name not in last}
        live -= sum(prod(sizes[name]) for name in ended)
    pixels = _SIDE * _SIDE
    parameters = sum(count for count in constants.values() if count > 1)
    return Cost(flops / pixels, moved / pixels, peak / pixels, parameters)


def _sizes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each value for one image of 64 x 64 pixels."""
    import onnx

    from srtool.export.graph import copied

    fixed = copied(model)
    del fixed.graph.value_info[:]
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, *(d.dim_value or _SIDE for d in dims[1:])), strict=True):
        dim.dim_value = size
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in shape):
            found[value.name] = tuple(d.dim_value for d in shape)
    return found


def _products(node: NodeProto, sizes: dict[str, tuple[int, ...]]) -> int:
    """Multiplications with accumulation."""
    left, right, out = sizes[node.input[0]], sizes[node.input[1]], sizes[node.output[0]]
    if node.op_type == "Conv":  # each output value sums a kernel over the channels of a group
        return prod(out) * prod(right[1:])
    if node.op_type == "ConvTranspose":  # each input value is spread by a kernel
        return prod(left) * prod(right[1:])
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return prod(out) * left[-2 if transposed else -1]


def megapixels_per_second(cost: Cost, gpu: Gpu, precision: Literal["fp32", "fp16"]) -> float:
    """The roofline: LR megapixels/s that arithmetic and memory allow. An engine reaches less."""
    rate = gpu.fp32 if precision == "fp32" else gpu.fp16
    arithmetic = rate * 1e12 / cost.flops
    memory = gpu.bandwidth * 1e9 / (cost.moved * BYTES[precision])
    return min(arithmetic, memory) / 1e6


def memory_of(cost: Cost, precision: Literal["fp32", "fp16"], pixels: int) -> int:
    """Bytes of weights, and of the values that are live at once over a batch of LR pixels."""
    return int((cost.parameters + cost.live * pixels) * BYTES[precision])


_VSGAN = "README of github.com/styler00dollar/VSGAN-tensorrt-docker (commit 43d4659)"
_COMFY = "README of github.com/yuvraj108c/ComfyUI-Upscaler-Tensorrt"


@dataclass(frozen=True)
class Published:
    """Of RRDB-23 (ESRGAN) at x4, which a roofline is to be held against. speed: LR
    megapixels/s. software, precision: empty where the source does not say."""

    gpu: str
    compute: str
    speed: float
    software: str
    precision: str
    source: str


PUBLISHED = (
    Published("GTX 1070 Ti", "6.1", 0.18, "TensorRT 8", "fp32", f"{_VSGAN}, rounded to one digit"),
    Published("RTX 3060 Ti", "8.6", 0.65, "TensorRT 8", "", f"{_VSGAN}, rounded to one digit"),
    Published("RTX 3090", "8.6", 1.4, "TensorRT", "", f"{_VSGAN}, of videos"),
    Published("RTX 4090", "8.9", 2.4, "TensorRT 9.1", "", f"{_VSGAN}, of videos"),
    Published("Tesla V100", "7.0", 1.05, "TensorRT 8.2", "", f"{_VSGAN}, of videos"),
    Published("A100", "8.0", 2.4, "TensorRT 8.2", "", f"{_VSGAN}, of videos"),
    Published(
        "L40S", "8.9", 1.31, "TensorRT 10.0", "fp16", f"{_COMFY} (2024), rounded to one digit"
    ),
    Published("H100", "9.0", 2.79, "TensorRT 10.8", "fp16", f"{_COMFY} (commit 04a88e4)"),
    Published(
        "Tesla P40", "6.1", 0.2, "PyTorch", "", "github.com/XPixelGroup/BasicSR, issue 48 (2019)"
    ),
)


def published_for(compute: str) -> list[Published]:
    """Of the GPUs with a compute capability, such as "6.1"."""
    return [item for item in PUBLISHED if item.compute == compute]
