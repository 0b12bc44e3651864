"""Mixed precision: a float16 graph with some nodes in float32, and what float16 really does to it.

ONNX Runtime's CPU provider has no float16 convolution: it widens, and where one such operation
follows another it keeps the wide value between them. A value beyond 65504 then passes unharmed
that would be infinite on a GPU. `emulated` makes every rounding explicit, so that a CPU shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from srtool.errors import ExportError
from srtool.export.graph import FLOAT, HALF, copied, inferred, types_of
from srtool.files import sha256, whole_file
from srtool.manifest import METADATA_KEY, Manifest, ModelFacts, write_manifest
from srtool.parity import Fidelity
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.session import DirectSession
from srtool.version import __version__

_NO_ARITHMETIC = {"Cast", "Constant", "ConstantOfShape"}

Run = Callable[[NDArray[Any]], list[NDArray[Any]]]


def half_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes that compute in float16, in the order of the graph. Types must be inferred."""
    types = types_of(model)
    return [
        node
        for node in model.graph.node
        if node.op_type not in _NO_ARITHMETIC
        and any(types.get(name) == HALF for name in node.output)
    ]


def mixed_from_half(
    model: ModelProto, weights: Mapping[str, NDArray[np.float32]], nodes: Collection[str]
) -> ModelProto:
    """The same graph with some nodes in float32, and casts where values cross over.

    model: with types inferred. weights: float32 values of initialisers by name; one that is not
    among them is widened. nodes: names out of `half_nodes`.
    """
    mixed = copied(model)
    graph, types = mixed.graph, types_of(model)
    constants = {item.name: item for item in graph.initializer}
    # What was float32 before its cast is taken from there.
    sources = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and types.get(node.input[0]) == FLOAT
    }
    widened: set[str] = set()
    converted: dict[tuple[str, int], str] = {}
    rewritten: list[NodeProto] = []

    def convert(name: str, kind: int) -> str:
        if (name, kind) in converted:
            return converted[name, kind]
        new = f"{name}.{'float32' if kind == FLOAT else 'float16'}"
        if name in constants:
            values = weights.get(name)
            if values is None:
                values = numpy_helper.to_array(constants[name]).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, new))
        elif kind == FLOAT and name in sources:
            new = sources[name]
        else:
            rewritten.append(helper.make_node("Cast", [name], [new], f"node_{new}", to=kind))
            graph.value_info.append(helper.make_tensor_value_info(new, kind, None))
        converted[name, kind] = new
        return new

    for original in model.graph.node:
        node = copied(original)
        wanted = FLOAT if node.name in nodes else HALF
        for index, name in enumerate(node.input):
            if types.get(name) != HALF or node.op_type == "Cast":
                continue
            if (FLOAT if name in widened else HALF) != wanted:
                node.input[index] = convert(name, wanted)
        if node.name in nodes:
            widened.update(name for name in node.output if types.get(name) == HALF)
        rewritten.append(node)
    for value in graph.value_info:
        if value.name in widened:
            value.type.tensor_type.elem_type = FLOAT
    _replace_nodes(mixed, rewritten)
    return mixed


def emulated(model: ModelProto) -> ModelProto:
    """The same graph in float32, every float16 value of it rounded to float16 where it is made.

    A name that held float16 holds the rounded value in float32. An operation computes in float32
    and rounds once, which is what the tensor cores of a GPU do.
    """
    wide = copied(model)
    types = types_of(model)
    for item in wide.graph.initializer:
        if item.data_type == HALF:
            item.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float32), item.name)
            )
    rewritten: list[NodeProto] = []
    for original in model.graph.node:
        node = copied(original)
        rewritten.append(node)
        for index, name in enumerate(original.output):
            if types.get(name) != HALF:
                continue
            half = f"{name}.half"
            if node.op_type in _NO_ARITHMETIC:
                node.output[index] = half
            else:
                node.output[index] = f"{name}.wide"
                rewritten.append(helper.make_node("Cast", [f"{name}.wide"], [half], to=HALF))
            rewritten.append(helper.make_node("Cast", [half], [name], to=FLOAT))
    del wide.graph.value_info[:]
    _replace_nodes(wide, rewritten)
    return wide


def model_from_file(path: Path) -> ModelProto:
    """Read an .onnx file, types inferred. ExportError where it has nothing in float16."""
    model = inferred(onnx.load(path))
    if not half_nodes(model):
        raise ExportError(f"{path}: computes nothing in float16; expected an fp16 or mixed file")
    return model


def write_mixed(
    path: Path, model: ModelProto, parent: Manifest, modules: tuple[str, ...], found: Fidelity
) -> Manifest:
    """Write a mixed model and its manifest. parent: of the fp16 file. modules: torch modules with
    a node in float32. found: by emulation."""
    facts = parent.model.model_copy(update={"precision": "mixed", "float32_modules": modules})
    model = inferred(model)
    helper.set_model_props(
        model, {METADATA_KEY: json.dumps(facts.model_dump(mode="json"), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    with whole_file(path) as temporary:
        onnx.save(model, temporary)
        digest = sha256(temporary)
    manifest = Manifest(
        model=facts,
        sha256=digest,
        opset=parent.opset,
        srtool=__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        companion=parent.companion,
        fidelity={str(EMULATED): found},
    )
    write_manifest(path, manifest)
    return manifest


@dataclass(frozen=True)
class Emulated:
    """ONNX Runtime on the CPU, with each float16 value of a float16 or mixed file being one."""

    library: ClassVar = "onnxruntime"
    precision: ClassVar = "fp16"
    on_gpu: ClassVar = False

    def __str__(self) -> str:
        return "float16 emulated"

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> DirectSession:
        return emulated_session(model_from_file(path), facts)


EMULATED = Emulated()


def emulated_session(model: ModelProto, facts: ModelFacts) -> DirectSession:
    """A float16 or mixed model opened so that each float16 value of it is one."""
    run = open_model(emulated(model))
    return DirectSession(facts, lambda batch: run(batch)[0])


def emulated_engine(path: Path, facts: ModelFacts, model: ModelProto) -> Engine:
    """A model in memory, that is to become the file `path`."""
    return Engine(EngineInfo(path, facts, EMULATED), emulated_session(model, facts))


def open_model(model: ModelProto, outputs: Iterable[str] = ()) -> Run:
    """Run a graph as it stands, without optimisations that might leave a cast out.

    outputs: names of float32 values to give after the graph's own output.
    """
    import onnxruntime

    names = list(outputs)
    if names:
        shown = copied(model)
        shown.graph.output.extend(
            helper.make_tensor_value_info(name, FLOAT, None) for name in names
        )
        model = shown
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    image = model.graph.input[0].name

    def run(batch: NDArray[Any]) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = session.run(None, {image: batch})
        return found

    return run


def _replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    """Put other nodes in, and drop the casts and initialisers that nothing reads."""
    graph = model.graph
    read = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    del graph.node[:]
    graph.node.extend(
        node for node in nodes if node.op_type != "Cast" or not read.isdisjoint(node.output)
    )
    kept = [item for item in graph.initializer if item.name in read]
    if len(kept) < len(graph.initializer):
        copies = [copied(item) for item in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
