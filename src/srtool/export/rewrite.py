"""Exact rewrites of a traced graph: the same function, fewer operations, pixels in and out.

They work on the ONNX graph, so that they serve both exporters and files of others alike. The head
fold, which needs to know the architecture, is `srtool.networks.generator.fold_head`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from srtool.export.graph import FLOAT, Graph, copied

Io = Literal["uint8", "float32"]
_Operation = tuple[str, list[str], str, dict[str, Any]]

# Our graphs carry colours in units of 1/256: pixel values are whole numbers times a power of two,
# hence exact in bfloat16 and float16 alike, and an image skip loses nothing in either.
PIXEL_UNIT = 255 / 256


def fold_constants(model: ModelProto) -> dict[str, int]:
    """Fold batch norms and constant scales into convolutions, in place.

    Returns how often each rewrite applied, by name.
    """
    graph = Graph(model)
    applied = {"batch norm folded into convolution": 0, "scale folded into convolution": 0}
    for node in list(graph.nodes):
        affine = _batch_norm(graph, node) or _scale(graph, node)
        if affine is None:
            continue
        convolution, scale, shift = affine
        _scale_convolution(graph, convolution, scale, shift)
        graph.remove(node)
        convolution.output[0] = node.output[0]
        graph.index()
        kind = "batch norm" if node.op_type == "BatchNormalization" else "scale"
        applied[f"{kind} folded into convolution"] += 1
    graph.finish()
    return {name: count for name, count in applied.items() if count}


def cut_by_index(model: ModelProto) -> dict[str, int]:
    """Turn what cuts a padded image back to its sides (x[:, :, :h, :w]) into a choice of its rows
    and columns, in place, where another padding follows whose width is computed.

    OpenVINO 2026.4 takes such a cut for no cut when it computes sizes, and pads the next time by
    nothing. Returns how often that applied.
    """
    graph = Graph(model)
    computed = [
        node.op_type == "Pad" and node.input[1] not in graph.constants for node in graph.nodes
    ]
    count = 0
    for number, node in enumerate(list(graph.nodes)):
        axis = _cut_axis(graph, node)
        if axis is None or not any(computed[number:]):
            continue
        start, step, shape = (
            graph.constant(np.array(value, np.int64), f"{node.name}.{part}")
            for part, value in (("start", 0), ("step", 1), ("scalar", []))
        )
        end, rows = (graph.fresh(f"{node.name}.{part}") for part in ("end", "rows"))
        for each in (
            helper.make_node("Reshape", [node.input[2], shape], [end]),
            helper.make_node("Range", [start, end, step], [rows]),
            helper.make_node("Gather", [node.input[0], rows], list(node.output), axis=axis),
        ):
            each.name = each.output[0]
            graph.insert(node, each)
        graph.remove(node)
        count += 1
    graph.finish()
    return {"cut by index": count} if count else {}


def _cut_axis(graph: Graph, node: NodeProto) -> int | None:
    """The axis of rows or columns that a Slice cuts from its start to a side that the graph read
    somewhere; None for every other node."""
    if node.op_type != "Slice" or node.input[2] in graph.constants or len(node.input) < 4:
        return None
    start, axes, *steps = (
        graph.whole_numbers(name) for name in (node.input[1], *node.input[3:]) if name
    )
    if start != [0] or axes not in ([2], [3]) or any(step != [1] for step in steps):
        return None
    side = graph.maker.get(node.input[2])
    while side is not None and side.op_type in ("Unsqueeze", "Reshape", "Cast"):
        side = graph.maker.get(side.input[0])
    read = graph.maker.get(side.input[0]) if side is not None and side.op_type == "Gather" else None
    return axes[0] if read is not None and read.op_type == "Shape" else None


def _private_convolution(graph: Graph, name: str) -> NodeProto | None:
    node = graph.maker.get(name)
    if node is None or node.op_type != "Conv" or not graph.is_private(name):
        return None
    constant = all(graph.values(item) is not None for item in node.input[1:] if item)
    return node if constant else None


def _scale(
    graph: Graph, node: NodeProto
) -> tuple[NodeProto, NDArray[np.float64], NDArray[np.float64]] | None:
    """conv * number: the residual scale of dense blocks."""
    if node.op_type != "Mul":
        return None
    for value, factor in ((0, 1), (1, 0)):
        number = graph.values(node.input[factor])
        convolution = _private_convolution(graph, node.input[value])
        if number is not None and number.size == 1 and convolution is not None:
            return convolution, number.reshape(1), np.zeros(1)
    return None


def _batch_norm(
    graph: Graph, node: NodeProto
) -> tuple[NodeProto, NDArray[np.float64], NDArray[np.float64]] | None:
    """conv followed by batch normalisation as it is at inference."""
    if node.op_type != "BatchNormalization" or len([n for n in node.output if n]) > 1:
        return None
    convolution = _private_convolution(graph, node.input[0])
    values = [graph.values(name) for name in node.input[1:]]
    if convolution is None or any(value is None for value in values):
        return None
    gain, offset, mean, variance = (np.asarray(value) for value in values)
    eps = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    scale = gain / np.sqrt(variance + eps)
    return convolution, scale, offset - mean * scale


def _scale_convolution(
    graph: Graph, node: NodeProto, scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> None:
    """y = scale * conv(x) + shift, by output channel, in the convolution's own constants."""
    weight = graph.values(node.input[1])
    bias = graph.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    assert weight is not None
    graph.set_values(node, 1, weight * scale.reshape(-1, 1, 1, 1))
    if bias is not None or shift.any():
        channels = np.zeros(weight.shape[0])
        graph.set_values(node, 2, (channels if bias is None else bias) * scale + shift)


