"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an
    error, remove it otherwise. The suffix is kept, since image writers choose by it. The
    temporary name starts with `.srtool-`, so that a folder scan can pass over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".srtool-{secrets.token_hex(6)}{path.suffix}")
    # Made here and not by the writer: O_EXCL never follows or reuses what is there.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
