"""The formats that travel by HTTP, and which one a picture comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from srtool.images.formats import HEAD, format_of

Format = Literal["png", "jpg", "webp", "tif", "avif"]

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
    "tif": "image/tiff",
    "avif": "image/avif",
}
_WRITTEN: dict[str | None, Format] = {"JPEG": "jpg", "WebP": "webp", "TIFF": "tif", "AVIF": "avif"}


def written_format(source: Path) -> Format:
    """The format of a file by its content, where srtool writes that; else PNG."""
    with source.open("rb") as file:
        return _WRITTEN.get(format_of(file.read(HEAD)), "png")
