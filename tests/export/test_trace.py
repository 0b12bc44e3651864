"""Networks that no exporter can trace, or that are none to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srtool.errors import ExportError
from srtool.export.trace import traced_from_network
from srtool.networks.network import Network


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[3] > 45 else x


def test_a_network_that_draws_random_numbers_is_one_line(complains: Any) -> None:
    with complains(ExportError, "x.pth", "random"):
        traced_from_network(Network(Drawing(), 1, "Drawing", Path("x.pth")))


def test_a_network_that_cannot_be_traced_is_one_line(complains: Any) -> None:
    network = Network(Branching(), 1, "Branching", Path("x.pth"))
    with complains(ExportError, "x.pth", "Branching", "no ONNX form"):
        traced_from_network(network)
