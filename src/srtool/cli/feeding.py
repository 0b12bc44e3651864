"""Where `srtool infer` gets its images from other than by name: a list, or a pipe."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from srtool.errors import UsageError

PIPE = "-"


def listed(path: Path) -> list[str]:
    """The lines of a file of names, empty ones left out; "-" is standard input."""
    if str(path) == PIPE:
        return [line for line in sys.stdin.read().splitlines() if line]
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise UsageError(
            f"{path}: no list of files can be read from it ({reason})", path=path, parameter="list"
        ) from None


@contextmanager
def piped(format: str | None) -> Iterator[tuple[Path, Path]]:
    """An image from standard input as a file, and the file whose content goes to standard output
    when the block has made it. format: of the result, default the input's own."""
    from srtool.images.formats import FORMATS, WRITABLE
    from srtool.images.reading import ImageFile

    with tempfile.TemporaryDirectory(prefix="srtool-") as folder:
        source = Path(folder) / "stdin"
        source.write_bytes(sys.stdin.buffer.read())
        with ImageFile(source) as file:
            own = next((ending for ending, name in FORMATS.items() if name == file.format), ".png")
        suffix = f".{format}" if format else own if own in WRITABLE else ".png"
        target = Path(folder) / "out" / f"stdout{suffix}"
        yield source, target
        if target.is_file():
            sys.stdout.buffer.write(target.read_bytes())
            sys.stdout.buffer.flush()
