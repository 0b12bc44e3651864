"""What `srtool verify` makes of a float16 file that fails: a mixed one that passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from srtool.benchmarks.reference import References
from srtool.errors import ExportError
from srtool.export.bisect import Bisection, HalfGraph, Overflow, bisect, modules_from_graph
from srtool.export.certify import TILE, reference
from srtool.export.mixed import (
    emulated_engine,
    half_nodes,
    mixed_from_half,
    model_from_file,
    write_mixed,
)
from srtool.export.onnx import weights_of
from srtool.images.datasets import Image
from srtool.manifest import Manifest
from srtool.networks.loading import load_network
from srtool.networks.network import Network
from srtool.parity import Fidelity, Strict, WorstTile

ROUNDS = 8  # tiles to look at one after the other, each the worst that the last round left


class Mixed(Strict):
    """overflow: None where rounding alone does the harm. blocks: that went wrong. float32_nodes:
    of so many nodes, those that must not be float16."""

    source: str
    engine: str
    overflow: Overflow | None
    blocks: list[str]
    float32_nodes: list[str]
    nodes: int


def mix(
    path: Path, manifest: Manifest, found: Fidelity, checkpoint: Path, references: References
) -> tuple[Mixed, Manifest]:
    """Write NAME.mixed.onnx beside NAME.fp16.onnx, with the fewest nodes in float32 that let it
    pass, and its manifest.

    found: how the float16 file failed by emulation. checkpoint: that it was exported from.
    ExportError where no mixture passes, or the checkpoint is another one.
    """
    model, network = model_from_file(path), load_network(checkpoint)
    weights = _weights(network, model, path, manifest)
    modules = modules_from_graph(model, network.module_names)
    target = path.with_name(f"{_plain_stem(path)}.mixed.onnx")
    rounds: list[Bisection] = []
    nodes: frozenset[str] = frozenset()
    while not found.passed:
        if len(rounds) == ROUNDS or found.worst_tile is None:
            raise ExportError(
                f"{path}: still fails with {len(nodes)} nodes in float32 "
                f"({', '.join(found.misses(found.gates))}); use the fp32 file"
            )
        where = found.worst_tile
        references.say(f"{path}: looking at {where.image} around {where.left},{where.top}")
        tile = _around(references.lr(where.image), where, manifest.model.halo)
        rounds.append(
            bisect(
                HalfGraph(model, weights, modules),
                tile,
                reference(network, tile),
                references.protocol.gates.min_psnr,
                nodes,
                lambda line: references.say(f"{path}: {line}"),
            )
        )
        nodes = rounds[-1].float32_nodes
        mixed = mixed_from_half(model, weights, nodes)
        engine = emulated_engine(target, manifest.model, mixed)
        found = references.compare(engine)
    widened = [node.name for node in half_nodes(model) if node.name in nodes]
    named = tuple(dict.fromkeys(modules[name] for name in widened))
    written = write_mixed(target, mixed, manifest, named, found)
    made = Mixed(
        source=str(path),
        engine=str(target),
        overflow=rounds[0].overflow,
        blocks=list(dict.fromkeys(block for item in rounds for block in item.blocks)),
        float32_nodes=widened,
        nodes=len(half_nodes(model)),
    )
    return made, written


def _weights(
    network: Network, model: ModelProto, path: Path, manifest: Manifest
) -> dict[str, NDArray[np.float32]]:
    """The network's parameters in float32 by the names that they have in the file."""
    weights = weights_of(network)
    named = [item for item in model.graph.initializer if item.name in weights]
    with np.errstate(over="ignore"):  # that may be what is wrong with the file
        same = [
            np.array_equal(
                numpy_helper.to_array(item), weights[item.name].astype(np.float16), equal_nan=True
            )
            for item in named
            if item.data_type == item.FLOAT16
        ]
    if not same or not all(same):
        raise ExportError(
            f"{path}: holds other weights than {network.path}; name the checkpoint that it was "
            f"exported from ({manifest.model.weights})"
        )
    return weights


def _plain_stem(path: Path) -> str:
    return path.stem.removesuffix(".fp16").removesuffix(".mixed")


def _around(lr: Image, worst: WorstTile, halo: int) -> Image:
    """A tile with what its result depends on."""
    top, left = max(0, worst.top - halo), max(0, worst.left - halo)
    return np.ascontiguousarray(lr[top : worst.top + TILE + halo, left : worst.left + TILE + halo])
