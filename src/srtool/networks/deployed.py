"""The network as it is deployed: pixels in, pixels out, everything in between rewritten exactly."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, fx, nn

from srtool.errors import ExportError
from srtool.networks import rewrite
from srtool.networks.generator import Generator, deployed
from srtool.networks.network import Network

Io = Literal["uint8", "float32"]
Precision = Literal["fp32", "fp16"]

# Sides 1 and equal sides would be taken for constants by torch.export.
EXAMPLE_SIZE = (2, 24, 40)


class ImageOnly(nn.Module):
    """A generator without its second output, so that the exporter drops what only that needs."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.generator(x).image
        return image


def plain_module(network: Network) -> nn.Module:
    """(N, 3, H, W) RGB 0..1 -> (N, 3, scale H, scale W), for any network; head folded."""
    if isinstance(network.module, Generator):
        return ImageOnly(deployed(network.module)).eval()
    return network.module


class Deployed(nn.Module):
    """The rewritten graph between the pixels' formats.

    io "uint8": (N, H, W, 3) uint8 -> (N, sH, sW, 3) uint8. TensorRT accepts uint8 only with a cast
    as the first and the last node: cast first, transpose after; transpose first, cast last.
    io "float32": (N, 3, H, W) float32 0..1 -> (N, 3, sH, sW) float32, not clamped.
    """

    def __init__(self, graph: fx.GraphModule, io: Io) -> None:
        super().__init__()
        self.rewritten, self.io = graph, io

    def forward(self, image: Tensor) -> Tensor:
        if self.io == "float32":
            colours: Tensor = self.rewritten(image * rewrite.PIXEL_UNIT)
            return colours * (1 / rewrite.PIXEL_UNIT)
        units: Tensor = self.rewritten(image.to(torch.float32).permute(0, 3, 1, 2) * (1 / 256))
        levels = (units * 256).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def shape_dimensions(network: Network, io: Io) -> dict[int, torch.export.Dim]:
    """Dynamic batch, height and width of the input, by axis."""
    height, width = (1, 2) if io == "uint8" else (2, 3)
    return {0: _dim("batch"), height: _dim("height"), width: _dim("width")}


def _dim(name: str) -> torch.export.Dim:
    return torch.export.Dim(name, min=1)


def deployed_from_network(
    network: Network, io: Io, precision: Precision
) -> tuple[Deployed, dict[str, int]]:
    """Trace a network and rewrite its graph; also says how often each rewrite applied."""
    module = plain_module(network)
    batch, height, width = EXAMPLE_SIZE
    example = torch.rand(batch, 3, height, width)
    dimensions = shape_dimensions(network, "float32")
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=(dimensions,))
    except Exception as error:
        raise ExportError(
            f"{network.path}: this {network.architecture} network cannot be traced with free "
            f"image sizes ({str(error).strip().splitlines()[0][:160]})"
        ) from None
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    applied = rewrite.fold_constants(graph)
    rewrite.change_units(graph)
    if precision == "fp16":
        applied["operations in float16"] = rewrite.halve(graph)
    return Deployed(graph, io), applied
