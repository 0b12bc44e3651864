"""The network as it is deployed: one plain module from image to image, for any network, and what
float16 makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from srtool.networks.generator import Generator, deployed
from srtool.networks.network import Network

# Sides 1 and equal sides would be taken for constants by torch.export.
EXAMPLE_SIZE = (2, 24, 40)
_SCALINGS = (torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar)


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


class Float16(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What float16 costs, on any device: inside of it every operation is computed in float32 and
    rounded once, as the tensor cores of a GPU do; no CPU computes float16 at any speed.

    Parameters, factors and results are rounded; tensors stay float32, and values beyond 65504
    become infinite. What is given from outside stays as it is: pixels are exact in a float16
    engine too, which carries them in units of 1/256.
    """

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        arguments = [rounded(arg) if isinstance(arg, nn.Parameter) else arg for arg in args]
        if function in _SCALINGS and isinstance(arguments[1], float):
            arguments[1] = rounded(torch.tensor(arguments[1])).item()
        return _mapped(rounded, function(*arguments, **(kwargs or {})))


def rounded(values: Tensor) -> Tensor:
    """To the nearest float16, in the tensor's own type; what is no real number stays."""
    return values.half().to(values.dtype) if values.is_floating_point() else values


def _mapped(change: Callable[[Tensor], Tensor], result: Any) -> Any:
    if isinstance(result, Tensor):
        return change(result)
    if isinstance(result, (tuple, list)):
        return type(result)(_mapped(change, item) for item in result)
    return result
