"""Which block of a network goes wrong in float16, and the fewest nodes to keep in float32.

Everything is tried on one tile of an image, where each try costs a second or so and no more
memory than a run does. `emulated` makes the CPU round as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from srtool.errors import ExportError
from srtool.export.mixed import emulated, half_nodes, mixed_from_half, open_model
from srtool.images.colour import psnr, to_levels

AT_ONCE = 8  # intermediate values held at the same time
LARGEST = 64  # nodes of a block: an RRDB has about 45

Report = Callable[[str], None]


@dataclass(frozen=True)
class Overflow:
    """The first node whose result is not finite: its name and operation, and the torch module
    that it belongs to."""

    node: str
    operation: str
    module: str


@dataclass(frozen=True)
class Bisection:
    """What mends a float16 graph on one tile.

    overflow: None where no value leaves the range of float16 and rounding alone does the harm.
    blocks: that go wrong, by the name of their torch module. float32_nodes: the nodes to keep in
    float32, of these blocks and of those given; none of the new ones can be left out.
    before, after: dB between the tile and PyTorch's.
    """

    overflow: Overflow | None
    blocks: list[str]
    float32_nodes: frozenset[str]
    before: float
    after: float


@dataclass(frozen=True)
class HalfGraph:
    """model, weights: see `mixed_from_half`. modules: torch module of each node, by name."""

    model: ModelProto
    weights: Mapping[str, NDArray[np.float32]]
    modules: Mapping[str, str]


def bisect(
    half: HalfGraph,
    tile: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    min_psnr: float,
    given: Collection[str] = (),
    report: Report = lambda line: None,
) -> Bisection:
    """Find the nodes without which a float16 graph is not within `min_psnr` of PyTorch.

    tile: (H, W, 3) RGB uint8 LR; reference: what PyTorch makes of it. given: nodes that are in
    float32 in any case. Where the tile is within the bound already, its squared error is to be
    halved.
    ExportError where float32 throughout does not help either.
    """
    search, modules = _Search(half, tile, reference), half.modules
    names = [node.name for node in search.nodes]
    before = search.psnr(given)
    bound = min_psnr if before < min_psnr else before + 3
    if search.psnr(names) < bound:
        raise ExportError(
            f"the tile differs from PyTorch's in float32 as well ({search.psnr(names):.1f} dB "
            "between); this is no matter of precision: was the file made of other weights?"
        )
    blocks = blocks_from_nodes(names, modules)
    overflow = search.overflow(given, blocks)
    first = None
    if overflow:
        operation = next(node.op_type for node in search.nodes if node.name == overflow)
        first = Overflow(overflow, operation, modules[overflow])
    nodes, wrong = set(given), []
    while search.psnr(nodes) < bound:
        block = search.worst_block(nodes, blocks)
        wrong.append(block)
        report(f"{block} goes wrong; {len(blocks[block])} nodes in float32")
        nodes |= set(blocks[block])
    chosen = search.fewest(nodes, set(given), bound, report)
    return Bisection(first, wrong, frozenset(chosen), before, search.psnr(chosen))


class _Search:
    """One tile, and how it comes out with different nodes in float32."""

    def __init__(
        self, half: HalfGraph, tile: NDArray[np.uint8], reference: NDArray[np.uint8]
    ) -> None:
        self.model, self.weights, self.reference = half.model, half.weights, reference
        self.nodes: list[NodeProto] = half_nodes(half.model)
        self._uint8 = half.model.graph.input[0].type.tensor_type.elem_type == 2
        scaled = tile.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        self._batch = tile[None] if self._uint8 else scaled
        self._known: dict[frozenset[str], float] = {}
        self._ranking: list[str] = []

    def psnr(self, nodes: Collection[str]) -> float:
        """dB to the reference with these nodes in float32."""
        key = frozenset(nodes)
        if key not in self._known:
            mixed = emulated(mixed_from_half(self.model, self.weights, key))
            out = open_model(mixed)(self._batch)[0][0]
            if not self._uint8:
                out = to_levels(np.nan_to_num(out).transpose(1, 2, 0), np.uint8)
            self._known[key] = psnr(out, self.reference)
        return self._known[key]

    def overflow(self, nodes: Collection[str], blocks: Mapping[str, list[str]]) -> str | None:
        """The first node in float16 that makes, or is given, a value that is not finite."""
        mixed = mixed_from_half(self.model, self.weights, frozenset(nodes))
        values = self._half_values(mixed, nodes)
        graph = emulated(mixed)
        block_of = {name: block for block, inside in blocks.items() for name in inside}
        last = {block_of[node]: value for value, node in values.items()}
        bad = self._not_finite(graph, list(last.values()))
        if bad is None:
            return None
        block = block_of[values[bad]]
        inside = [value for value, node in values.items() if block_of[node] == block]
        for start in range(0, len(inside), AT_ONCE):
            found = self._not_finite(graph, inside[start : start + AT_ONCE])
            if found is not None:
                return values[found]
        return values[bad]

    def _half_values(self, mixed: ModelProto, nodes: Collection[str]) -> dict[str, str]:
        """The float16 values of a mixed graph, in order, with the node to blame for each: the one
        that makes it, or, where it is a float32 value cast for it, the one that reads it."""
        made = {name: node.name for node in self.nodes for name in node.output}
        ours = {node.name for node in self.nodes} - set(nodes)
        readers = {
            name: node.name
            for node in reversed(mixed.graph.node)
            if node.name in ours
            for name in node.input
        }
        values = {}
        for node in mixed.graph.node:
            name = node.output[0]
            if node.name in ours and name in made:
                values[name] = node.name
            elif node.op_type == "Cast" and name in readers:
                values[name] = readers[name]
        return values

    def _not_finite(self, graph: ModelProto, values: list[str]) -> str | None:
        found = open_model(graph, values)(self._batch)[1:]
        for name, value in zip(values, found, strict=True):
            if not np.isfinite(value).all():
                return name
        return None

    def worst_block(self, nodes: Collection[str], blocks: Mapping[str, list[str]]) -> str:
        """The block to put into float32 next: the one that overflows first, else the one that
        does the most harm by itself."""
        node = self.overflow(nodes, blocks)
        if node is not None:
            return next(block for block, inside in blocks.items() if node in inside)
        left = [block for block, inside in blocks.items() if not set(inside) <= set(nodes)]
        if not self._ranking:
            self._ranking = sorted(left, key=lambda block: -self.psnr({*nodes, *blocks[block]}))
        return next(block for block in self._ranking if block in left)

    def fewest(self, nodes: set[str], given: set[str], bound: float, report: Report) -> set[str]:
        """Leave out nodes, half of them at a time and at last each by itself, as long as the tile
        stays within the bound."""
        removable = [node.name for node in self.nodes if node.name in nodes - given]
        size = len(removable)
        while size:
            for start in range(0, len(removable), size):
                rest = nodes - set(removable[start : start + size])
                if self.psnr(rest) >= bound:
                    nodes = rest
            removable = [name for name in removable if name in nodes]
            report(f"{len(removable)} nodes left in float32")
            size = min(size // 2, len(removable))
        return nodes


# Which torch module each node belongs to, and the blocks that they form


def modules_from_graph(model: ModelProto, names: Collection[str]) -> dict[str, str]:
    """The torch module of each node, by the node's name.

    names: of the network's modules. A node with parameters has the module that they are named
    after, "trunk.3.dense.1.last" for example; any other one has that of the latest node whose
    result it reads.
    """
    parameters = {item.name for item in model.graph.initializer}
    order: dict[str, int] = {}
    found: dict[str, str] = {}
    maker: dict[str, str] = {}
    for position, node in enumerate(model.graph.node):
        own = [_module(name, names) for name in node.input if name in parameters]
        module = next((name for name in own if name), "")
        if not module:
            read = [maker[name] for name in node.input if name in maker]
            latest = max(read, key=order.__getitem__, default="")
            module = found.get(latest, "")
        found[node.name], order[node.name] = module, position
        maker.update(dict.fromkeys(node.output, node.name))
    return found


def _module(parameter: str, names: Collection[str]) -> str:
    """ "rewritten.generator.head.weight" -> "head": what the exporter put before is left out."""
    parts = parameter.split(".")[:-1]
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in names), "")


def blocks_from_nodes(nodes: Iterable[str], modules: Mapping[str, str]) -> dict[str, list[str]]:
    """Group nodes by the outermost modules, with the number where they are numbered (trunk.3);
    what is larger than LARGEST nodes is divided further. In the order of the graph."""
    blocks: dict[str, list[str]] = {}
    for node in nodes:
        parts = modules[node].split(".")
        numbered = len(parts) > 1 and parts[1].isdigit()
        blocks.setdefault(".".join(parts[: 2 if numbered else 1]), []).append(node)
    divided: dict[str, list[str]] = {}
    for name, inside in blocks.items():
        divided |= _divided(name, inside, modules)
    return divided


def _divided(name: str, inside: list[str], modules: Mapping[str, str]) -> dict[str, list[str]]:
    deeper = name.count(".") + 2
    if len(inside) <= LARGEST or all(modules[node] == name for node in inside):
        return {name: inside}
    parts: dict[str, list[str]] = {}
    for node in inside:
        parts.setdefault(".".join(modules[node].split(".")[:deeper]), []).append(node)
    found: dict[str, list[str]] = {}
    for part, nodes in parts.items():
        found |= {part: nodes} if part == name else _divided(part, nodes, modules)
    return found
