"""Which files an engine is opened from, wherever they lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from srtool.errors import EngineError

# How an .onnx file names a file of weights beside it: a StringStringEntryProto of key "location"
_OUTSIDE = re.compile(rb"\x0a\x08location\x12(.)", re.DOTALL)


def engine_files(main: str, read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """An engine with all that opening it may need: its manifest, its float32 companion, weights
    outside the file, and for a plan the .onnx file that it was made of. Names -> contents, empty
    where there is no engine.

    read: gives a file beside the engine by its name, None where there is none.
    """
    files: dict[str, bytes] = {}
    todo = [main]
    while todo:
        name = todo.pop()
        if name in files or (content := read(name)) is None:
            continue
        files[name] = content
        todo += [f"{name}.json", *_names_in(name, content)]
    return files


def read_beside(engine: Path) -> Callable[[str], bytes | None]:
    """Reads files in the folder of an engine on this disk."""

    def read(name: str) -> bytes | None:
        file = engine.parent / name
        return file.read_bytes() if file.is_file() else None

    return read


def weights_outside(onnx: bytes) -> list[str]:
    """The names of the files of weights beside an .onnx file that it takes them from."""
    found: dict[str, None] = {}
    for match in _OUTSIDE.finditer(onnx):
        start = match.end()
        found[onnx[start : start + match[1][0]].decode(errors="replace")] = None
    return list(found)


def weight_files(onnx: Path) -> list[Path]:
    """The files of weights beside an .onnx file. EngineError where one of them is not there."""
    files = [onnx.parent / name for name in sorted(weights_outside(onnx.read_bytes()))]
    for file in files:
        if not file.is_file():
            raise EngineError(
                f"{onnx}: its weights are in {file.name}, which is not there; copy it beside the "
                "file, or have the model written as one file",
                path=file,
            )
    return files


def refused(onnx: Path, library: str, reason: str) -> EngineError:
    """Why a library does not open an .onnx file: it lacks weights, or is none."""
    weight_files(onnx)
    return EngineError(
        f"{onnx}: is no ONNX model that {library} opens ({reason}); "
        "expected a file written by `srtool export`",
        path=onnx,
        found=reason,
        expected="an .onnx file",
    )


def _names_in(name: str, content: bytes) -> Iterator[str]:
    """The files that a file of an engine names, by the last part of each name."""
    if name.endswith(".onnx"):
        yield from weights_outside(content)
    elif name.endswith(".json"):
        manifest = json.loads(content)
        plan = manifest.get("plan") or {}
        for other in (manifest.get("companion"), plan.get("onnx")):
            if other:
                yield PurePosixPath(str(other)).name
