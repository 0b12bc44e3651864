"""Verification: every engine against PyTorch FP32 on the same images: certified, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from srtool.benchmarks.evaluate import Report
from srtool.benchmarks.evaluation import versions
from srtool.benchmarks.mixed import Mixed, mix
from srtool.benchmarks.reference import Protocol, References, open_references
from srtool.benchmarks.scores import assets_of, with_parts
from srtool.errors import CheckpointError, EngineError, ExportError, UsageError, in_a_line
from srtool.export.mixed import EMULATED
from srtool.files import sha256
from srtool.images.datasets import SCALE, dataset_from_folder
from srtool.manifest import Manifest, read_manifest, sidecar, write_manifest
from srtool.parity import FAITHFUL, Fidelity, Gates, Strict
from srtool.runtime.backends.kserve import KServe, service_at, service_manifest
from srtool.runtime.engine import Engine
from srtool.runtime.gpu.devices import check_device
from srtool.runtime.onnx_files import installed_backends, open_on
from srtool.runtime.opening import CHECKPOINTS, open_engine
from srtool.runtime.plan_files import plan_backend
from srtool.runtime.session import Backend

ASKED = ("ssim_wang", "ssim", "niqe", "pi", "lpips")  # beside PSNR

Backends = Literal["all", "auto", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Config:
    """backend: all the installed ones, the one that `infer` would choose, or those of a library.
    gates: what an engine is held to. bisect: find out what fails in float16, and write a mixed
    file. workers: processes that score, None for one per core. device: number of the GPU, None for
    the first, if any."""

    backend: Backends = "all"
    gates: Gates = FAITHFUL
    bisect: bool = False
    workers: int | None = None
    device: int | None = None


class Row(Strict):
    """One engine on one backend. fidelity: None where it does not run. missed: the gates that it
    does not keep, or why it does not run, in words."""

    engine: str
    backend: str
    fidelity: Fidelity | None
    missed: list[str]


class Verification(BaseModel):
    """unavailable: metric -> why, and what installs it. mixed: what bisection found."""

    model_config = ConfigDict(extra="forbid")

    parity: Literal[1] = 1
    made: str
    versions: dict[str, str]
    model: str
    model_sha256: str
    dataset: str
    images: int
    gates: Gates
    unavailable: dict[str, str]
    rows: list[Row] = []
    mixed: list[Mixed] = []

    @property
    def passed(self) -> bool:
        return not any(row.missed for row in self.rows)


def verify(
    model: str | Path,
    engines: Sequence[str | Path],
    folder: str | Path,
    config: Config = Config(),
    report: Report = lambda progress: None,
) -> Verification:
    """Compare engine files with the checkpoint that they were exported from, and write the result
    into their manifests as their certification, in place of what was known of that backend.

    engines: files, or addresses as `open_engine` takes them.
    folder: a data set as `srtool evaluate` takes it: HR/ and, where there is one, LRx4/; images in
        the folder itself are HR images. An image that cannot be used ends the comparison.
    A float16 file is also run with each of its values rounded to float16, see `export.mixed`.
    UsageError, CheckpointError, EngineError, DataError and ImageError where an input is not what
    it should be, or there is no such GPU; ExportError where the checkpoint makes no image.
    """
    check_device(config.device)
    model, folder = Path(model), Path(folder)
    if model.suffix.lower() not in CHECKPOINTS:
        raise UsageError(
            f"{model}: is no checkpoint; expected the weights (.pth or .safetensors) first and "
            "then the engines"
        )
    if not model.is_file():
        raise CheckpointError(f"{model}: no such file; expected weights (.safetensors or .pth)")
    dataset = dataset_from_folder(folder)
    manifests = {path: _manifest(path) for path in map(Path, engines)}
    backends = {path: _backends(path, manifests[path], config) for path in manifests}
    assets, unavailable = assets_of(ASKED)
    metrics = tuple(name for name in with_parts(ASKED) if name not in unavailable)
    record = Verification(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        model=str(model),
        model_sha256=sha256(model),
        dataset=dataset.name,
        images=len(dataset.samples),
        gates=config.gates,
        unavailable={name: why for name, why in unavailable.items() if name in ASKED},
    )
    halo = max(manifest.model.halo for manifest in manifests.values())
    protocol = Protocol(dataset, halo, config.gates, metrics, assets, config.device)
    planned = sum(map(len, backends.values()))
    with open_references(model, protocol, planned, config.workers, report) as references:
        for path, manifest in manifests.items():
            if manifest.model.weights_sha256 != record.model_sha256:
                weights = manifest.model.weights
                references.say(f"{path}: was exported from {weights}, another file than {model}")
            rows = _check(path, manifest, backends[path], references)
            record.rows += rows
            half = next((row.fidelity for row in rows if row.backend == str(EMULATED)), None)
            if config.bisect and half and half.passed:
                references.say(f"{path}: passes in float16; there is nothing to bisect")
            elif config.bisect and half:
                try:
                    mixed, written = mix(path, manifest, half, model, references)
                except ExportError as error:
                    references.say(str(error))
                else:
                    record.mixed.append(mixed)
                    record.rows += _check_mixed(mixed, written, backends[path], references)
        for line in references.problems:
            references.say(line)
    return record


def _check_mixed(
    mixed: Mixed, written: Manifest, backends: list[Backend], references: References
) -> list[Row]:
    """The mixed file like any other; by emulation it was compared when it was made."""
    known = written.fidelity[str(EMULATED)]
    row = Row(engine=mixed.engine, backend=str(EMULATED), fidelity=known, missed=[])
    others = [backend for backend in backends if backend != EMULATED]
    return [row, *_check(Path(mixed.engine), written, others, references)]


def _manifest(path: Path) -> Manifest:
    """Of an engine to verify; the error says what else it should have been."""
    if service := service_at(path):
        manifest = service_manifest(service)
    else:
        manifest = _manifest_of_file(path)
    if manifest.model.scale != SCALE:
        raise UsageError(
            f"{path}: upscales x{manifest.model.scale}; the data sets and metrics are for x{SCALE}"
        )
    return manifest


def _manifest_of_file(path: Path) -> Manifest:
    if not path.is_file():
        raise EngineError(f"{path}: no such engine; `srtool export model.pth` writes one")
    if path.suffix.lower() in CHECKPOINTS:
        raise UsageError(
            f"{path}: is a checkpoint; the engines to verify are .onnx and .plan files"
        )
    manifest = read_manifest(path)
    if manifest is None:
        raise EngineError(
            f"{path}: has no manifest ({sidecar(path).name}) to write the result to; "
            "`srtool export model.pth` writes engines with one"
        )
    return manifest


def _backends(path: Path, manifest: Manifest, config: Config) -> list[Backend]:
    if service := service_at(path):
        return [KServe(service)]
    if manifest.plan is not None:
        return [plan_backend(manifest.plan, manifest.model, config.device)]
    choice, found = config.backend, installed_backends(config.device)
    if choice == "auto":
        with open_engine(path, device=config.device) as engine:
            found = [engine.backend]
    elif choice != "all":
        found = [backend for backend in found if backend.library == choice]
    if not found:
        library = "no backend" if choice == "all" else choice
        raise EngineError(f"{path}: {library} is not installed; pip install 'srtool[cpu]'")
    return found if manifest.model.precision == "fp32" else [*found, EMULATED]


def _check(
    path: Path, manifest: Manifest, backends: list[Backend], references: References
) -> list[Row]:
    """Compare one engine on its backends, and write what was found into its manifest, where it is
    a file."""
    rows, service = [], service_at(path)
    title = str(service or path)
    known = dict(manifest.fidelity)
    for backend in backends:
        name = str(backend)
        known.pop(name, None)
        try:
            with _opened(path, manifest, backend, references.protocol.device) as engine:
                found = references.compare(engine)
        except (EngineError, RuntimeError, MemoryError) as error:
            missed = [f"fails: {in_a_line(error)}"]
            rows.append(Row(engine=title, backend=name, fidelity=None, missed=missed))
            continue
        known[name] = found
        missed = found.misses(found.gates)
        rows.append(Row(engine=title, backend=name, fidelity=found, missed=missed))
    if service is None:
        write_manifest(path, manifest.model_copy(update={"fidelity": known}))
    return rows


def _opened(path: Path, manifest: Manifest, backend: Backend, device: int | None) -> Engine:
    if manifest.plan is not None or isinstance(backend, KServe):
        return open_engine(path, device=device)
    return open_on(path, backend, manifest.model)
