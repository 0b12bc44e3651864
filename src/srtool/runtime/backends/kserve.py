"""A network that a server runs: Triton, or any other that speaks the KServe v2 protocol."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, UsageError
from srtool.manifest import Manifest, ModelFacts, uncertified_reason
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.session import DEFAULT_HALO, DirectSession
from srtool.version import __version__

MANIFEST = "srtool"  # the parameter of a model that holds its engine's manifest
SECONDS = 300.0  # for one answer
_ADDRESS = re.compile(r"(grpc|https?):/{1,2}([^/\s]+)/([^/\s]+)/?")
_DTYPES: dict[str, tuple[Literal["uint8", "float32"], int]] = {  # and the axis of the colours
    "UINT8": ("uint8", -1),
    "FP32": ("float32", -3),
}


@dataclass(frozen=True)
class Service:
    """A model of a server: grpc://host:8001/model, or http://host:8000/model."""

    protocol: str
    host: str
    model: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.host}/{self.model}"


def service_at(engine: str | Path | None) -> Service | None:
    """What an address names; None for anything else. A Path has lost one of the slashes."""
    found = _ADDRESS.fullmatch(str(engine))
    return Service(*found.groups()) if found else None


@dataclass(frozen=True)
class KServe:
    """One model of a server."""

    service: Service
    library: ClassVar = "kserve"
    precision: ClassVar = ""
    on_gpu: ClassVar = False

    def __str__(self) -> str:
        return f"kserve {self.service.protocol}"

    def open(self, path: Path, facts: ModelFacts, threads: int | None = None) -> DirectSession:
        return DirectSession(facts, Client(self.service).infer)


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


class Client:
    """Asks a server for one of its models. Several threads may use it at once."""

    def __init__(self, service: Service) -> None:
        """EngineError where the client's library is not installed."""
        try:
            if service.protocol == "grpc":
                from tritonclient import grpc as library
            else:
                from tritonclient import http as library
        except ImportError:
            raise EngineError(
                f"{service}: needs tritonclient, which is not installed; "
                "pip install 'srtool[triton]'"
            ) from None
        self._service, self._library, self._of_thread = service, library, threading.local()
        self._tensors: tuple[str, str, str] | None = None

    def check(self) -> None:
        """EngineError where the server or the model is not there."""
        try:
            if self._connection().is_model_ready(self._service.model):
                return
            found = "the server has no such model, or it is not ready"
        except Exception as error:  # of two protocols and their libraries
            found = _reason(error)
        raise EngineError(
            f"{self._service}: {found}; expected grpc://HOST:8001/MODEL or http://HOST:8000/MODEL",
            found=found,
        )

    def manifest(self) -> Manifest | None:
        """Of the engine that the model was made of, where srtool wrote the model."""
        try:
            config = self._asked("get_model_config")
        except Exception:  # configurations are an extension of Triton's
            return None
        parameters = config.get("config", config).get("parameters", {})
        text = parameters.get(MANIFEST, {}).get("string_value")
        return Manifest.model_validate_json(text) if text else None

    def facts(self, known: ModelFacts | None) -> ModelFacts:
        """What the model computes, by what it says of its tensors and, where no more is known, a
        trial. EngineError where it takes no images."""
        given, made, dtype = self._names()
        io, _ = _DTYPES[dtype]
        if known is not None:
            return known.model_copy(update={"io": io, "input_name": given, "output_name": made})
        shape = (1, 64, 64, 3) if io == "uint8" else (1, 3, 64, 64)
        found = self.infer(np.full(shape, 128 if io == "uint8" else 0.5, np.dtype(io)))
        height = found.shape[1] if io == "uint8" else found.shape[2]
        if height % 64 or found.ndim != 4:
            raise EngineError(f"{self._service}: made {found.shape} of {shape}: no whole scale")
        return ModelFacts(
            scale=height // 64,
            io=io,
            precision="fp32",
            architecture="unknown",
            halo=DEFAULT_HALO,
            input_name=given,
            output_name=made,
        )

    def infer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """A batch in the form of the model. RuntimeError where the server fails on it."""
        given, made, dtype = self._names()
        tensor = self._library.InferInput(given, list(batch.shape), dtype)
        tensor.set_data_from_numpy(np.ascontiguousarray(batch))
        wanted = [self._library.InferRequestedOutput(made)]
        limit = {"client_timeout": SECONDS} if self._service.protocol == "grpc" else {}
        try:
            answer = self._connection().infer(
                self._service.model, [tensor], outputs=wanted, **limit
            )
            found: NDArray[Any] = answer.as_numpy(made)
        except Exception as error:  # of two protocols and their libraries
            raise RuntimeError(f"{self._service}: {_reason(error)}") from None
        return found

    def _names(self) -> tuple[str, str, str]:
        """Of the input and the output that are images, and their type."""
        if self._tensors is None:
            try:
                about = self._asked("get_model_metadata")
            except Exception as error:
                raise EngineError(f"{self._service}: {_reason(error)}") from None
            given, made = (_images(about.get(key, [])) for key in ("inputs", "outputs"))
            if not given or not made or given[1] != made[1]:
                raise EngineError(
                    f"{self._service}: takes no images: expected an input and an output of "
                    "(N, H, W, 3) UINT8 or (N, 3, H, W) FP32, found "
                    f"{json.dumps(about.get('inputs', []))[:200]}"
                )
            self._tensors = given[0], made[0], given[1]
        return self._tensors

    def _asked(self, method: str) -> dict[str, Any]:
        """What the server says of the model."""
        form = {"as_json": True} if self._service.protocol == "grpc" else {}
        answer: dict[str, Any] = getattr(self._connection(), method)(self._service.model, **form)
        return answer

    def _connection(self) -> Any:
        """One for each thread: those of HTTP are for one only."""
        if not hasattr(self._of_thread, "connection"):
            options: dict[str, Any] = {}
            if self._service.protocol != "grpc":
                options = {"network_timeout": SECONDS, "connection_timeout": SECONDS}
                options["ssl"] = self._service.protocol == "https"
            self._of_thread.connection = self._library.InferenceServerClient(
                self._service.host, **options
            )
        return self._of_thread.connection


def _images(tensors: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Name and type of the first tensor that holds images."""
    for tensor in tensors:
        shape = [int(side) for side in tensor["shape"]]
        _, axis = _DTYPES.get(tensor["datatype"], ("", 0))
        if axis and len(shape) >= 3 and shape[axis] in (3, -1):
            return tensor["name"], tensor["datatype"]
    return None


def _reason(error: Exception) -> str:
    text = getattr(error, "message", lambda: str(error))()
    return " ".join(str(text or error).split())[:200] or type(error).__name__
