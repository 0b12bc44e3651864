"""The manifest: what export knows of an engine file and runtime needs to run it.

It stands beside the engine as `<engine>.json`. The model facts are in the ONNX file's own
metadata_props as well, so that a lone .onnx works.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from srtool.errors import EngineError
from srtool.files import whole_file

Grade = Literal["exact", "faithful", "lossy"]
METADATA_KEY = "srtool"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fidelity(Strict):
    """One engine on one backend against PyTorch FP32, over real images, uint8 output.

    max_difference, mean_difference: levels of 0..255. share_over_1: share of values that differ
    by more than one level. psnr_between: dB over all values, None when nothing differs.
    delta_psnr, worst_delta_psnr: PSNR-Y against HR minus PyTorch's, dB: the mean, and the image
    where it falls most; None without HR images.
    """

    images: int
    max_difference: int
    mean_difference: float
    share_different: float
    share_over_1: float
    psnr_between: float | None
    delta_psnr: float | None
    worst_delta_psnr: float | None

    @property
    def grade(self) -> Grade:
        """exact: at most 1 level on 0.01 % of the values. faithful: at least 50 dB between and
        |delta PSNR| at most 0.02 dB. lossy: anything else."""
        if self.max_difference <= 1 and self.share_different <= 1e-4:
            return "exact"
        alike = self.psnr_between is None or self.psnr_between >= 50.0
        kept = self.delta_psnr is None or abs(self.delta_psnr) <= 0.02
        return "faithful" if alike and kept else "lossy"


class ModelFacts(Strict):
    """What an engine computes.

    io "uint8": (N, H, W, 3) uint8 in, (N, scale H, scale W, 3) uint8 out. io "float32":
    (N, 3, H, W) float32 0..1 in and out, not clamped. Colours are RGB in both.
    halo: LR pixels around a tile that its result depends on noticeably. multiple_of: both sides
    of the input must be a multiple of it.
    """

    scale: int
    io: Literal["uint8", "float32"]
    precision: Literal["fp32", "fp16"]
    architecture: str
    halo: int
    multiple_of: int = 1
    weights: str = ""
    weights_sha256: str = ""
    training: dict[str, Any] = {}


class Manifest(Strict):
    """The sidecar of an engine file. companion: the float32 I/O variant of the same network in
    the same folder, for 16-bit images. fidelity: per backend and precision, such as
    "onnxruntime fp32" or "openvino bf16"."""

    manifest: Literal[1] = 1
    model: ModelFacts
    sha256: str
    opset: int
    srtool: str
    made: str
    companion: str | None = None
    fidelity: dict[str, Fidelity] = {}


def sidecar(engine: Path) -> Path:
    """Where the manifest of an engine stands: x4.onnx -> x4.onnx.json."""
    return engine.with_name(engine.name + ".json")


def write_manifest(engine: Path, manifest: Manifest) -> None:
    with whole_file(sidecar(engine)) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_manifest(engine: Path) -> Manifest | None:
    """The manifest beside an engine, None when there is none.

    EngineError when it cannot be read or describes another file than the engine.
    """
    path = sidecar(engine)
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise EngineError(
            f"{path}: is no manifest that this version of srtool reads "
            f"({_first_line(error)}); export the network again"
        ) from None
    if manifest.sha256 != sha256(engine):
        raise EngineError(
            f"{path}: describes another file than {engine} (SHA-256 differs); "
            "export the network again, or delete the manifest"
        )
    return manifest


def facts_from_metadata(text: str | None) -> ModelFacts | None:
    """The model facts in an ONNX file's metadata_props, None when they are not ours."""
    if not text:
        return None
    try:
        return ModelFacts.model_validate(json.loads(text))
    except (ValidationError, json.JSONDecodeError):
        return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return " ".join(line.strip() for line in lines[1:3]) if len(lines) > 2 else str(error)
