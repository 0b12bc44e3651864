"""The network as it is deployed: one plain module from image to image, for any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srtool.networks.generator import Generator, deployed
from srtool.networks.network import Network

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
    """(N, 3, H, W) RGB 0..1 -> (N, 3, scale H, scale W), for any network; head and scales of our
    own generators folded."""
    if isinstance(network.module, Generator):
        return ImageOnly(deployed(network.module)).eval()
    return network.module


def example_size(network: Network) -> tuple[int, int, int]:
    """Batch, height and width of an image to trace a network with."""
    batch, height, width = EXAMPLE_SIZE
    tall, wide = network.size.of(height, width)
    step = network.size.multiple_of
    return batch, tall, wide if wide != tall or network.size.square else wide + 2 * step


def shape_dimensions(network: Network) -> dict[int, object]:
    """Free batch, height and width of an input of (N, 3, H, W), by axis."""
    step, least = network.size.multiple_of, network.size.minimum
    free = {
        axis: torch.export.Dim(name, min=max(1, -(-least // step)))
        for axis, name in ((2, "height"), (3, "width"))
    }
    sides = {axis: step * dim if step > 1 else dim for axis, dim in free.items()}
    return {0: torch.export.Dim("batch", min=1), **sides}
