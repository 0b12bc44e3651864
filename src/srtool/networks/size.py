"""Which sizes of images a network takes, and how others are continued to such a size."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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
