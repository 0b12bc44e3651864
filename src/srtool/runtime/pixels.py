"""What users hand over as an image -> what the engine takes, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError, in_a_line
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image
from srtool.runtime.gpu.cuda import OutOfMemory
from srtool.runtime.guard import Guard
from srtool.runtime.session import TileEngine
from srtool.runtime.upscaling import Options, upscale_picture

DTYPES = (np.uint8, np.uint16, np.float32)
_SHAPES = "(H, W), (H, W, 3) or (H, W, 4)"
# PIL mode -> the mode whose array is taken, and whether the result goes back to the first
_MODES = {"1": "L", "L": "L", "LA": "RGBA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16"}


def upscale(image: Any, engine: TileEngine, options: Options, out: str | Path | None = None) -> Any:
    """See `Engine.upscale` and, for `out`, `srtool.upscale`."""
    if isinstance(image, (str, Path)):
        picture = _guarded(read_image(Path(image), options.max_pixels), engine, options)
        if out is not None:
            write_image(Path(out), picture, options.quality)
        return _array_from_picture(picture)
    if out is not None:
        raise UsageError(
            "a file is written of what was read from one; save the result of an array or a PIL "
            "image yourself",
            parameter="out",
        )
    if isinstance(image, np.ndarray):
        return _through(image, lambda picture: _guarded(picture, engine, options))
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return _upscale_pil(pil, image, engine, options)
    kind = f"{type(image).__module__}.{type(image).__qualname__}"
    raise UsageError(
        f"the image is a {kind}, expected a path, a numpy array or a PIL image",
        parameter="image",
        found=kind,
        expected="a path, a numpy array or a PIL image",
    )


def _guarded(picture: Picture, engine: TileEngine, options: Options) -> Picture:
    """As `upscale_picture`; what the backend raises becomes an EngineError."""
    try:
        return upscale_picture(picture, engine, options, Guard(engine))
    except (RuntimeError, MemoryError) as error:
        reason = in_a_line(error)
        raise EngineError(
            f"{engine.path}: fails on the image ({reason})",
            path=engine.path,
            found=reason,
            remedy={"tile": 128} if isinstance(error, MemoryError | OutOfMemory) else {},
        ) from None


def _picture_from_array(image: NDArray[Any]) -> Picture:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8, uint16 or float32 0..1. UsageError for
    anything else."""
    check_dtype(image.dtype, "image")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in image.shape:
        raise UsageError(
            f"the image has the shape {image.shape}, expected {_SHAPES}",
            parameter="image",
            found=str(image.shape),
            expected=_SHAPES,
        )
    if image.dtype == np.float32:
        _check_range(image)
    if channels == 1:
        return Picture(np.stack([image.reshape(image.shape[:2])] * 3, -1), gray=True)
    alpha = np.ascontiguousarray(image[..., 3]) if channels == 4 else None
    return Picture(np.ascontiguousarray(image[..., :3]), alpha)


def _array_from_picture(picture: Picture) -> NDArray[Any]:
    """(H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA of the picture's dtype."""
    if picture.alpha is not None:
        return np.concatenate([picture.pixels, picture.alpha[..., None]], -1)
    return picture.pixels[..., 0].copy() if picture.gray else picture.pixels


def check_dtype(dtype: np.dtype[Any], parameter: str) -> None:
    """UsageError unless it is one of DTYPES."""
    if dtype not in DTYPES:
        raise UsageError(
            f"the {parameter} has the dtype {dtype}, expected uint8, uint16, or float32 in 0..1",
            parameter=parameter,
            found=str(dtype),
            expected="uint8, uint16 or float32",
        )


def _check_range(image: NDArray[np.float32]) -> None:
    low, high = float(image.min()), float(image.max())
    # A little beyond is what filters leave; NaN fails every comparison.
    if not (low >= -0.5 and high <= 1.5):
        raise UsageError(
            f"the float32 image has values from {low:g} to {high:g}, expected 0..1",
            parameter="image",
            found=f"{low:g} to {high:g}",
            expected="0..1",
        )


def _through(image: NDArray[Any], upscaled: Callable[[Picture], Picture]) -> NDArray[Any]:
    found = _array_from_picture(upscaled(_picture_from_array(image)))
    return found[..., None] if image.ndim == 3 and image.shape[2] == 1 else found


def _upscale_pil(pil: Any, image: Any, engine: TileEngine, options: Options) -> Any:
    """Palettes become RGB or RGBA; the other modes come back as they are, with their `info`."""
    mode = image.mode
    if mode == "P":
        mode = "RGBA" if "transparency" in image.info else "RGB"
        image = image.convert(mode)
    if mode not in _MODES:
        raise UsageError(
            f"the PIL image has the mode {mode}, expected one of {', '.join(_MODES)}, P; "
            'image.convert("RGB") makes it one',
            parameter="image",
            found=mode,
            expected=", ".join(_MODES),
        )
    given = image if image.mode == _MODES[mode] else image.convert(_MODES[mode])
    found = _through(np.asarray(given), lambda picture: _guarded(picture, engine, options))
    made = pil.fromarray(found)
    if mode == "LA":
        made = made.convert("LA")
    made.info = dict(image.info)
    return made
