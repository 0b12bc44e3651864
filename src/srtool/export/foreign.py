"""ONNX files that somebody else made: compared with themselves on ONNX Runtime in float32, with a
manifest, and in float16."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from srtool.errors import ExportError, UsageError, in_a_line
from srtool.export import certify
from srtool.export.graph import HALF, inferred, types_of
from srtool.export.onnx import DEFAULTS, Draft, ExportConfig, Written, halved, written
from srtool.files import locked
from srtool.manifest import ModelFacts, sha256
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.onnx_files import facts_from_onnx, open_on

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 1  # bytes of one ONNX file


def model_from_file(path: Path) -> onnx.ModelProto:
    """Read an .onnx file, weights outside of it included. UsageError where it is none."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # of protobuf and of onnx, without a common root
        raise UsageError(f"{path}: is no ONNX model ({in_a_line(error)})", path=path) from None


def export_onnx(
    source: Path,
    out: Path,
    config: ExportConfig = DEFAULTS,
    report: Callable[[str], None] = lambda line: None,
) -> list[Written]:
    """Write an ONNX file of others as one whole file with a manifest, and in float16 where asked
    for. What it computes stays: colours, layout and names are its own.

    The reference is the file itself on ONNX Runtime in float32. ExportError where a written file
    differs from it, or is float16 already and float16 is asked for; EngineError where it takes or
    makes no images.
    """
    facts = facts_from_onnx(source)
    model = inferred(model_from_file(source))
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
    samples = _samples(source, facts, config.images)
    with locked(out, report):
        return written(_drafts(model, facts, out, config), samples, config, report)


def _drafts(
    model: onnx.ModelProto, facts: ModelFacts, out: Path, config: ExportConfig
) -> list[Draft]:
    files = []
    if config.precision in ("fp32", "both"):
        files.append(Draft(out, model, facts))
    if config.precision in ("fp16", "both"):
        path = out.with_name(f"{out.stem}.fp16.onnx") if config.precision == "both" else out
        half, count = halved(model)
        known = facts.model_copy(update={"precision": "fp16"})
        files.append(Draft(path, inferred(half), known, {"operations in float16": count}))
    return files


def _samples(source: Path, facts: ModelFacts, images: Path | None) -> list[certify.Sample]:
    """As `certify.samples_from_images`, with the file itself as the reference."""
    with open_on(source, OnnxRuntime(), facts) as engine:
        return [
            replace(sample, reference=engine.upscale_batch(sample.lr[None])[0])
            for sample in certify.pairs(facts.scale, images)
        ]
