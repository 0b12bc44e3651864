"""One's own photographs in the report: before and after, without HR images.

A photograph of many megapixels is not upscaled as a whole: a few busy parts of it are, and the one
in which the engines differ most is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.report.pictures import (
    VIEW,
    Box,
    Picture,
    Version,
    busiest,
    busiest_within,
    changes_between,
    opened_engines,
    upscaled_by_all,
)
from srtool.errors import DataError, ImageError
from srtool.images.colour import luma
from srtool.images.datasets import Image, image_files
from srtool.images.reading import read_rgb
from srtool.runtime.engine import Engine

WHOLE = 512 * 512  # LR pixels of a photograph that is upscaled as a whole
REGION = 256  # LR pixels of a side of the part that is shown of a larger one
LOOKS, LOOK = 9, 96  # parts that are tried, and their side
DETAILS = 3


def pictures_from_photographs(
    paths: Sequence[Path],
    engines: Sequence[Path],
    count: int,
    report: Callable[[str], None] = lambda line: None,
    device: int | None = None,
    leave_out: Callable[[str], None] = lambda why: None,
) -> list[Picture]:
    """Upscale parts of the first `count` photographs of files and folders by each engine. device:
    see `open_engine`. leave_out: told why a file is passed over that cannot be read.

    DataError where there is no photograph that can be read; EngineError and UsageError as in
    `pictures_from_images`.
    """
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"{paths[0]}: holds no photographs; expected files like photo.jpg")
    with opened_engines(engines, None, device) as opened:
        pictures: list[Picture] = []
        for path in files:
            if len(pictures) == count:
                break
            report(f"{path.name} ({len(pictures) + 1} of {min(count, len(files))})")
            try:
                photograph = read_rgb(path)
            except ImageError as error:
                leave_out(str(error))
            else:
                pictures.append(picture_of(path.name, photograph, opened))
    if not pictures:
        raise DataError(f"{paths[0]}: holds no photograph that can be read")
    return pictures


def picture_of(name: str, photograph: Image, engines: dict[str, Engine]) -> Picture:
    """photograph: (H, W, 3) RGB uint8, as it is; its region becomes (4 h, 4 w, 3)."""
    region = _region(photograph, engines, name)
    lr = np.ascontiguousarray(region.of(photograph))
    made = upscaled_by_all(lr, engines, name)
    changes = changes_between(made)
    view = busiest(changes, VIEW)
    height, width = photograph.shape[:2]
    remark = ""
    if (region.width, region.height) != (width, height):
        remark = (
            f"The {region.width}×{region.height} pixels at {region.left},{region.top} of "
            f"{width}×{height}: where the engines differ most, of {LOOKS} busy parts."
        )
    versions = tuple(Version(key, image) for key, image in made.items())
    return Picture(name, versions, view, busiest_within(changes, view, DETAILS), remark=remark)


def _region(photograph: Image, engines: dict[str, Engine], name: str) -> Box:
    """Of a large photograph the part that is worth showing, in its own pixels."""
    height, width = photograph.shape[:2]
    if height * width <= WHOLE:
        return Box(0, 0, width, height)
    best, most = Box(0, 0, LOOK, LOOK), -1.0
    for look in _busy_parts(photograph):
        made = upscaled_by_all(np.ascontiguousarray(look.of(photograph)), engines, name)
        change = float(changes_between(made).mean())
        if change > most:
            best, most = look, change
    side = REGION
    left = min(max(0, best.left + best.width // 2 - side // 2), max(0, width - side))
    top = min(max(0, best.top + best.height // 2 - side // 2), max(0, height - side))
    return Box(left, top, min(side, width - left), min(side, height - top))


def _busy_parts(photograph: Image) -> list[Box]:
    """LOOKS squares with the strongest gradients, none inside another."""
    y = luma(photograph, rounded=False)
    energy: NDArray[np.float64] = np.zeros(y.shape)
    energy[:, 1:] += np.abs(np.diff(y, axis=1))
    energy[1:] += np.abs(np.diff(y, axis=0))
    found: list[Box] = []
    for _ in range(LOOKS):
        part = busiest(energy, LOOK)
        if found and not part.of(energy).any():
            break
        found.append(part)
        part.of(energy)[:] = 0
    return found
