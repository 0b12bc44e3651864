"""ONNX files from a network: written, checked, and compared with PyTorch before they are kept."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, ExportError
from srtool.export import certify
from srtool.export.trace import OPSET, traced_from_network
from srtool.files import locked, whole_files
from srtool.manifest import METADATA_KEY, Manifest, ModelFacts, sha256, sidecar
from srtool.networks.network import Network
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.onnx_files import installed_backends, open_on
from srtool.version import __version__

if TYPE_CHECKING:
    import onnx

    from srtool.export.rewrite import Io

Precision = Literal["fp32", "fp16"]
Report = Callable[[str], None]

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "spandrel", "numpy")


@dataclass(frozen=True)
class ExportConfig:
    """What to write. io: pixels in and out. images: a folder of HR images to certify with, default
    the shipped samples. force: keep files that fail. device: number of the GPU that files are
    compared on, None for the first, if any."""

    precision: Literal["fp32", "fp16", "both"] = "fp32"
    io: Literal["uint8", "float32"] = "uint8"
    images: Path | None = None
    force: bool = False
    device: int | None = None

    @property
    def dataset(self) -> str:
        return self.images.resolve().name if self.images else "shipped samples"


DEFAULTS = ExportConfig()


@dataclass(frozen=True)
class Written:
    """An engine file that was written, with its manifest, the rewrites that were applied, and the
    seconds that comparing it took."""

    path: Path
    manifest: Manifest
    rewrites: dict[str, int]
    seconds: float = 0.0


@dataclass(frozen=True)
class Draft:
    """A file to be: where, its model, what is known of it, how it was rewritten. everywhere: to be
    compared on every installed backend, not on ONNX Runtime alone. A companion needs no more: it is
    run by the backend that was chosen for its uint8 file."""

    path: Path
    model: onnx.ModelProto
    facts: ModelFacts
    rewrites: dict[str, int] = field(default_factory=dict)
    everywhere: bool = True


def export(
    network: Network,
    out: Path,
    config: ExportConfig = DEFAULTS,
    report: Report = lambda line: None,
) -> list[Written]:
    """Write the engine files of a network and their manifests: all of them appear, or none.

    out: x4.onnx gives x4.onnx (fp32) and, for fp16, x4.fp16.onnx; with precision "fp16" alone the
    file is `out` itself. uint8 files get a companion x4.float32.onnx for 16-bit images.
    ExportError where a file does not meet the network within its bar, unless forced, and where it
    cannot be written.
    """
    report("running the PyTorch reference on the certification images")
    samples = certify.samples_from_images(network, config.images)
    with locked(out, report):
        report("tracing the network")
        return written(drafts(network, out, config, report), samples, config, report)


def drafts(
    network: Network, out: Path, config: ExportConfig, report: Report = lambda line: None
) -> list[Draft]:
    """The files of an export, of one trace; nothing is compared yet."""
    from srtool.export import rewrite
    from srtool.export.graph import inferred

    traced = traced_from_network(network, report)
    base = traced.model
    rewrites = rewrite.fold_constants(base) | rewrite.cut_by_index(base)
    rewrite.change_units(base)
    facts = ModelFacts(
        scale=network.scale,
        io=config.io,
        precision="fp32",
        architecture=network.architecture,
        halo=0,
        multiple_of=network.size.multiple_of,
        minimum=network.size.minimum,
        square=network.size.square,
        batch=traced.batch,
        exporter=traced.exporter,
        weights=network.path.name,
        weights_sha256=sha256(network.path),
        training=network.facts,
    )
    found = []

    def draft(path: Path, io: Io, precision: Precision, everywhere: bool = True) -> None:
        inside, applied = base, dict(rewrites)
        if precision == "fp16":
            inside, applied["operations in float16"] = halved(base)
        model = inferred(rewrite.with_pixels(inside, io, traced.batch))
        known = facts.model_copy(update={"io": io, "precision": precision})
        found.append(Draft(path, model, known, applied, everywhere))

    if config.io == "uint8":
        draft(out.with_name(f"{out.stem}.float32.onnx"), "float32", "fp32", False)
    if config.precision in ("fp32", "both"):
        draft(out, config.io, "fp32")
    if config.precision in ("fp16", "both"):
        both = config.precision == "both"
        draft(out.with_name(f"{out.stem}.fp16.onnx") if both else out, config.io, "fp16")
    return found


def halved(base: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy in float16, and how many of its operations are."""
    import onnx

    from srtool.export.half import halve

    model = onnx.ModelProto()
    model.CopyFrom(base)
    return model, halve(model)


