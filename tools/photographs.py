"""Photographs in a GPU's memory, with smaller copies of themselves, and patches of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from srtool.images.imresize import imresize
from srtool.networks.generator import SCALE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")
# Copies of a photograph that are smaller are sharper, and more to learn from.
SHARES = (1.0, 0.7)
SHARES_OF_LARGE = (1.0, 0.75, 0.5)
LARGE = 1000  # pixels, the longer side
SMALLEST = 100  # pixels, the shorter side


def photographs_from_file(path: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """LR and HR of a photograph and of its smaller copies, (H, W, 3)."""
    image = Image.open(path).convert("RGB")
    made = []
    for share in SHARES_OF_LARGE if max(image.size) >= LARGE else SHARES:
        width, height = (round(side * share) for side in image.size)
        if min(width, height) < SMALLEST:
            continue
        copy = image if share == 1 else image.resize((width, height), Image.Resampling.LANCZOS)
        hr = np.asarray(copy)[: height // SCALE * SCALE, : width // SCALE * SCALE]
        made.append((imresize(hr, 1 / SCALE), hr))
    return made


class Pixels:
    """Pictures of many sizes as one row of bytes on the device."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        sizes = [picture.size for picture in pictures]
        self.bytes = torch.from_numpy(np.concatenate([x.reshape(-1) for x in pictures])).to(DEVICE)
        self.starts = torch.tensor(np.cumsum([0, *sizes[:-1]]), device=DEVICE)
        self.heights = torch.tensor([x.shape[0] for x in pictures], device=DEVICE)
        self.widths = torch.tensor([x.shape[1] for x in pictures], device=DEVICE)

    def patches(self, which: Tensor, corner: Tensor, side: int, turns: Tensor) -> Tensor:
        """(N, 3, side, side), 0..1. corner: (2, N), top and left; turns: (3, N) bool: upside down,
        mirrored, transposed. What lies outside a picture repeats its edge."""
        along = torch.arange(side, device=DEVICE)
        shape = (len(which), side, side)
        rows, columns = along[None, :, None].expand(shape), along[None, None, :].expand(shape)
        down, mirrored, transposed = turns[:, :, None, None]
        y, x = torch.where(transposed, columns, rows), torch.where(transposed, rows, columns)
        y, x = torch.where(down, side - 1 - y, y), torch.where(mirrored, side - 1 - x, x)
        width = self.widths[which][:, None, None]
        y = torch.minimum(corner[0][:, None, None] + y, self.heights[which][:, None, None] - 1)
        x = torch.minimum(corner[1][:, None, None] + x, width - 1)
        place = self.starts[which][:, None, None] + (y * width + x) * 3
        colours = torch.stack([self.bytes[place + colour] for colour in range(3)], 1)
        return (colours.float() / 255).contiguous(memory_format=torch.channels_last)


class Photographs:
    """What is trained on: patches are drawn by area, turned and flipped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            pairs = [
                p for made in pool.map(photographs_from_file, paths, chunksize=2) for p in made
            ]
        self.count = len(pairs)
        self.low, self.high = (Pixels(side) for side in zip(*pairs, strict=True))
        area = (self.low.heights * self.low.widths).double()
        self.shares = (area.cumsum(0) / area.sum()).float()

    def draw(self, batch: int, patch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """LR (N, 3, patch / 4, patch / 4) and HR (N, 3, patch, patch)."""
        low, chance = patch // SCALE, torch.rand(6, batch, device=DEVICE, generator=random)
        which = torch.searchsorted(self.shares, chance[0]).clamp(max=self.count - 1)
        sides = torch.stack((self.low.heights[which], self.low.widths[which]))
        corner = (chance[1:3] * (sides - low + 1).clamp(min=1)).long()
        turns = chance[3:] < 0.5
        return (
            self.low.patches(which, corner, low, turns),
            self.high.patches(which, corner * SCALE, patch, turns),
        )
