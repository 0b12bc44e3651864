"""The errors that a user can cause. The CLI prints them in one line; nothing else reaches them.

Each message says what was found, what was expected, with which file, and what to do next. What a
program may want to know of it stands in fields: nobody has to read the message for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class SrtoolError(Exception):
    """Root of all errors that srtool raises on purpose.

    path: the file that it is about. found, expected: in words. parameter: the argument that is at
    fault, by its name in Python. remedy: arguments that would help, {"depth": 8}. Each is None or
    empty where there is none. The command line adds its own names for parameter and remedy.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        found: str = "",
        expected: str = "",
        parameter: str = "",
        remedy: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.path = None if path is None else Path(path)
        self.found, self.expected = found, expected
        self.parameter, self.remedy = parameter, dict(remedy or {})


class UsageError(SrtoolError):
    """The command line, a call or a recipe asks for something that does not exist or fit."""


class ImageError(SrtoolError):
    """One image cannot be read, upscaled or written."""


class CheckpointError(SrtoolError):
    """A file of weights cannot be opened as a network."""


class DataError(SrtoolError):
    """A training or evaluation folder does not hold what it should."""


class EngineError(SrtoolError):
    """An engine cannot be opened or run here."""


class ChangedFileError(EngineError):
    """A file is not the one that its manifest describes."""


class ExportError(SrtoolError):
    """A written engine does not do what the PyTorch network does."""


class AssetError(SrtoolError):
    """A file that srtool uses but does not ship is not installed, or cannot be."""


class StorageError(SrtoolError):
    """Object storage cannot be reached, read or written."""


def in_a_line(error: BaseException, length: int | None = 160) -> str:
    """What a library's exception says, for a message of ours; its name where it says nothing."""
    return " ".join(str(error).split())[:length] or type(error).__name__
