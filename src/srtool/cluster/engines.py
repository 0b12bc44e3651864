"""An engine on its way to other machines: its files, kept there by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from srtool.assets import cache_folder
from srtool.cluster.storage import open_folder
from srtool.errors import EngineError
from srtool.files import whole_file
from srtool.runtime.engine_files import engine_files, read_beside


@dataclass(frozen=True)
class Package:
    """An engine's files by their names. main: the one to open."""

    main: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents, in hex."""
        found = hashlib.sha256()
        for name in sorted(self.files):
            found.update(name.encode() + b"\0" + hashlib.sha256(self.files[name]).digest())
        return found.hexdigest()


def unpack(main: str, digest: str, package: Callable[[], Package]) -> Path:
    """The engine in this machine's cache. package: asked for only where it is not there yet."""
    folder = cache_folder() / "engines" / digest[:32]
    complete = folder / ".complete"  # written last
    if not complete.is_file():
        for name, content in package().files.items():
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(content)
        complete.touch()
    return folder / main


def package_from_engine(path: Path) -> Package:
    """An engine on this machine with all that opening it may need."""
    return _package(path.name, read_beside(path), str(path))


def fetched_engine(url: str) -> Path:
    """An engine in object storage -> the same in this machine's cache. EngineError where there is
    none."""
    address, _, name = url.rpartition("/")
    folder = open_folder(address)
    there = folder.sizes()

    def read(name: str) -> bytes | None:
        return folder.read(name) if name in there else None

    package = _package(name, read, url)
    return unpack(package.main, package.digest, lambda: package)


def _package(main: str, read: Callable[[str], bytes | None], where: str) -> Package:
    files = engine_files(main, read)
    if not files:
        raise EngineError(f"{where}: no such engine", path=where)
    return Package(main, files)
