"""A graph in float16, but for what float16 cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from srtool.export.graph import FLOAT, HALF, Graph, cast, inferred, types_of

# Sums over many values, exponentials and quotients: where float16 loses range or precision first.
# Coordinates too, which count in hundreds and need fractions.
KEPT = {
    "Softmax",
    "LogSoftmax",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "LpNormalization",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL2",
    "ReduceProd",
    "GlobalAveragePool",
    "CumSum",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Einsum",
    "GridSample",
    "Sin",
    "Cos",
    "Range",
    "Random",
    "Cast",
    "CastLike",
    "QuantizeLinear",
    "DequantizeLinear",
    "TopK",
    "NonZero",
}
# Arithmetic with a constant, such as a mean colour, is no layer: at the ends it stays in float32.
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Clip", "Where", "Resize", "Pad", "Max", "Min"}
# Inputs that are float32 whatever the first one is.
_ALWAYS_FLOAT = {"Resize": {1, 2}, "Upsample": {1}}


def halve(model: ModelProto) -> int:
    """Turn everything between the first and the last layer into float16, in place.

    What comes before the first operation with parameters (scaling, the gradient operator, whose
    1e-6 is subnormal in float16) and after the last one (image skip, rounding) stays float32, and
    so do the kinds in KEPT. Returns the number of operations that run in float16.
    """
    types = types_of(inferred(model))
    graph = Graph(model)
    inside = _inside(graph, types)
    half = {name for node in inside for name in node.output if types.get(name) == FLOAT}
    converted: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []
    chosen = {id(node) for node in inside}

    def given(name: str, to: int) -> str:
        """A value in the type that a node needs, converted once."""
        if (name, to) not in converted:
            other = graph.fresh(f"{name}.{'half' if to == HALF else 'float'}")
            if name in graph.constants:
                with np.errstate(over="ignore"):  # comes out when it is compared
                    values = numpy_helper.to_array(graph.constants[name]).astype(np.float16)
                graph.constants[other] = numpy_helper.from_array(values, other)
            else:
                nodes.append(cast(name, other, to))
                graph.maker[other] = nodes[-1]
            converted[name, to] = other
        return converted[name, to]

    for node in graph.nodes:
        always = _ALWAYS_FLOAT.get(node.op_type, set())
        for index, name in enumerate(node.input):
            if not name or (types.get(name) != FLOAT):
                continue
            wanted = HALF if id(node) in chosen and index not in always else FLOAT
            if wanted != (HALF if name in half else FLOAT):
                node.input[index] = given(name, wanted)
        nodes.append(node)
    for item in model.graph.output:
        if item.name in half:  # the last layer gives the image itself
            maker = graph.maker[item.name]
            before = graph.fresh(f"{item.name}.half")
            for node in nodes:
                node.input[:] = [before if name == item.name else name for name in node.input]
            maker.output[:] = [before if name == item.name else name for name in maker.output]
            nodes.append(cast(before, item.name, FLOAT))
    graph.nodes = nodes
    _use_plain_names(graph)
    graph.finish()
    return len(inside)


def _use_plain_names(graph: Graph) -> None:
    """Weights keep the names that they have in float32, where float32 itself is not needed."""
    read = {name for node in graph.nodes for name in node.input}
    for name in [name for name in graph.constants if name.endswith(".half")]:
        plain = name.removesuffix(".half")
        if plain in read or plain not in graph.constants:
            continue
        item = graph.constants.pop(name)
        item.name = plain
        graph.constants[plain] = item
        for node in graph.nodes:
            node.input[:] = [plain if each == name else each for each in node.input]


def _inside(graph: Graph, types: dict[str, int]) -> list[NodeProto]:
    """The nodes that become float16, in the order of the graph."""
    layers = [node for node in graph.nodes if _is_layer(graph, node)]
    after = _reached(layers, lambda node: _next(graph, types, node))
    before = _reached(layers, lambda node: _previous(graph, node))
    chosen = {id(node) for node in layers} | (after & before)
    return [
        node
        for node in graph.nodes
        if id(node) in chosen
        and node.op_type not in KEPT
        and not node.op_type.startswith("Random")
        and graph.shared.isdisjoint(set(node.output) - {graph.output})
        and all(types.get(name) for name in node.input if name)  # inference may not get that far
        and any(types.get(name) == FLOAT for name in node.input)  # others make float32 of nothing
        and any(types.get(name) == FLOAT for name in node.output)
        and not any(attribute.HasField("g") for attribute in node.attribute)
    ]


def _is_layer(graph: Graph, node: NodeProto) -> bool:
    """An operation with parameters of its own."""
    if node.op_type in _ARITHMETIC:
        return False
    values = [graph.values(name) for name in node.input[1:] if name]
    return any(value is not None and value.size > 1 for value in values)


def _next(graph: Graph, types: dict[str, int], node: NodeProto) -> Iterable[NodeProto]:
    """Who reads its real numbers: sizes lead nowhere."""
    real = [name for name in node.output if types.get(name) == FLOAT]
    return [reader for name in real for reader in graph.readers.get(name, ())]


def _previous(graph: Graph, node: NodeProto) -> Iterable[NodeProto]:
    return [graph.maker[name] for name in node.input if name in graph.maker]


def _reached(start: list[NodeProto], step: Callable[[NodeProto], Iterable[NodeProto]]) -> set[int]:
    """Nodes, by id, that one or more steps lead to."""
    seen: set[int] = set()
    ahead = [following for node in start for following in step(node)]
    while ahead:
        node = ahead.pop()
        if id(node) not in seen:
            seen.add(id(node))
            ahead += step(node)
    return seen
