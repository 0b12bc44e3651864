"""One ONNX graph to rewrite: who makes a value, who reads it, which are constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Proto = TypeVar("Proto", ModelProto, NodeProto, TensorProto)


class Graph:
    """A model whose nodes are changed in place; `finish` puts what was made where it belongs."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.constants = {item.name: item for item in model.graph.initializer}
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        self.index()

    def index(self) -> None:
        """Look again at who makes and who reads what."""
        self.maker = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        captured: set[str] = set()
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            captured |= set(_captured(node))
        self.shared = captured | {item.name for item in self.model.graph.output}

    def is_private(self, name: str) -> bool:
        """Whether one node reads a value, once, and nobody else."""
        return len(self.readers.get(name, ())) == 1 and name not in self.shared

    def values(self, name: str) -> NDArray[np.float64] | None:
        """A constant of real numbers as float64."""
        item = self.constants.get(name)
        if item is None or item.data_type not in (FLOAT, HALF, TensorProto.DOUBLE):
            return None
        return numpy_helper.to_array(item).astype(np.float64)

    def whole_numbers(self, name: str) -> list[int] | None:
        """A constant list of int64."""
        item = self.constants.get(name)
        if item is None or item.data_type != TensorProto.INT64:
            return None
        return [int(each) for each in numpy_helper.to_array(item).reshape(-1)]

    def set_values(self, node: NodeProto, index: int, values: NDArray[np.float64]) -> None:
        """Give a node other constants of float32: under the same name where nobody else reads
        them."""
        name = node.input[index] if index < len(node.input) else ""
        if not name or not self.is_private(name):
            name = self.fresh(name or f"{node.name}.bias")
            while len(node.input) <= index:
                node.input.append("")
            node.input[index] = name
        self.constants[name] = numpy_helper.from_array(np.asarray(values, np.float32), name)
        self.readers[name] = [node]

    def fresh(self, name: str) -> str:
        """A name that no value has yet."""
        number, taken = 0, name
        while taken in self.constants or taken in self.maker:
            number += 1
            taken = f"{name}.{number}"
        return taken

    def constant(self, values: NDArray[Any], name: str) -> str:
        """The name of a new constant: that, or one like it."""
        name = self.fresh(name)
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def insert(self, before: NodeProto, node: NodeProto) -> None:
        self.nodes.insert(next(i for i, each in enumerate(self.nodes) if each is before), node)
        for name in node.output:
            self.maker[name] = node
        for name in node.input:
            self.readers.setdefault(name, []).append(node)

    def remove(self, node: NodeProto) -> None:
        self.nodes = [each for each in self.nodes if each is not node]

    def finish(self) -> ModelProto:
        """The model, without constants and nodes that nothing reads. What is known of values is
        inferred anew."""
        graph = self.model.graph
        wanted = {item.name for item in graph.output}
        kept: list[NodeProto] = []
        for node in reversed(self.nodes):
            if wanted.isdisjoint(node.output):
                continue
            kept.append(node)
            wanted.update(node.input)
            wanted.update(_captured(node))
        nodes = [copied(node) for node in reversed(kept)]
        constants = [copied(item) for name, item in self.constants.items() if name in wanted]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)
        return self.model


def _captured(node: NodeProto) -> Iterable[str]:
    """Names that the graphs inside a node (If, Loop) may take from around it."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from (item.name for item in graph.output)
            for inner in graph.node:
                yield from inner.input
                yield from _captured(inner)


def copied(message: Proto) -> Proto:
    """A copy of a model, a node or a constant: protobuf's lists take no part of another one."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def inferred(model: ModelProto) -> ModelProto:
    """With the type and, as far as it follows, the shape of every value."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def types_of(model: ModelProto) -> dict[str, int]:
    """Element type of each value that has a name and a known type."""
    graph = model.graph
    types = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types


def cast(value: str, result: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [value], [result], f"cast_{result}", to=to)
