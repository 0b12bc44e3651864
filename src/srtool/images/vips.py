"""libvips, through which all pictures are read and written, and Pillow for the formats that its
wheels lack."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from srtool.errors import ImageError, in_a_line

# Decoders by themselves: `Image.open` has a limit of its own, which the user could not raise
BY_PILLOW = {
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PNM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}


def libvips() -> Any:
    """pyvips, imported on first use, without its cache of operations."""
    import pyvips

    # The cache would keep whole pictures alive, and no operation here is ever repeated
    pyvips.cache_set_max(0)
    return pyvips


def reason_of(error: Any) -> str:
    """One line out of the many of a libvips error.

    libvips collects messages of all threads and past operations in one buffer; the newest stands
    last, and libheif breaks its own before a number.
    """
    lines = [line.strip() for line in error.detail.splitlines() if ": " in line]
    return lines[-1] if lines else "libvips gives no reason"


def interpreted(image: Any) -> Any:
    """Name the colour space that bands and format imply; libvips converts by it when it saves."""
    deep = image.format == "ushort"
    if image.bands < 3:
        return image.copy(interpretation="grey16" if deep else "b-w")
    return image.copy(interpretation="rgb16" if deep else "srgb")


def mapped(image: Any, table: NDArray[Any]) -> Any:
    """Each sample looked up in a table of 256 or 65536."""
    return interpreted(image.maplut(libvips().Image.new_from_array(table[np.newaxis])))


def field_of(image: Any, name: str) -> Any:
    """A metadata field of a libvips image, None where it has none."""
    return image.get(name) if image.get_typeof(name) else None


def check_claim(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: claims {width}x{height} pixels, {width * height:,} where at most "
            f"{max_pixels:,} are expected",
            path=path,
            found=f"{width}x{height}",
            remedy={"max_pixels": width * height},
        )


def by_pillow(file: BinaryIO, path: Path, format: str, max_pixels: int) -> Any:
    """The libvips image of a file of a format in BY_PILLOW; ImageError where it is damaged."""
    module, name = BY_PILLOW[format]
    try:
        image = getattr(import_module(module), name)(io.BytesIO(file.read()))
        width, height = image.size
        check_claim(path, width, height, max_pixels)
        wanted = image.mode
        if wanted not in ("L", "LA", "RGB", "RGBA") and not wanted.startswith("I;16"):
            wanted = "RGBA" if image.has_transparency_data else "RGB"
            wanted = "L" if image.mode == "1" else wanted
        array = np.asarray(image if wanted == image.mode else image.convert(wanted))
    except ImageError:
        raise
    except Exception as error:  # Pillow raises whatever its decoders run into
        reason = in_a_line(error)
        raise ImageError(
            f"{path}: cannot be decoded ({reason}), expected a whole {format} file"
        ) from None
    deep = array.dtype.itemsize == 2
    array = np.ascontiguousarray(array, np.uint16 if deep else np.uint8)
    vips = libvips()
    made = interpreted(vips.Image.new_from_array(array))
    if profile := image.info.get("icc_profile"):
        made.set_type(vips.GValue.blob_type, "icc-profile-data", profile)
    return made