# Operations that commute with a factor, by how many of their inputs carry it.
_LINEAR = {
    "DepthToSpace": 1,
    "Resize": 1,
    "Slice": 1,
    "Transpose": 1,
    "Reshape": 1,
    "Identity": 1,
    "Add": 2,
    "Sub": 2,
}


def change_units(model: ModelProto, unit: float = PIXEL_UNIT) -> None:
    """Turn f into g(u) = unit * f(u / unit), in place, without a multiplication on the way where
    that can be avoided: the last convolution takes the factor, the first ones its inverse, and
    an image skip between them passes the pixels through untouched.
    """
    graph = Graph(model)
    skips: set[tuple[int, int]] = set()
    result = graph.output
    end = helper.make_node("Identity", [result], [f"{result}.units"], "node_units")
    graph.nodes.append(end)
    graph.index()
    graph.shared.discard(result)
    _push(graph, result, end, unit, skips)
    colours = ""
    for reader in list(dict.fromkeys(map(id, graph.readers.get(graph.input, ())))):
        node = next(each for each in graph.nodes if id(each) == reader)
        if all(
            (id(node), index) in skips
            for index, name in enumerate(node.input)
            if name == graph.input
        ):
            continue
        weight = graph.values(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and node.input[0] == graph.input:
            graph.set_values(node, 1, weight / unit)
            continue
        if not colours:
            colours = graph.fresh(f"{graph.input}.colours")
            inverse = graph.constant(np.array(1 / unit, np.float32), "unit.inverse")
            graph.insert(
                graph.nodes[0],
                helper.make_node("Mul", [graph.input, inverse], [colours], f"units_{colours}"),
            )
        for index, name in enumerate(node.input):
            if name == graph.input and (id(node), index) not in skips:
                node.input[index] = colours
    _rename(graph, end.input[0], result)
    graph.remove(end)
    graph.finish()


def _rename(graph: Graph, made: str, result: str) -> None:
    """Give the value that ends the graph the name of its output."""
    if made == result:
        return
    spare = graph.fresh(f"{result}.before")
    for old, new in ((result, spare), (made, result)):
        for node in graph.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]


