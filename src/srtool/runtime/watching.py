"""Pictures as they come into a folder: each is taken when it is whole."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Generator
from pathlib import Path

from srtool.errors import UsageError
from srtool.runtime.inputs import Inputs, Job

EVERY = 2.0  # seconds
_SHARE = 0.2  # of the time that looking may take, where it takes long
_Signature = tuple[int, ...]  # size and time of the last change


def arriving(
    look: Callable[[], Inputs], say: Callable[[str], None], every: float = EVERY
) -> Generator[list[Job], None, None]:
    """The jobs of new and of changed pictures, for ever, a list whenever some are whole.

    The folders are listed anew each time: what a system tells of changes does not come through
    from network drives. A file is whole when two looks find it of the same size and time of
    change and nobody holds a lock on it. say: is told what was left out, and where the folders
    cannot be read for a time.
    """
    arrivals, told = _Arrivals(), set[str]()
    while True:
        start = time.monotonic()
        try:
            found = look()
            jobs, notes = arrivals.whole(found.jobs), found.notes
        except (UsageError, OSError) as error:
            jobs, notes = [], [str(error)]
        for note in notes:
            if note not in told:
                say(note)
        told = set(notes)
        took = time.monotonic() - start
        if jobs:
            yield jobs
        time.sleep(max(every, took * (1 / _SHARE - 1)))


class _Arrivals:
    """What is known of the files of the last look."""

    def __init__(self) -> None:
        self._taken: dict[Path, _Signature] = {}
        self._seen: dict[Path, _Signature] = {}

    def whole(self, jobs: list[Job]) -> list[Job]:
        """Those whose picture has come, or has changed since it was taken."""
        ready, seen, taken = [], dict[Path, _Signature](), dict[Path, _Signature]()
        for job in jobs:
            source = job.source
            before = self._taken.get(source)
            if before is not None and before == _stated(source):
                taken[source] = before
                continue
            now = _opened(source)
            if now is None:
                continue
            if now == self._seen.get(source):
                ready.append(job)
                taken[source] = now
            else:
                seen[source] = now
        self._seen, self._taken = seen, taken
        return ready


def _stated(path: Path) -> _Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _opened(path: Path) -> _Signature | None:
    """None while a file is empty, locked, or gone. On a network drive, opening it asks the server
    what else would come from a cache."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):  # a pipe would be waited for; it is refused in its turn
            with path.open("rb") as file:
                if _is_locked(file.fileno()):
                    return None
                status = os.fstat(file.fileno())
            if not status.st_size:
                return None
    except PermissionError:
        # On Windows somebody has it open; elsewhere it is refused in its turn
        return None if os.name == "nt" else _stated(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _is_locked(descriptor: int) -> bool:
    """Whether another process keeps a lock on it by which nobody is to read it."""
    if os.name == "nt":
        return False  # there, it could not have been opened
    import fcntl

    def is_held(lock: Callable[[int, int], None]) -> bool:
        try:
            lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:  # a drive without such locks
            return False
        lock(descriptor, fcntl.LOCK_UN)
        return False

    return is_held(fcntl.flock) or is_held(fcntl.lockf)
