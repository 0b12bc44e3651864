"""Files that are either whole or absent: written under a temporary name, then renamed; private
folders that go; hashes of files, and what is said where one cannot be written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar

from filelock import FileLock, Timeout

from srtool.errors import ChangedFileError, SrtoolError

_JOURNAL = ".journal"
_TRIES = 5  # to open files that keep being replaced

# Machine, process and a random number: four digits for what is done, eight for the file
_TEMPORARY = re.compile(r"\.srtool-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}(?:\..*)?")

_PRIVATE, _LOCK = "srtool-", ".srtool-private.lock"  # a private folder, and what it alone holds


class Opened(Protocol):
    """What was opened and can be closed."""

    def close(self) -> None: ...


Thing = TypeVar("Thing", bound=Opened)


@contextmanager
def locked(path: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Keep other processes from writing a file. The system takes the lock back from a process
    that dies; the file that stands for it says nothing by being there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".srtool-{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process writes {path}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """As `whole_file`, for several files of one folder that take their places as one: the new set
    or the old one, whenever the process ends. One process at a time: to be `locked`.

    The names are written down first. From then on the set is the new one: `settle`, which readers
    and writers call, finishes what an ended process left.
    """
    folder = paths[0].parent
    settle(folder)
    with ExitStack() as left:
        made = {path: _temporary(path) for path in paths}
        for temporary in made.values():
            left.callback(temporary.unlink, missing_ok=True)
        yield made
        for temporary in made.values():
            _to_disk(temporary)
        names = {temporary.name: path.name for path, temporary in made.items()}
        journal = folder / f".srtool-{secrets.token_hex(6)}{_JOURNAL}"
        left.callback(_finish, journal)  # an interrupt between here and the end finds it there
        write_whole(journal, json.dumps(names))


def settle(folder: Path) -> None:
    """Finish the sets of files in a folder that a process had begun to put in their places."""
    with suppress(OSError):
        for entry in list(folder.glob(f".srtool-*{_JOURNAL}")):
            if not _TEMPORARY.fullmatch(entry.name):  # one that is still being written
                _finish(entry)


def open_as_one(paths: Sequence[Path], open: Callable[[], Thing]) -> Thing:
    """What `open` makes of some files, all of one set: where one of them was replaced meanwhile,
    it is closed and they are opened again. ChangedFileError where that goes on and on."""

    def found() -> list[tuple[int, int, int] | None]:
        return [_identity(path) for path in paths]

    for _ in range(_TRIES):
        before = found()
        try:
            opened = open()
        except SrtoolError:
            if found() == before:
                raise
            continue
        if found() == before:
            return opened
        opened.close()
    raise ChangedFileError(
        f"{paths[0]}: is being replaced again and again; wait until it is written", path=paths[0]
    )


@contextmanager
def writing(
    path: Path, kind: type[SrtoolError], remedy: str, parameter: str = ""
) -> Iterator[None]:
    """An OSError of the block as an error of ours, of that kind: what cannot be written, and why.
    remedy: what to do, in words. parameter: the argument that is at fault."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"{path}: cannot be written ({error.strerror or error}); {remedy}",
            path=path,
            parameter=parameter,
        ) from None


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can look into, removed at the end, and with it those of
    processes that were killed: their locks are free."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE))
    try:
        # Whoever closes a generator may do so in another thread
        with FileLock(folder / _LOCK, thread_local=False):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    try:
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        # one without a lock belongs to a process that makes it right now
        if not (mine and stat.S_ISDIR(found.st_mode) and (folder / _LOCK).is_file()):
            return
        with FileLock(folder / _LOCK, timeout=0):
            pass
    except (Timeout, OSError):  # in use, or gone
        return
    shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return file_digest(path, hashlib.sha256())


def file_digest(path: Path, digest: hashlib._Hash) -> str:
    """The hash of a file's content, in hex. digest: of what comes before it."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Which file stands under a name: one that takes another's place is another one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _finish(journal: Path) -> None:
    """Rename what a journal names, as far as it is not done. Two processes may do so at once."""
    try:
        names = json.loads(journal.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    for temporary, name in names.items():
        if {Path(temporary).name, Path(name).name} != {temporary, name}:
            continue  # names of this folder only
        with suppress(FileNotFoundError):
            (journal.parent / temporary).replace(journal.parent / name)
    journal.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an
    error, remove it otherwise. The suffix is kept, since image writers choose by it. The
    temporary name starts with `.srtool-`, so that a folder scan can pass over it. What processes
    left there that died on this machine is removed. An OSError of the block names the file."""
    temporary = _temporary(path)
    try:
        yield temporary
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """A text in UTF-8, or bytes, as `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    name = f".srtool-{_owner or new_owner()}{secrets.token_hex(4)}{path.suffix}"
    temporary = path.with_name(name)
    # Made here and not by the writer: O_EXCL never follows or reuses what is there.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def new_owner() -> str:
    """How names of temporary files begin that are this process's, and this purpose's."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(2)}"


def write_for(owner: str) -> None:
    """From now on the temporary files of this process are those of another one, which made that
    `new_owner`: they stay no longer than it does, or until it calls `remove_those_of`."""
    global _owner
    _owner = owner


_owner = ""  # of the temporary files, where that is another process


def remove_those_of(owner: str, folder: Path) -> None:
    """Remove the temporary files that were written for an owner: to be called when nobody does so
    any more."""
    _remove(folder, lambda match: match[0].startswith(f".srtool-{owner}"))


@cache
def remove_stale(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, once for each folder."""
    settle(folder)  # before what a journal names counts as left over
    if sys.platform == "win32":
        return  # asking whether a process lives would end it
    _remove(folder, lambda match: match[1] == _machine() and not _lives(int(match[2])))


def _remove(folder: Path, is_left: Callable[[re.Match[str]], bool]) -> None:
    """Remove the temporary files whose names are left over."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and is_left(match):
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
