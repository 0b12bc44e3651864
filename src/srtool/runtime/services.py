"""Opening a network that a server runs."""

from __future__ import annotations

from pathlib import Path

from srtool.errors import UsageError
from srtool.manifest import Manifest, uncertified_reason
from srtool.runtime.backends.kserve import Client, KServe, Service
from srtool.runtime.engine import Engine, EngineInfo
from srtool.version import __version__


def service_manifest(service: Service) -> Manifest:
    """What is known of a served network: its engine's manifest where srtool wrote the model, else
    what a trial shows. EngineError where there is no such model, or it takes no images."""
    client = Client(service)
    client.check()
    known = client.manifest()
    facts = client.facts(known.model if known else None)
    if known is None:
        return Manifest(model=facts, sha256="", opset=0, srtool=__version__, made="")
    return known.model_copy(update={"model": facts})


def open_service(service: Service, backend: str = "auto", precision: str = "auto") -> Engine:
    """Open it. UsageError where another backend or precision is asked for: the server decides."""
    for name, value in (("backend", backend), ("precision", precision)):
        if value != "auto":
            raise UsageError(
                f"{service}: the server decides what it runs on", parameter=name, found=value
            )
    manifest = service_manifest(service)
    runs = KServe(service)
    path = Path(str(service))
    reason = uncertified_reason(manifest, str(runs))
    info = EngineInfo(path, manifest.model, runs, "the server's choice", reason)
    return Engine(info, runs.open(path, manifest.model))
