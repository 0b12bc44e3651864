"""Opening an engine: one opener for each kind of file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from srtool.errors import EngineError, UsageError
from srtool.files import open_as_one
from srtool.manifest import sidecar
from srtool.models import engine_path
from srtool.runtime.backends.kserve import open_service, service_at
from srtool.runtime.backends.torch import Torch
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.foreign import NOTHING_KNOWN, Foreign
from srtool.runtime.gpu.devices import check_device
from srtool.runtime.onnx_files import Request, open_onnx
from srtool.runtime.plan_files import PLAN, open_plan
from srtool.runtime.session import BackendName, PrecisionName

CHECKPOINTS = frozenset({".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl"})


def open_engine(  # noqa: PLR0913 - of the public API, as keywords
    path: str | Path | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    *,
    fallback: str | None = None,
    threads: int | None = None,
    device: int | None = None,
    foreign: Foreign = NOTHING_KNOWN,
) -> Engine:
    """Open an engine: an .onnx file, a TensorRT plan, weights as the PyTorch reference, or by name
    one of the networks that come with srtool (default: x4-fast-balanced).

    backend "auto" takes the fastest choice that is faithful according to the manifest: OpenVINO
    in bfloat16 where the CPU has it and the export certified it; else the fastest of ONNX Runtime
    on the GPU, OpenVINO and ONNX Runtime in float32, timed on a small tile. precision "bf16"
    insists on bfloat16. fallback: what runs instead of a plan that cannot run here, "onnxruntime"
    for the .onnx file that it was made of, or the path of one. threads: of the CPU, default all
    cores; with PyTorch they are those of the whole process. device: the number of the GPU among
    those that are visible (CUDA_VISIBLE_DEVICES), for what runs on one; default: the first.
    foreign: of an .onnx file that srtool did not write, what a trial on a photograph does not tell.

    EngineError where there is no such engine or GPU, or it does not run here, CheckpointError where
    weights are none, UsageError where a choice does not fit the file.
    """
    check_device(device)
    if service := service_at(path):
        for name, value in (("fallback", fallback), ("threads", threads)):
            if value is not None:
                raise UsageError(
                    f"{service}: the server decides how it runs", parameter=name, found=str(value)
                )
        return open_service(service, backend, precision)
    path = engine_path(path)
    if threads is not None and threads < 1:
        raise UsageError(
            f"{threads} threads compute nothing, expected at least 1",
            parameter="threads",
            found=str(threads),
            expected="at least 1",
        )
    if fallback is not None and path.suffix != PLAN:
        raise UsageError(
            f"{path}: a fallback is for plans (.plan); any machine runs this file",
            path=path,
            parameter="fallback",
        )
    if foreign != NOTHING_KNOWN and path.suffix.lower() != ".onnx":
        raise UsageError(
            f"{path}: range and output are for .onnx files that srtool did not write",
            path=path,
            parameter="output" if foreign.output else "range",
        )
    request = Request(path, backend, precision, fallback, threads, device, foreign)
    if not path.is_file() and path.suffix != PLAN:
        raise EngineError(
            f"{path}: no such engine; `srtool export model.pth` writes one", path=path
        )
    openers = {".onnx": open_onnx, PLAN: open_plan, **dict.fromkeys(CHECKPOINTS, _open_reference)}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise EngineError(
            f"{path}: is no engine that this version runs; expected .onnx, .plan, .pth or "
            ".safetensors",
            path=path,
            found=path.suffix,
            expected=".onnx, .plan, .pth or .safetensors",
        )
    return open_as_one((path, sidecar(path)), partial(opener, request))


def _open_reference(request: Request) -> Engine:
    path = request.path
    if request.backend not in ("auto", "torch"):
        raise UsageError(
            f"{path}: {request.backend} runs .onnx files; `srtool export {path}` writes one",
            path=path,
            parameter="backend",
        )
    if request.precision == "bf16":
        raise UsageError(
            f"{path}: the PyTorch reference runs in fp32; export it for bf16",
            path=path,
            parameter="precision",
        )
    backend = Torch(request.device)
    session = backend.open(path, threads=request.threads)
    reason = f"the slow PyTorch reference; `srtool export {path}` writes a fast engine"
    return Engine(EngineInfo(path, session.facts, backend, reason), session)
