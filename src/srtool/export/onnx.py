"""ONNX files from a network, or from a file that somebody else made: written, checked, and compared
with PyTorch, or with that file, before they are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, ExportError, UsageError, in_a_line
from srtool.export import certify
from srtool.export.trace import OPSET, traced_from_network
from srtool.files import locked, sha256, whole_files, writing
from srtool.manifest import METADATA_KEY, Manifest, ModelFacts, sidecar
from srtool.networks.network import Network
from srtool.parity import EXPORTED
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.onnx_files import facts_from_onnx, installed_backends, open_on
from srtool.system import processor, versions
from srtool.version import __version__

if TYPE_CHECKING:
    import onnx

    from srtool.export.rewrite import Io

Precision = Literal["fp32", "fp16"]
Report = Callable[[str], None]

LARGEST = 2**31 - 1  # bytes of one ONNX file

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "spandrel", "numpy")


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
    rewrites: dict[str, int]
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


def export_onnx(
    source: Path,
    out: Path,
    config: ExportConfig = DEFAULTS,
    report: Report = lambda line: None,
) -> list[Written]:
    """Write an ONNX file of others as one whole file with a manifest, and in float16 where asked
    for. What it computes stays: colours, layout and names are its own.

    The reference is the file itself on ONNX Runtime in float32. ExportError where a written file
    differs from it, or is float16 already and float16 is asked for; EngineError where it takes or
    makes no images.
    """
    from srtool.export.graph import HALF, inferred, types_of

    facts = facts_from_onnx(source)
    model = inferred(_read(source))
    if model.ByteSize() > LARGEST:
        raise ExportError(f"{source}: is larger than 2 GB, which one ONNX file cannot hold")
    is_half = HALF in types_of(model).values()
    if config.precision != "fp32" and is_half:
        raise ExportError(f"{source}: computes in float16 already; export it as it is")
    facts = facts.model_copy(
        update={
            "precision": "fp16" if is_half else "fp32",
            "weights": source.name,
            "weights_sha256": sha256(source),
            "input_name": model.graph.input[0].name,
        }
    )
    with open_on(source, OnnxRuntime(), facts) as engine:
        samples = [
            replace(sample, reference=engine.upscale_batch(sample.lr[None])[0])
            for sample in certify.pairs(facts.scale, config.images)
        ]
    with locked(out, report):
        files = _precisions(model, facts, out, config.precision, {}, lambda model: model)
        return written(files, samples, config, report)


def _read(path: Path) -> onnx.ModelProto:
    """Weights outside of the file included."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # of protobuf and of onnx, without a common root
        raise UsageError(f"{path}: is no ONNX model ({in_a_line(error)})", path=path) from None


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
    companions = []
    if config.io == "uint8":
        companions.append(
            Draft(
                out.with_name(f"{out.stem}.float32.onnx"),
                inferred(rewrite.with_pixels(base, "float32", traced.batch)),
                facts.model_copy(update={"io": "float32"}),
                rewrites,
                everywhere=False,
            )
        )
    return companions + _precisions(
        base,
        facts,
        out,
        config.precision,
        rewrites,
        lambda model: rewrite.with_pixels(model, config.io, traced.batch),
    )


def _precisions(
    base: onnx.ModelProto,
    facts: ModelFacts,
    out: Path,
    precision: Literal["fp32", "fp16", "both"],
    rewrites: dict[str, int],
    finish: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> list[Draft]:
    """The files of a float32 graph, each finished after its precision is settled."""
    from srtool.export.graph import copied, inferred
    from srtool.export.half import halve

    found = []
    if precision != "fp16":
        found.append(Draft(out, inferred(finish(base)), facts, rewrites))
    if precision != "fp32":
        half = copied(base)
        applied = rewrites | {"operations in float16": halve(half)}
        path = out.with_name(f"{out.stem}.fp16.onnx") if precision == "both" else out
        known = facts.model_copy(update={"precision": "fp16"})
        found.append(Draft(path, inferred(finish(half)), known, applied))
    return found


def written(
    files: list[Draft], samples: list[certify.Sample], config: ExportConfig, report: Report
) -> list[Written]:
    """Certify drafts and put them and their manifests in their places, as one."""
    paths = [path for draft in files for path in (draft.path, sidecar(draft.path))]
    companion = next((each.path.name for each in files if not each.everywhere), None)
    made: list[Written] = []
    with (
        writing(files[-1].path, ExportError, "nothing was written"),
        whole_files(paths) as temporary,
    ):
        cut: certify.Cut | None = None
        for draft in files:
            place = temporary[draft.path]
            item, cut = _certified(draft, place, samples, config, cut, report)
            if draft.everywhere and companion:
                manifest = item.manifest.model_copy(update={"companion": companion})
                item = replace(item, manifest=manifest)
            text = item.manifest.model_dump_json(indent=2) + "\n"
            temporary[sidecar(draft.path)].write_text(text, encoding="utf-8")
            made.append(item)
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

    from srtool.export.mixed import EMULATED, emulated_engine

    path, facts, model = draft.path, draft.facts, draft.model
    report(f"{path.name}: comparing with PyTorch")
    start = time.perf_counter()
    onnx.save(model, place)
    engine = open_on(place, OnnxRuntime(), facts)
    cut = cut or certify.measured_cut(engine)
    facts = facts.model_copy(update=vars(cut))
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(facts.model_dump(mode="json"), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, place)
    found = {str(OnnxRuntime()): certify.fidelity(engine, samples, config.dataset)}
    if facts.precision == "fp16":
        rounding = emulated_engine(path, facts, model)
        found[str(EMULATED)] = certify.fidelity(rounding, samples, config.dataset)
    if not config.force:
        kind, gates = f"{facts.precision} file", EXPORTED[facts.precision]
        if emulated := found.get(str(EMULATED)):
            on_gpu = " where its values are float16, as they are on a GPU"
            certify.check(emulated, emulated.gates, path, kind, on_gpu)
        certify.check(found[str(OnnxRuntime())], gates, path, kind)
    fails: dict[str, str] = {}
    for backend in installed_backends(config.device) if draft.everywhere else ():
        if str(backend) in found:
            continue
        try:
            with open_on(place, backend, facts) as other:
                found[str(backend)] = certify.fidelity(other, samples, config.dataset)
        except (EngineError, RuntimeError, MemoryError) as error:  # it does operations otherwise
            reason = in_a_line(error, None).replace(str(place), path.name)[:160]
            fails[str(backend)] = reason
            report(f"{path.name}: {backend} does not run it ({reason})")
    manifest = Manifest(
        model=facts,
        sha256=sha256(place),
        opset=next((item.version for item in model.opset_import if not item.domain), OPSET),
        srtool=__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fidelity=found,
        fails=fails,
        versions=versions(LIBRARIES),
        cpu=processor(),
    )
    return Written(path, manifest, draft.rewrites, time.perf_counter() - start), cut


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