def written(
    files: list[Draft], samples: list[certify.Sample], config: ExportConfig, report: Report
) -> list[Written]:
    """Certify drafts and put them and their manifests in their places, as one."""
    paths = [path for draft in files for path in (draft.path, sidecar(draft.path))]
    companion = next((each.path.name for each in files if not each.everywhere), None)
    made: list[Written] = []
    try:
        with whole_files(paths) as temporary:
            cut: certify.Cut | None = None
            for draft in files:
                place = temporary[draft.path]
                item, cut = _certified(draft, place, samples, config, cut, report)
                if draft.everywhere and companion:
                    manifest = item.manifest.model_copy(update={"companion": companion})
                    item = Written(item.path, manifest, item.rewrites, item.seconds)
                text = item.manifest.model_dump_json(indent=2) + "\n"
                temporary[sidecar(draft.path)].write_text(text, encoding="utf-8")
                made.append(item)
    except OSError as error:
        raise ExportError(
            f"{files[-1].path}: cannot be written ({error.strerror or error}); nothing was written",
            path=files[-1].path,
        ) from None
    return made


def _certified(
    draft: Draft,
    place: Path,
    samples: list[certify.Sample],
    config: ExportConfig,
    cut: certify.Cut | None,
    report: Report,
) -> tuple[Written, certify.Cut]:
    """Write one file under a temporary name and compare it. cut: as measured on another one."""
    import onnx

    from srtool.export.mixed.graph import EMULATED, emulated_engine

    path, facts, model = draft.path, draft.facts, draft.model
    report(f"{path.name}: comparing with PyTorch")
    start = time.perf_counter()
    onnx.save(model, place)
    engine = open_on(place, OnnxRuntime(), facts)
    cut = cut or certify.measured_cut(engine)
    facts = facts.model_copy(update={"halo": cut.halo, "tile": cut.tile, "seam": cut.seam})
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(facts.model_dump(mode="json"), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, place)
    found = {str(OnnxRuntime()): certify.fidelity(engine, samples, config.dataset)}
    if facts.precision == "fp16":
        emulated = emulated_engine(path, facts, model)
        found[str(EMULATED)] = certify.fidelity(emulated, samples, config.dataset)
        if not config.force:
            certify.check_emulated(found[str(EMULATED)], path)
    if not config.force:
        certify.check(facts.precision, found[str(OnnxRuntime())], path)
    fails: dict[str, str] = {}
    for backend in installed_backends(config.device) if draft.everywhere else ():
        if str(backend) in found:
            continue
        try:
            with open_on(place, backend, facts) as other:
                found[str(backend)] = certify.fidelity(other, samples, config.dataset)
        except (
            EngineError,
            RuntimeError,
            MemoryError,
        ) as error:  # of operations that it does otherwise
            fails[str(backend)] = " ".join(str(error).replace(str(place), path.name).split())[:160]
            report(f"{path.name}: {backend} does not run it ({fails[str(backend)]})")
    manifest = Manifest(
        model=facts,
        sha256=sha256(place),
        opset=next((item.version for item in model.opset_import if not item.domain), OPSET),
        srtool=__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fidelity=found,
        fails=fails,
        versions=library_versions(),
        cpu=processor(),
    )
    return Written(path, manifest, draft.rewrites, time.perf_counter() - start), cut


def library_versions() -> dict[str, str]:
    """Of the libraries that export and compare, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def processor() -> str:
    """The name of this machine's CPU."""
    if os.path.isfile("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def onnx_from_network(network: Network, io: Io, precision: Precision) -> onnx.ModelProto:
    """The ONNX model of a network: free height and width, types and shapes inferred."""
    config = ExportConfig(precision, io)
    return drafts(network, Path("x.onnx"), config)[-1].model


def weights_of(network: Network) -> dict[str, NDArray[np.float32]]:
    """The float32 values of a network's initialisers by the names that its files have."""
    from onnx import numpy_helper

    model = onnx_from_network(network, "float32", "fp32")
    return {
        item.name: numpy_helper.to_array(item)
        for item in model.graph.initializer
        if item.data_type == item.FLOAT
    }
