"""An engine on its way to other machines: its files, kept there by their hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from srtool.assets import cache_folder
from srtool.cluster.storage import open_folder
from srtool.errors import EngineError
from srtool.files import whole_file

# How an .onnx file names a file of weights beside it: a StringStringEntryProto of key "location"
_OUTSIDE = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)


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
    """An engine on this machine with all that opening it may need: its manifest, its float32
    companion, weights outside the file, and for a plan the .onnx file that it was made of."""

    def read(name: str) -> bytes | None:
        file = path.parent / name
        return file.read_bytes() if file.is_file() else None

    return _package(path.name, read, str(path))


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
    files: dict[str, bytes] = {}
    todo = [main]
    while todo:
        name = todo.pop()
        if name in files or (content := read(name)) is None:
            continue
        files[name] = content
        todo += [f"{name}.json", *_names_in(name, content)]
    if main not in files:
        raise EngineError(f"{where}: no such engine", path=where)
    return Package(main, files)


def _names_in(name: str, content: bytes) -> Iterable[str]:
    """The files that a file of an engine names, by the last part of each name."""
    if name.endswith(".onnx"):
        for match in _OUTSIDE.finditer(content):
            start = match.end()
            yield content[start : start + match[1][0]].decode(errors="replace")
    elif name.endswith(".json"):
        manifest = json.loads(content)
        plan = manifest.get("plan") or {}
        for other in (manifest.get("companion"), plan.get("onnx")):
            if other:
                yield PurePosixPath(str(other)).name
