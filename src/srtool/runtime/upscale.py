"""The two calls of most users: an image in, an image out; a folder in, a folder out."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from numpy.typing import NDArray

from srtool.models import engine_path
from srtool.runtime import pixels
from srtool.runtime.engine import Engine, Value
from srtool.runtime.events import Event
from srtool.runtime.folder import upscale_images
from srtool.runtime.index import Index
from srtool.runtime.inputs import Inputs, check_writable, jobs_from_inputs
from srtool.runtime.opening import open_engine
from srtool.runtime.upscaling import Options

if TYPE_CHECKING:
    from PIL.Image import Image


@overload
def upscale(
    image: NDArray[Value],
    engine: Engine | str | Path | None = ...,
    options: Options | None = ...,
    *,
    device: int | None = ...,
) -> NDArray[Value]: ...
@overload
def upscale(
    image: Image,
    engine: Engine | str | Path | None = ...,
    options: Options | None = ...,
    *,
    device: int | None = ...,
) -> Image: ...
@overload
def upscale(
    image: str | Path,
    engine: Engine | str | Path | None = ...,
    options: Options | None = ...,
    *,
    out: str | Path | None = ...,
    device: int | None = ...,
) -> NDArray[Any]: ...


def upscale(
    image: Any,
    engine: Engine | str | Path | None = None,
    options: Options | None = None,
    *,
    out: str | Path | None = None,
    device: int | None = None,
) -> Any:
    """Upscale one image.

    image: a path, a PIL image, or an array of (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8,
        uint16, or float32 0..1.
    engine: opened by `open_engine`; or the path of one or the name of a network that ships, which
        stays open for the next call (default: x4-fast-balanced).
    out: for a path, the file to write the result to, with the colour profile and metadata of the
        image; its suffix names the format.
    device: see `open_engine`, where this call opens the engine.
    Returns what it was given, as many times larger as the engine does: an array of the same dtype
        and channels, float32 clamped to 0..1, or a PIL image; for a path an array.
    UsageError for images of another kind, ImageError where the file cannot be read or written,
    EngineError where there is no such engine or it fails.
    """
    opened = engine if isinstance(engine, Engine) else _kept(engine_path(engine), device)
    return pixels.upscale(image, opened, options or Options(), out)


def upscale_folder(  # noqa: PLR0913 - of the public API, as keywords
    inputs: str | Path | list[str | Path],
    out: str | Path,
    engine: Engine | str | Path | None = None,
    options: Options | None = None,
    *,
    suffix: str = "",
    format: str | None = None,
    device: int | None = None,
) -> Generator[Event, None, None]:
    """Upscale the images of folders, patterns or files; what happens with each is told as it does.

    inputs, out, suffix, format: see `jobs_from_inputs`. engine, device: see `upscale`. An image
    that fails is told of and the others still get done; existing results are skipped unless
    `options` say otherwise. Where the iterator is closed early, the images that are being
    written are finished.
    UsageError at once where an input does not exist, nothing is found, or the folder cannot be
    written.
    """
    named = inputs if isinstance(inputs, list) else [inputs]
    found = jobs_from_inputs([str(name) for name in named], Path(out), suffix, format)
    check_writable(found.jobs)
    return _events(found, engine, device, options or Options())


def _events(
    found: Inputs, engine: Engine | str | Path | None, device: int | None, options: Options
) -> Generator[Event, None, None]:
    index = Index(found.folder) if found.folder else None
    try:
        with (
            nullcontext(engine)
            if isinstance(engine, Engine)
            else open_engine(engine, device=device)
        ) as opened:
            yield from upscale_images(found.jobs, opened, options, index=index)
    finally:
        if index is not None:
            index.close()


@lru_cache(maxsize=1)
def _kept(path: Path, device: int | None) -> Engine:
    return open_engine(path, device=device)
