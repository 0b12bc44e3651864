"""Photographs of any size to measure on: pieces of those that srtool ships, mirrored beyond."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image

Image = NDArray[np.uint8]  # (H, W, 3) RGB


def photographs() -> list[Image]:
    """The photographs that srtool ships."""
    folder = Path(str(resources.files("srtool") / "samples" / "HR"))
    return [np.asarray(read_image(path).pixels, np.uint8) for path in sorted(folder.glob("*.png"))]


def pieces(count: int, width: int, height: int, of: Sequence[Image] | None = None) -> Image:
    """(count, height, width, 3): from each photograph in turn, at places drawn at random,
    seeded; larger pieces are continued by their mirror images."""
    random = np.random.default_rng(0)
    of = of or photographs()
    made = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        image = of[number % len(of)]
        top, left = (
            int(random.integers(0, max(1, full - side + 1)))
            for full, side in zip(image.shape, (height, width), strict=False)
        )
        piece = image[top : top + height, left : left + width]
        rows, columns = height - piece.shape[0], width - piece.shape[1]
        made[number] = np.pad(piece, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
    return made


def write_files(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """PNG files of one size. At most 64 differ."""
    folder.mkdir(parents=True, exist_ok=True)
    images = pieces(min(count, 64), width, height)
    paths: list[Path] = []
    for number in range(count):
        path = folder / f"{number:05}.png"
        if number < len(images):
            write_image(path, Picture(images[number], None, False))
        else:
            path.write_bytes(paths[number % len(images)].read_bytes())
        paths.append(path)
    return paths


def images_file(folder: Path, size: tuple[int, int], batch: int) -> Path:
    """A batch of images of that width and height as a file, made when it is first asked for."""
    path = folder / f"{size[0]}x{size[1]}x{batch}.npy"
    if not path.exists():
        np.save(path, pieces(batch, *size))
    return path
