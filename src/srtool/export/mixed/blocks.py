"""Which torch module each node of an ONNX graph belongs to, and the blocks that they form."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnx import ModelProto

LARGEST = 64  # nodes of a block: an RRDB has about 45


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
