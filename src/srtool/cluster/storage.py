"""Folders in object storage, through fsspec: listed, read, and written whole or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import url2pathname

from srtool.errors import StorageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

# Extra packages of the stores that people use; fsspec knows many more.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
# An object appears in these only when it was sent whole. Elsewhere a file is written under a
# temporary name and moved.
_ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs"})
_CONNECTIONS = 16  # to a store, at a time
TRIES = 6  # the last one after about half a minute
_FIRST_WAIT = 0.5  # seconds, doubled at every try


def is_url(text: str) -> bool:
    """Whether a user's word names object storage: `s3://bucket/folder`, `zip://*::photos.zip`."""
    return "://" in text


def without_scheme(text: str) -> str:
    """The path that a URL of this machine's disk means, file:///photos/a%20b; all else as it is."""
    return url2pathname(text.removeprefix("file://")) if text.startswith("file:///") else text


@dataclass(frozen=True)
class Folder:
    """A folder of a file system that fsspec knows.

    url: as the user gave it. root: its path in `system`, without a slash at the end.
    Credentials come from the store's own ways (environment, profile, instance role) and are
    neither taken nor shown here.
    """

    url: str
    system: AbstractFileSystem = field(repr=False)
    root: str

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below the folder by its name relative to it, in one listing that
        the store gives by pages. Empty where the folder does not exist."""
        try:
            listing = _tried(lambda: self.system.find(self.root, detail=True), self.url)
        except FileNotFoundError:
            return {}
        start = len(self.root) + 1 if self.root else 0
        return {name[start:]: int(entry["size"] or 0) for name, entry in listing.items()}

    def read(self, name: str) -> bytes:
        """The bytes of one object. StorageError where it cannot be had."""
        data: bytes = _tried(lambda: self.system.cat_file(self._path(name)), f"{self.url}/{name}")
        return data

    def write(self, name: str, file: Path) -> None:
        """Send a local file: under `name` there is never anything but the whole of it."""
        path, where = self._path(name), f"{self.url}/{name}"
        if _protocol(self.system) in _ATOMIC:
            _tried(lambda: self.system.put_file(str(file), path), where)
            return
        folder, _, last = path.rpartition("/")
        unfinished = f"{folder}/.srtool-{random.getrandbits(48):012x}-{last}"

        def send() -> None:
            self.system.makedirs(folder, exist_ok=True)
            self.system.put_file(str(file), unfinished)
            self.system.mv(unfinished, path)

        try:
            _tried(send, where)
        except StorageError:
            if self.system.exists(unfinished):
                self.system.rm_file(unfinished)
            raise

    def below(self, other: Folder) -> str | None:
        """How its objects are called in another folder, up to their own names: "" where the two are
        one, "out/" for one in it, None where it lies elsewhere."""
        if type(self.system) is not type(other.system):
            return None
        mine, theirs = (f"{folder.root}/" if folder.root else "" for folder in (self, other))
        return mine.removeprefix(theirs).lstrip("/") if mine.startswith(theirs) else None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if self.root else name


def open_folder(url: str) -> Folder:
    """The folder that a URL names.

    StorageError where the store is not known, its package is not installed, or it refuses.
    """
    import fsspec

    protocol = url.partition("://")[0].rpartition("::")[2]
    try:
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol in ("s3", "s3a"):  # botocore waits longer and longer when it is throttled
            retries = {"max_attempts": TRIES, "mode": "adaptive"}
            options["config_kwargs"] = {"max_pool_connections": _CONNECTIONS, "retries": retries}
        system, root = fsspec.url_to_fs(url, **(options if "::" not in url else {}))
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(protocol)
        need = f"; pip install {package}" if package and isinstance(error, ImportError) else ""
        raise StorageError(f"{url}: cannot be opened ({error}){need}", found=protocol) from None
    except OSError as error:
        raise StorageError(f"{url}: cannot be opened ({_line(error)})") from None
    return Folder(url.rstrip("/"), system, root.rstrip("/*"))


def _protocol(system: AbstractFileSystem) -> str:
    return system.protocol if isinstance(system.protocol, str) else system.protocol[0]


def _tried(attempt: Callable[[], T], where: str) -> T:
    """The result of an attempt, made again with growing waits where the network or the store was
    at fault; StorageError where it stays so, FileNotFoundError as it is."""
    for wait in _waits():
        try:
            return attempt()
        except FileNotFoundError:  # noqa: PERF203
            raise
        except PermissionError as error:
            raise StorageError(f"{where}: the store refuses ({_line(error)})") from None
        except Exception as error:  # each store has errors of its own
            if wait is None:
                raise StorageError(f"{where}: {_line(error)}; tried {TRIES} times") from None
            time.sleep(wait)
    raise AssertionError


def _waits() -> Iterator[float | None]:
    for number in range(TRIES - 1):
        yield _FIRST_WAIT * 2**number * random.uniform(0.5, 1.5)
    yield None


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
