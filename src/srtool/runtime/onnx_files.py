"""Opening .onnx files: on which of the installed backends, and why on that one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from srtool.errors import EngineError, UsageError
from srtool.files import open_as_one
from srtool.manifest import Manifest, ModelFacts, read_manifest, sidecar, uncertified_reason
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.foreign import NOTHING_KNOWN, Foreign, facts_by_trial
from srtool.runtime.session import Backend, BackendName, OnnxBackend, PrecisionName, Session

CPU_FP32 = (OnnxRuntime(), OpenVino("fp32"))
BF16 = OpenVino("bf16")
ON_GPU = OnnxRuntimeGpu("cuda")
# All that take no more than opening a file. On a GPU the precision is that of the file.
BACKENDS: tuple[OnnxBackend, ...] = (*CPU_FP32, BF16, ON_GPU)
# What builds an engine of its own first is only taken where it is asked for.
_ASKED_FOR: tuple[OnnxBackend, ...] = (OnnxRuntime(), ON_GPU, OnnxRuntimeGpu("tensorrt"))


@dataclass(frozen=True)
class Request:
    """What a caller asks for when an engine is opened, see `srtool.open_engine`."""

    path: Path
    backend: BackendName
    precision: PrecisionName
    fallback: str | None
    threads: int | None
    device: int | None
    foreign: Foreign


def installed_backends(device: int | None = None) -> list[Backend]:
    """The ways to run an .onnx file here. device: number of the GPU, None for the first."""
    known = (on_device(backend, device) for backend in BACKENDS)
    return [backend for backend in known if backend.is_available()]


def on_device(backend: OnnxBackend, device: int | None) -> OnnxBackend:
    """The same on the GPU of that number, where it runs on one."""
    return replace(backend, device=device or 0) if isinstance(backend, OnnxRuntimeGpu) else backend


def open_onnx(request: Request) -> Engine:
    """Open an .onnx file as asked for, see `open_engine`."""
    path = request.path
    if request.backend == "torch":
        raise UsageError(
            f"{path}: the torch backend runs checkpoints (.pth), not .onnx files",
            path=path,
            parameter="backend",
        )
    if request.precision == "bf16" and request.backend.startswith("onnxruntime"):
        raise UsageError(
            "ONNX Runtime has no bfloat16, OpenVINO has",
            path=path,
            parameter="precision",
            remedy={"backend": "openvino"},
        )
    manifest = read_manifest(path)
    if manifest and request.foreign != NOTHING_KNOWN:
        raise UsageError(
            f"{path}: has a manifest, which says what it takes and makes; leave out "
            "range and output",
            path=path,
            parameter="output" if request.foreign.output else "range",
        )
    facts = manifest.model if manifest else facts_from_onnx(path, request.foreign)
    backend, reason = _choose(request, facts, manifest)
    return open_on(path, backend, facts, manifest=manifest, reason=reason, threads=request.threads)


def open_on(
    path: Path,
    backend: Backend,
    facts: ModelFacts | None = None,
    *,
    manifest: Manifest | None = None,
    reason: str = "asked for",
    threads: int | None = None,
) -> Engine:
    """Open an .onnx file on one backend. facts, manifest: what is known of it already."""
    if facts is None:
        manifest = read_manifest(path)
        facts = manifest.model if manifest else facts_from_onnx(path)
    # 16-bit images are for precision: bfloat16 would keep 8 of their bits.
    exact = OpenVino("fp32") if backend == BF16 else backend
    open_companion = companion_opener(
        path, manifest, lambda file, its: exact.open(file, its, threads)
    )
    info = EngineInfo(path, facts, backend, reason, uncertified_reason(manifest, str(backend)))
    session = backend.open(path, facts, threads)
    return Engine(info, session, open_companion, partial(float32_engine, path, backend))


def companion_opener(
    path: Path, manifest: Manifest | None, open: Callable[[Path, ModelFacts], Session]
) -> Callable[[], Session] | None:
    """What loads the float32 companion of an engine, None where there is none. open: a file, by
    what it computes."""
    if manifest is None or not manifest.companion:
        return None
    facts, file = manifest.model, path.parent / manifest.companion
    if not file.is_file():
        return None
    paths = (file, sidecar(file))
    return partial(open_as_one, paths, lambda: open(file, _companion_facts(file, facts)))


def _companion_facts(path: Path, facts: ModelFacts) -> ModelFacts:
    """What the float32 companion of an engine computes. EngineError where it is another file than
    was certified, or of other weights."""
    manifest = read_manifest(path)
    found = manifest.model if manifest else None
    same = found is not None and found.weights_sha256 == facts.weights_sha256
    if found is None or not same or found.scale != facts.scale or found.io != "float32":
        raise EngineError(
            f"{path}: is not the float32 companion of this engine: expected one of the same "
            "weights with its manifest; export the network again, or convert the image to 8 bits",
            path=path,
            found=found.weights_sha256 if found else "no manifest",
            expected=facts.weights_sha256,
            remedy={"depth": 8},
        )
    return found


def float32_engine(path: Path, backend: Backend) -> Engine | None:
    """The same weights in float32 on a float32 backend: the float32 companion, the fp32 file
    beside (x4.onnx of x4.fp16.onnx or x4.plan), or the file itself where only its backend is
    bfloat16."""
    manifest = read_manifest(path)
    if manifest is None:
        return None
    files = [path.parent / manifest.companion] if manifest.companion else []
    made_of = manifest.plan.onnx if manifest.plan else path.name
    files += [_fp32_file(path), _fp32_file(path.parent / made_of), path]
    device = getattr(backend, "device", None)  # those of CPUs have none
    exact = [known for known in installed_backends(device) if known.precision != "bf16"]
    for file in files:
        other = read_manifest(file) if file.suffix == ".onnx" and file.is_file() else None
        if other is None or not exact or other.model.precision != "fp32":
            continue
        if other.model.weights_sha256 != manifest.model.weights_sha256:
            continue
        if file == path and backend in exact:
            continue  # that is what went wrong
        engine = open_as_one((file, sidecar(file)), partial(open_on, file, exact[0]))
        if engine.facts.weights_sha256 == manifest.model.weights_sha256:
            return engine
        engine.close()  # another export came between
    return None


def _fp32_file(path: Path) -> Path:
    stem = path.stem.removesuffix(".fp16").removesuffix(".mixed")
    return path.with_name(f"{stem}.onnx")


def facts_from_onnx(path: Path, told: Foreign = NOTHING_KNOWN) -> ModelFacts:
    """What an .onnx file without a manifest computes, see `facts_by_trial`."""
    for backend in CPU_FP32:
        if backend.is_available():
            return facts_by_trial(path, backend.inspect(path), told)
    raise _nothing_installed(path)


def backend_named(name: str) -> OnnxBackend | None:
    """The backend for .onnx files that has this name in a manifest or record."""
    return next((backend for backend in BACKENDS if str(backend) == name), None)


def _nothing_installed(path: Path) -> EngineError:
    return EngineError(
        f"{path}: neither ONNX Runtime nor OpenVINO is installed; pip install 'srtool[cpu]'",
        path=path,
    )


def _choose(request: Request, facts: ModelFacts, manifest: Manifest | None) -> tuple[Backend, str]:
    """The backend and why."""
    path, asked = request.path, request.backend
    for backend in _ASKED_FOR:
        if backend.library == asked:
            if backend.on_gpu and not facts.is_plain:
                raise EngineError(
                    f"{path}: takes or makes other values than 0..1 in RGB, or one size only, "
                    "which a GPU is not fed with; export the network with srtool",
                    path=path,
                    parameter="backend",
                )
            return on_device(backend, request.device), "asked for"
    fails = manifest.fails if manifest else {}
    installed = [
        each
        for each in installed_backends(request.device)
        if str(each) not in fails and (facts.is_plain or not each.on_gpu)
    ]
    if request.precision == "bf16":
        if BF16 not in installed:
            raise EngineError(
                f"{path}: bfloat16 takes OpenVINO (pip install 'srtool[cpu]') and a CPU with "
                "bfloat16 instructions",
                path=path,
                parameter="precision",
                remedy={"precision": "auto"},
            )
        return BF16, "asked for"
    if not installed:
        raise _nothing_installed(path)
    found = manifest.fidelity if manifest else {}
    faithful = {name for name in found if found[name].passed and found[name].grade != "lossy"}
    allowed = request.precision == "auto" and not any(each.on_gpu for each in installed)
    if allowed and BF16 in installed and str(BF16) in faithful:
        return BF16, f"certified {found[str(BF16)].grade} and the fastest here"
    if asked == "openvino":
        return OpenVino("fp32"), "asked for"
    exact = [backend for backend in installed if backend != BF16]
    if len(exact) == 1:
        return exact[0], "the only one installed"
    kept = [x for x in exact if str(x) in faithful or str(x) not in found]
    if len(kept) == 1:
        return kept[0], "the other one is not faithful"
    return _fastest(kept or exact, path, facts)


def _fastest(backends: list[Backend], path: Path, facts: ModelFacts) -> tuple[Backend, str]:
    seconds = {backend: _seconds(path, facts, backend) for backend in backends}
    best, second = sorted(seconds, key=lambda backend: seconds[backend])[:2]
    if seconds[second] == float("inf"):
        return best, "the only one that runs it"
    ratio = seconds[second] / seconds[best]
    return best, f"{ratio:.2f}x as fast as the alternative on a trial tile"


def _seconds(path: Path, facts: ModelFacts, backend: Backend) -> float:
    """Best of three runs on a small tile, after one to warm up; infinite where it does not run:
    not every backend has every operation of other people's networks."""
    image = np.full((1, 64, 64, 3), 128, np.uint8)
    times = []
    try:
        with open_on(path, backend, facts) as engine:
            engine.upscale_batch(image)
            for _ in range(3):
                start = time.perf_counter()
                engine.upscale_batch(image)
                times.append(time.perf_counter() - start)
    except (EngineError, RuntimeError, MemoryError):
        return float("inf")
    return min(times)
