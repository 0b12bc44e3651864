"""The index of an output folder: which engine and options made which file, and what failed.

One file a shard, `.srtool-index.jsonl`, a line of JSON for each image, appended when the image is
done: a run that is killed loses nothing, and one listing of the folder tells all. Later lines
count. Results that stand in it are no inputs of later runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from srtool.images.folders import INDEX


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` of a folder's images."""

    number: int
    count: int


@dataclass(frozen=True)
class Entry:
    """file: below the output folder, with forward slashes. engine: its fingerprint, with its name
    for people. options: those that change the result, as JSON. failed: why there is no file."""

    file: str
    engine: str = ""
    name: str = ""
    options: str = ""
    failed: str = ""


class Index:
    """What lies in an output folder; `add` writes to this shard's file."""

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        """Reads the files of all shards; lines that were cut off count for nothing."""
        self.folder = folder
        part = f"-{shard.number}-of-{shard.count}" if shard else ""
        self.path = folder / f"{INDEX}{part}.jsonl"
        self.entries: dict[str, Entry] = {}
        for path in index_files(folder):
            for entry in _entries(path):
                before = self.entries.get(entry.file)
                # A failure in one shard says nothing where another one has made the file
                if before is None or before.failed or not entry.failed or path == self.path:
                    self.entries[entry.file] = entry
        self._file: TextIO | None = None

    def of(self, target: Path) -> Entry | None:
        """What is known of a file."""
        return self.entries.get(self.key(target))

    def key(self, target: Path) -> str:
        """The name under which a file stands here."""
        return Path(os.path.relpath(target, self.folder)).as_posix()

    def add(self, entry: Entry) -> None:
        """Note what became of an image. OSError where the folder cannot be written."""
        self.entries[entry.file] = entry
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape")
        self._file.write(json.dumps(asdict(entry)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):  # a full disk costs the index, and `add` said so
                self._file.close()
            self._file = None


@dataclass(frozen=True)
class Status:
    """How many results lie there, of how many, and why those failed that failed of the rest."""

    count: int
    done: int
    failures: tuple[str, ...]


def status_of(results: Iterable[tuple[str, bool]], index: Index | None) -> Status:
    """What has become of results. results: the name of each in the index, and whether it lies
    there."""
    count, done, failures = 0, 0, list[str]()
    for name, lies in results:
        count, done = count + 1, done + lies
        entry = index.entries.get(name) if index and not lies else None
        if entry and entry.failed:
            failures.append(entry.failed)
    return Status(count, done, tuple(failures))


def lies_at(path: Path) -> bool:
    """Whether there is a result; an empty file is none."""
    return path.is_file() and path.stat().st_size > 0


def index_files(folder: Path) -> list[Path]:
    """Those of all shards, in a folder that need not be there."""
    return sorted(folder.glob(f"{INDEX}*.jsonl"))


def results_in(index: Path) -> Iterator[Path]:
    """The files that an index file names as made."""
    for entry in _entries(index):
        if not entry.failed:
            yield Path(os.path.normpath(index.parent / entry.file))


def entries_in(content: str) -> Iterator[Entry]:
    """What the content of an index file says; lines that were cut off say nothing."""
    for line in content.splitlines():
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            yield Entry(**{key: str(value) for key, value in json.loads(line).items()})


def _entries(path: Path) -> Iterator[Entry]:
    try:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    yield from entries_in(content)
