"""What made a result: the engine and the options that change its pixels."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from srtool.manifest import sha256
from srtool.runtime.engine import Engine
from srtool.runtime.index import Entry, Index
from srtool.runtime.upscaling import Options

_WITHOUT_EFFECT = ("tile", "halo", "overwrite", "max_pixels")  # on what a result shows


class Origin:
    """Of the results of one run. Engines of the same weights are one: they differ by less than
    is seen."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine, self._fingerprint = engine, ""
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
            self._fingerprint = self._engine.facts.weights_sha256
        if not self._fingerprint:
            path = self._engine.path
            self._fingerprint = sha256(path) if path.is_file() else str(path)
        return self._fingerprint

    def entry(self, target: Path, index: Index) -> Entry:
        """What the index says of a new result."""
        name = self._engine.path.name
        return Entry(index.key(target), self.fingerprint, name, self._options)

    def difference(self, entry: Entry) -> str:
        """In what an existing result differs from what would be made now; empty where it does
        not."""
        if entry.engine != self.fingerprint:
            return f"made by another engine ({entry.name})"
        if entry.options != self._options:
            return f"made with other options ({entry.options}, now {self._options})"
        return ""
