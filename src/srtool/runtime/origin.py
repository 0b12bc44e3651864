"""What made a result: the engine and the options that change its pixels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from srtool.manifest import sha256
from srtool.runtime.index import Entry, Index
from srtool.runtime.upscaling import Options

_WITHOUT_EFFECT = ("tile", "halo", "overwrite", "max_pixels")  # on what a result shows


class Origin:
    """Of the results of one run. Engines of the same weights are one: they differ by less than
    is seen."""

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

    def entry(self, target: Path, index: Index) -> Entry:
        """What the index says of a new result."""
        return self.entry_of(index.key(target))

    def entry_of(self, key: str) -> Entry:
        """The same, of a result by its name in the index."""
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
