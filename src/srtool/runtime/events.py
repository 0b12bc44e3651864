"""What happens in a run over many images: an event for each, and the sum of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from srtool.errors import SrtoolError
from srtool.runtime.inputs import Job

Kind = Literal["done", "skipped", "other", "failed", "note"]


@dataclass
class Summary:
    """What was done. skipped: exist already; other: exist, but made by another engine or with
    other options. Seconds of decode and encode are spent in threads beside compute, which on a
    GPU is the time in which it computed; total is wall time. Pixels are LR and HR pixels of the
    images done."""

    files: int = 0
    skipped: int = 0
    other: int = 0
    failed: int = 0
    pixels_in: int = 0
    pixels_out: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("decode", "compute", "encode", "total"), 0.0)
    )


@dataclass(frozen=True)
class Event:
    """What the caller may tell the user about one job: it was done, was skipped since its result
    exists, or exists from another engine ("other"), or failed, or there is a note about it.
    message: one line that names the file. pixels_in, pixels_out: of an image that is done. error:
    why it failed."""

    job: Job
    kind: Kind
    message: str = ""
    pixels_in: int = 0
    pixels_out: int = 0
    error: SrtoolError | None = None
