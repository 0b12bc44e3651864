"""The picture of the README: bicubic beside the network on details of the sample photographs.

python -m srtool.benchmarks.comparison weights/x4-lite.safetensors docs/comparison.png
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.runtime.engine import open_engine
from srtool.runtime.image import Picture, read_image, write_image
from srtool.runtime.tiles import upscale_tiled
from srtool.train.resize import imresize

# Top left corner in HR pixels of a detail of each photograph.
DETAILS = {"chelsea": (40, 90), "astronaut": (20, 130)}
SIDE = 240
GAP = 8


def comparison(weights: Path) -> NDArray[np.uint8]:
    """(H, W, 3) RGB uint8: one row a photograph, bicubic on the left, the network on the right."""
    engine = open_engine(weights)
    folder = Path(str(resources.files("srtool") / "samples" / "LRx4"))
    rows = []
    for name, (top, left) in DETAILS.items():
        lr = read_image(folder / f"{name}.png").pixels.astype(np.uint8)
        halves = [imresize(lr, 4.0), upscale_tiled(lr, engine)]
        details = [half[top : top + SIDE, left : left + SIDE] for half in halves]
        white = np.full((SIDE, GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([details[0], white, details[1]], 1))
    white = np.full((SIDE, GAP, 3), 255, np.uint8)
    return np.concatenate([rows[0], white, rows[1]], 1)


if __name__ == "__main__":
    write_image(Path(sys.argv[2]), Picture(comparison(Path(sys.argv[1]))))
