"""The formats that libvips' wheels lack, decoded by Pillow, as a whole."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from srtool.errors import ImageError, in_a_line

# Decoders by themselves: `Image.open` has a limit of its own, which the user could not raise
BY_PILLOW = {
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PNM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}


def check_claim(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{path}: claims {width}x{height} pixels, {width * height / 1e6:.0f} million where at "
            f"most {max_pixels / 1e6:.0f} million are expected",
            path=path,
            found=f"{width}x{height}",
            remedy={"max_pixels": width * height},
        )


def by_pillow(file: BinaryIO, path: Path, format: str, max_pixels: int) -> Any:
    """The libvips image of a file of a format in BY_PILLOW; ImageError where it is damaged."""
    import pyvips

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
    made = pyvips.Image.new_from_array(array)
    names = ("grey16", "rgb16") if deep else ("b-w", "srgb")
    made = made.copy(interpretation=names[made.bands > 2])
    if profile := image.info.get("icc_profile"):
        made.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return made
