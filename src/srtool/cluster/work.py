"""What each worker does with its pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from srtool.runtime.session import BackendName, PrecisionName
from srtool.runtime.upscaling import Options


@dataclass(frozen=True)
class Work:
    """How engines are opened and used. sources, results: URLs of stored folders, empty for paths
    that every machine sees. device: number of the GPU, where no cluster gives workers theirs."""

    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    fallback: str | None = None
    threads: int | None = None
    device: int | None = None
    options: Options = field(default_factory=Options)
    sources: str = ""
    results: str = ""
