"""An SR network ready for use, whoever made it, and the sizes of images that it takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from srtool.networks.generator import SCALE, Generator

SCALES = (1, 2, 3, 4, 8)


@dataclass(frozen=True)
class Size:
    """In LR pixels: both sides are multiples of multiple_of and at least minimum; square: they
    are equal."""

    multiple_of: int = 1
    minimum: int = 0
    square: bool = False

    def of(self, height: int, width: int) -> tuple[int, int]:
        """The smallest height and width that a network takes and that hold an image."""
        sides = [max(side, self.minimum) for side in (height, width)]
        sides = [-(-side // self.multiple_of) * self.multiple_of for side in sides]
        return (max(sides), max(sides)) if self.square else (sides[0], sides[1])


ANY_SIZE = Size()


def continued(x: Tensor, size: Size) -> Tensor:
    """(N, C, H, W), continued at the right and bottom by its mirror image, the edge not repeated;
    where that is used up by the edge itself. As spandrel does it."""
    height, width = x.shape[-2:]
    down, across = (to - at for to, at in zip(size.of(height, width), (height, width), strict=True))
    if not down and not across:
        return x
    mirrored = min(across, width - 1), min(down, height - 1)
    x = F.pad(x, (0, mirrored[0], 0, mirrored[1]), "reflect")
    return F.pad(x, (0, across - mirrored[0], 0, down - mirrored[1]), "replicate")


@dataclass(frozen=True)
class Network:
    """A network in eval mode.

    module: (N, 3, H, W) RGB 0..1 float -> (N, 3, scale * H, scale * W), of the sizes that `size`
        allows; our own generators return a GeneratorOutput instead of the bare image.
    architecture: "srtool", "SPSR", spandrel's name, or that of the user's own class. facts: what
        the file says of its training. notes: what the user should know of how it was read.
    """

    module: nn.Module
    scale: int
    architecture: str
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    size: Size = ANY_SIZE
    notes: tuple[str, ...] = ()

    @property
    def module_names(self) -> list[str]:
        """Of all modules inside, without what was put around them here."""
        names = [name for name, _ in self.module.named_modules()]
        module = self.module
        while isinstance(module, (Called, Gray)):
            names = [name.removeprefix("model.") for name in names]
            module = module.model
        return names

    def upscale(self, x: Tensor) -> Tensor:
        """The reference: (N, 3, H, W) RGB 0..1 of any size -> (N, 3, scale * H, scale * W), not
        clamped."""
        height, width = x.shape[-2:]
        if isinstance(self.module, Generator):
            if self.module.config.head == "unshuffle":
                x = F.interpolate(x, scale_factor=float(SCALE), mode="nearest")
            image: Tensor = self.module(x).image
            return image
        with unwarned():
            # some write on what they get
            out: Tensor = self.module(continued(x.clone(), self.size))
        return out[..., : height * self.scale, : width * self.scale]


@contextmanager
def unwarned() -> Iterator[None]:
    """What other people's code says of torch while it runs is for its authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Called(nn.Module):
    """A module under the call that its architecture asks for."""

    def __init__(self, module: nn.Module, call: Any) -> None:
        super().__init__()
        self.model, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.call(self.model, x)
        return out


class Gray(nn.Module):
    """A network from gray to gray images (1 -> 1 channels) that looks at each colour by itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.model = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x.reshape(-1, 1, x.shape[2], x.shape[3]))
        return out.reshape(-1, 3, out.shape[2], out.shape[3])
