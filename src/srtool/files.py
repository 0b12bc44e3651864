"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an
    error, remove it otherwise. The suffix is kept, since image writers choose by it. The
    temporary name starts with `.srtool-`, so that a folder scan can pass over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".srtool-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _finish(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _finish(path: Path) -> None:
    """Flush to disk and give the file the permissions an ordinary new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.chmod(0o666 & ~mask)
