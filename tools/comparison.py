"""The picture of the README: details of the sample photographs by every means, side by side.

python tools/comparison.py docs/comparison.png animevideov3=realesr-animevideov3.pth \\
    weights/x4-fast.safetensors weights/x4-fast-perceptual.safetensors

Only the samples are shown, whose licences are named in src/srtool/samples/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.images.folders import SAMPLES
from srtool.images.imresize import imresize
from srtool.images.picture import Picture
from srtool.images.reading import read_rgb
from srtool.images.writing import write_image
from srtool.runtime.opening import open_engine
from srtool.runtime.tiling import upscale_tiled
from srtool.train.data.patches import written

Image = NDArray[np.uint8]

# Top left corner in HR pixels of a detail of each photograph that is difficult: fur and whiskers,
# small print on saturated cloth, a dark lattice with lights before a flat sky.
DETAILS = {"chelsea": (165, 100), "astronaut": (330, 110), "rocket": (288, 100)}
SIDE = 132
GAP = 6
HEADING = 22


def comparison(networks: Sequence[str]) -> Image:
    """(H, W, 3) RGB uint8: one row a photograph; LR, bicubic, every network, HR from the left.
    networks: paths, NAME=PATH where the heading is to be another than the file's name."""
    named = [network.rpartition("=")[::2] for network in networks]
    engines = {name or Path(path).stem: open_engine(path) for name, path in named}
    titles = ["LR", "bicubic", *engines, "HR"]
    width = len(titles) * (SIDE + GAP) - GAP
    picture = np.full((HEADING + len(DETAILS) * (SIDE + GAP) - GAP, width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        _put(picture, 2, column * (SIDE + GAP), written(title))
    for row, (name, (top, left)) in enumerate(DETAILS.items()):
        lr = read_rgb(SAMPLES / "LRx4" / f"{name}.png")
        hr = read_rgb(SAMPLES / "HR" / f"{name}.png")
        images = [lr.repeat(4, 0).repeat(4, 1), imresize(lr, 4.0)]
        images += [upscale_tiled(lr, engine) for engine in engines.values()]
        for column, image in enumerate([*images, hr]):
            detail = image[top : top + SIDE, left : left + SIDE]
            _put(picture, HEADING + row * (SIDE + GAP), column * (SIDE + GAP), detail)
    return picture


def _put(picture: Image, top: int, left: int, image: Image) -> None:
    picture[top : top + image.shape[0], left : left + image.shape[1]] = image


if __name__ == "__main__":
    write_image(Path(sys.argv[1]), Picture(comparison(sys.argv[2:])))
