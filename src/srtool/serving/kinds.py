"""The formats that travel by HTTP: media type, suffix, and which one a picture comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from srtool.images.files import read_image

Format = Literal["png", "jpg", "webp", "tif", "avif"]

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tif": "image/tiff",
    "avif": "image/avif",
}


def written_format(source: Path) -> Format:
    """The format of a file by its content, where srtool writes that; else PNG."""
    with source.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tif"
    if head[4:8] == b"ftyp" and b"avif" in head[8:]:
        return "avif"
    return "png"


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height that the head of a file gives. ImageError where it is no picture."""
    import pyvips

    try:
        image = pyvips.Image.new_from_file(str(path), access="sequential")
    except pyvips.Error:
        read_image(path)  # says why
        raise
    return image.width, image.height
