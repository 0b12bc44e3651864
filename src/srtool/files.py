"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# Machine, process and a random number
_TEMPORARY = re.compile(r"\.srtool-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}(?:\..*)?")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an
    error, remove it otherwise. The suffix is kept, since image writers choose by it. The
    temporary name starts with `.srtool-`, so that a folder scan can pass over it. What processes
    left there that died on this machine is removed. An OSError of the block names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    name = f".srtool-{_machine()}-{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    temporary = path.with_name(name)
    # Made here and not by the writer: O_EXCL never follows or reuses what is there.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@cache
def remove_stale(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, once for each folder."""
    if sys.platform == "win32":
        return  # asking whether a process lives would end it
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and match[1] == _machine() and not _lives(int(match[2])):
                with suppress(OSError):
                    os.unlink(entry.path)


@cache
def _machine() -> str:
    """Eight digits for this machine: folders may be shared."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