def _push(
    graph: Graph, name: str, reader: NodeProto, unit: float, skips: set[tuple[int, int]]
) -> None:
    """Multiply what `reader` gets under a name by unit, as far up the graph as it goes."""
    node = graph.maker.get(name)
    convolution = _private_convolution(graph, name)
    constant = graph.values(name)
    if name == graph.input:
        skips.update((id(reader), at) for at, each in enumerate(reader.input) if each == name)
    elif constant is not None:
        index = next(index for index, each in enumerate(reader.input) if each == name)
        graph.set_values(reader, index, constant * unit)
    elif convolution is not None:
        _scale_convolution(graph, convolution, np.full(1, unit), np.zeros(1))
    elif node is not None and _carries(graph, node, name):
        for given in dict.fromkeys(node.input[: _LINEAR[node.op_type]]):  # once for x + x
            _push(graph, given, node, unit, skips)
    else:
        scaled = graph.fresh(f"{name}.units")
        factor = graph.constant(np.array(unit, np.float32), "unit")
        graph.insert(reader, helper.make_node("Mul", [name, factor], [scaled], f"units_{scaled}"))
        graph.readers[name] = [each for each in graph.readers[name] if each is not reader]
        reader.input[:] = [scaled if each == name else each for each in reader.input]


def _carries(graph: Graph, node: NodeProto, name: str) -> bool:
    return node.op_type in _LINEAR and graph.is_private(name) and len(node.output) == 1


def with_pixels(model: ModelProto, io: Io, batch: int | None = None) -> ModelProto:
    """A graph in units of 1/256, with the pixels' formats before and after it.

    io "uint8": (N, H, W, 3) uint8 -> (N, sH, sW, 3) uint8. TensorRT accepts uint8 only with a cast
    as the first and the last node: cast first, transpose after; transpose first, cast last.
    io "float32": (N, 3, H, W) float32 0..1 -> (N, 3, sH, sW) float32, not clamped.
    """
    framed = copied(model)
    graph = framed.graph
    image, upscaled = graph.input[0].name, graph.output[0].name
    inside = {image: f"{image}.units", upscaled: f"{upscaled}.units"}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    before: list[_Operation]
    after: list[_Operation]
    if io == "float32":
        before = [("Mul", [image, "pixel.unit"], inside[image], {})]
        after = [("Mul", [inside[upscaled], "pixel.unit.inverse"], upscaled, {})]
        numbers = {"pixel.unit": PIXEL_UNIT, "pixel.unit.inverse": 1 / PIXEL_UNIT}
        kind, axes = FLOAT, [batch or "batch", 3, "height", "width"]
    else:
        before = [
            ("Cast", [image], "pixels.float", {"to": FLOAT}),
            ("Transpose", ["pixels.float"], "pixels.planes", {"perm": [0, 3, 1, 2]}),
            ("Mul", ["pixels.planes", "level"], inside[image], {}),
        ]
        after = [
            ("Mul", [inside[upscaled], "levels"], "levels.exact", {}),
            ("Round", ["levels.exact"], "levels.whole", {}),
            ("Clip", ["levels.whole", "level.least", "level.most"], "levels.clipped", {}),
            ("Transpose", ["levels.clipped"], "levels.pixels", {"perm": [0, 2, 3, 1]}),
            ("Cast", ["levels.pixels"], upscaled, {"to": TensorProto.UINT8}),
        ]
        numbers = {"level": 1 / 256, "levels": 256.0, "level.least": 0.0, "level.most": 255.0}
        kind, axes = TensorProto.UINT8, [batch or "batch", "height", "width", 3]
    nodes = [copied(node) for node in graph.node]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(_node(*each) for each in before)
    graph.node.extend(nodes)
    graph.node.extend(_node(*each) for each in after)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name)
        for name, value in numbers.items()
    )
    larger = [f"upscaled_{axis}" if axis in ("height", "width") else axis for axis in axes]
    graph.input.append(helper.make_tensor_value_info(image, kind, axes))
    graph.output.append(helper.make_tensor_value_info(upscaled, kind, larger))
    return framed


def _node(kind: str, inputs: list[str], output: str, attributes: dict[str, Any]) -> NodeProto:
    return helper.make_node(kind, inputs, [output], f"pixels_{output}", **attributes)
