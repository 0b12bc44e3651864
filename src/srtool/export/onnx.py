"""ONNX files from a network: written, checked, and compared with PyTorch before they are kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from srtool.errors import ExportError
from srtool.export import certify
from srtool.files import whole_file
from srtool.manifest import METADATA_KEY, Manifest, ModelFacts, sha256, write_manifest
from srtool.networks.deployed import (
    EXAMPLE_SIZE,
    Io,
    Precision,
    deployed_from_network,
    shape_dimensions,
)
from srtool.networks.network import Network
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.onnx_files import installed_backends, open_on
from srtool.version import __version__

if TYPE_CHECKING:
    import onnx

OPSET = 18


@dataclass(frozen=True)
class Written:
    """An engine file that was written, with its manifest and the rewrites that were applied."""

    path: Path
    manifest: Manifest
    rewrites: dict[str, int]


def export(
    network: Network,
    out: Path,
    precision: Literal["fp32", "fp16", "both"] = "fp32",
    io: Io = "uint8",
    images: Path | None = None,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> list[Written]:
    """Write the engine files of a network and their manifests.

    out: x4.onnx gives x4.onnx (fp32) and, for fp16, x4.fp16.onnx; with precision "fp16" alone the
    file is `out` itself. uint8 files get a companion x4.float32.onnx for 16-bit images.
    images: a folder of HR images to certify with, default the shipped samples.
    ExportError where a file does not meet the network within its bar, unless forced.
    """
    report("running the PyTorch reference on the certification images")
    samples = certify.samples_from_images(network, images)
    dataset = images.resolve().name if images else "shipped samples"
    companion = out.with_name(f"{out.stem}.float32.onnx") if io == "uint8" else None
    plan: list[tuple[Path, Io, Precision]] = []
    if companion:
        plan.append((companion, "float32", "fp32"))
    if precision in ("fp32", "both"):
        plan.append((out, io, "fp32"))
    if precision in ("fp16", "both"):
        name = out.with_name(f"{out.stem}.fp16.onnx") if precision == "both" else out
        plan.append((name, io, "fp16"))
    facts = ModelFacts(
        scale=network.scale,
        io=io,
        precision="fp32",
        architecture=network.architecture,
        halo=0,
        weights=network.path.name,
        weights_sha256=sha256(network.path),
        training=network.facts,
    )
    written = []
    with ExitStack() as files:  # all of them appear, or none
        for path, form, half in plan:
            temporary = files.enter_context(whole_file(path))
            facts = facts.model_copy(update={"io": form, "precision": half})
            everywhere = path != companion
            item = _write(
                network, path, temporary, facts, samples, dataset, everywhere, force, report
            )
            if companion and path != companion:
                manifest = item.manifest.model_copy(update={"companion": companion.name})
                item = Written(path, manifest, item.rewrites)
            facts = item.manifest.model  # the halo is measured once
            written.append(item)
    for item in written:
        write_manifest(item.path, item.manifest)
    return written


def _write(
    network: Network,
    path: Path,
    temporary: Path,
    facts: ModelFacts,
    samples: list[certify.Sample],
    dataset: str,
    everywhere: bool,
    force: bool,
    report: Callable[[str], None],
) -> Written:
    """Write one file under a temporary name and certify it; the manifest is not yet on disk.

    everywhere: compare on every installed backend, not on ONNX Runtime alone. A companion needs
    no more: it is run by the backend that was chosen for its uint8 file.
    """
    import onnx

    from srtool.export.mixed.graph import EMULATED, emulated_engine

    report(f"{path.name}: tracing the network")
    assert facts.precision != "mixed"  # that is what `verify --bisect` makes
    model, rewrites = onnx_from_network(network, facts.io, facts.precision)
    report(f"{path.name}: comparing with PyTorch")
    onnx.save(model, temporary)
    engine = open_on(temporary, OnnxRuntime(), facts)
    if facts.halo == 0:
        facts = facts.model_copy(update={"halo": certify.measured_halo(engine, samples[0].lr)})
    onnx.helper.set_model_props(
        model, {METADATA_KEY: json.dumps(facts.model_dump(mode="json"), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, temporary)
    found = {str(OnnxRuntime()): certify.fidelity(engine, samples, dataset)}
    if facts.precision == "fp16":
        engine = emulated_engine(path, facts, model)
        found[str(EMULATED)] = certify.fidelity(engine, samples, dataset)
        if not force:
            certify.check_emulated(found[str(EMULATED)], path)
    if not force:
        certify.check(facts.precision, found[str(OnnxRuntime())], path)
    for backend in installed_backends() if everywhere else ():
        if str(backend) not in found:
            engine = open_on(temporary, backend, facts)
            found[str(backend)] = certify.fidelity(engine, samples, dataset)
    manifest = Manifest(
        model=facts,
        sha256=sha256(temporary),
        opset=OPSET,
        srtool=__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fidelity=found,
    )
    return Written(path, manifest, rewrites)


def onnx_from_network(
    network: Network, io: Io, precision: Precision
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Build the ONNX model of a network: dynamic batch, height and width, shapes inferred."""
    import onnx

    deployed, rewrites = deployed_from_network(network, io, precision)
    batch, height, width = EXAMPLE_SIZE
    example = (
        torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        if io == "uint8"
        else torch.zeros(batch, 3, height, width)
    )
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                dynamic_shapes=(shape_dimensions(network, io),),
                input_names=["image"],
                output_names=["upscaled"],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"{network.path}: this {network.architecture} network has no ONNX form "
            f"({lines[-1][:160] if lines else type(error).__name__})"
        ) from None
    finally:
        quiet.setLevel(level)
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    return onnx.shape_inference.infer_shapes(model), rewrites


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they hold paths of this machine and double the file."""
    graph = model.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
