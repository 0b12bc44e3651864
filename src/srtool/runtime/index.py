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

from srtool.files import sha256
from srtool.images.folders import INDEX
from srtool.runtime.upscaling import Options

_WITHOUT_EFFECT = ("tile", "halo", "overwrite", "max_pixels")  # on what a result shows


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


class Origin:
    """What made the results of one run: the engine and the options that change pixels. Engines of
    the same weights are one: they differ by less than is seen."""

    def __init__(self, path: Path, weights_sha256: str, options: Options) -> None:
        """path: of the engine. weights_sha256: of what it was made of, empty where unknown."""
        self._path, self._fingerprint = path, weights_sha256
        chosen = {
            name: value
            for name, value in asdict(options).items()
            if name not in _WITHOUT_EFFECT and value is not None
        }
        self._options = json.dumps(chosen, sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Of the weights, else of the engine's file."""
        if not self._fingerprint:
            self._fingerprint = sha256(self._path) if self._path.is_file() else str(self._path)
        return self._fingerprint

    def entry(self, key: str) -> Entry:
        """What the index says of a new result. key: its name there."""
        return Entry(key, self.fingerprint, self._path.name, self._options)

    def difference(self, entry: Entry) -> str:
        """In what an existing result differs from what would be made now; empty where it does
        not."""
        if entry.engine != self.fingerprint:
            return f"made by another engine ({entry.name})"
        if entry.options != self._options:
            before, now = _in_words(entry.options), _in_words(self._options)
            return f"made with other options ({before}; now {now})"
        return ""


def _in_words(options: str) -> str:
    """Options as they stand in an index, as "scale 3.0, quality 90"; "none" where none does."""
    try:
        chosen = json.loads(options or "{}")
        chosen.update(chosen.pop("size", None) or {})
    except (ValueError, AttributeError, TypeError, RecursionError):
        return options
    given = [f"{name.replace('_', ' ')} {value}" for name, value in chosen.items() if value]
    return ", ".join(given) or "none"


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
