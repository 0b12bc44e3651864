"""The one folder that the server writes to."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "srtool-serve-"
LOCK = "lock"


@contextmanager
def private_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that only this user can look into, removed at the end. Those of servers that were
    killed are removed as well: their locks are free."""
    parent = parent or Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = FileLock(folder / LOCK)
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        # one without a lock belongs to a server that is starting right now
        if not (mine and stat.S_ISDIR(found.st_mode) and (folder / LOCK).is_file()):
            return
        with FileLock(folder / LOCK, timeout=0):
            pass
    except (Timeout, OSError):  # in use, or gone
        return
    shutil.rmtree(folder, ignore_errors=True)
