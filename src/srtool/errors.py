"""The errors that a user can cause. The CLI prints them in one line; nothing else reaches them.

Each message says what was found, what was expected, with which file, and what to do next.
"""

from __future__ import annotations


class SrtoolError(Exception):
    """Root of all errors that srtool raises on purpose."""


class UsageError(SrtoolError):
    """The command line or a recipe asks for something that does not exist or fit."""


class ImageError(SrtoolError):
    """One image cannot be read, upscaled or written."""


class CheckpointError(SrtoolError):
    """A file of weights cannot be opened as a network."""


class DataError(SrtoolError):
    """A training or evaluation folder does not hold what it should."""


class EngineError(SrtoolError):
    """An engine cannot be opened or run here."""


class ExportError(SrtoolError):
    """A written engine does not do what the PyTorch network does."""


class AssetError(SrtoolError):
    """A file that srtool uses but does not ship is not installed, or cannot be."""
