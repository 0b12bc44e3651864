"""The manifest: what export knows of an engine file and runtime needs to run it.

It stands beside the engine as `<engine>.json`. The model facts are in the ONNX file's own
metadata_props as well, so that a lone .onnx works.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from srtool.errors import ChangedFileError, EngineError
from srtool.files import settle, sha256, write_whole
from srtool.parity import Fidelity, Strict, what_is_wrong

Flavour = Literal["tensorrt", "tensorrt-rtx"]
Shape = tuple[int, int, int]  # batch, and height and width in LR pixels
METADATA_KEY = "srtool"
Side = Annotated[int, Field(ge=1, le=1 << 16)]  # pixels


class ModelFacts(Strict):
    """What an engine computes.

    io "uint8": (N, H, W, 3) uint8 in, (N, scale H, scale W, 3) uint8 out. io "float32":
    (N, 3, H, W) float32 0..1 in and out, not clamped. Colours are RGB in both.
    halo: LR pixels around a tile that its result depends on noticeably. multiple_of, minimum,
    square: what both sides of an input must be; images are continued at the right and bottom by
    their mirror image (the edge not repeated) and the result is cropped. Tiles start at multiples
    of multiple_of. batch: 1 where it takes one image at once, None where any number. tile: the
    largest side of tiles that it was certified with, None for any: where every pixel looks at the
    whole tile, other tiles give another picture; seam: dB between an image in tiles and the same
    image whole, None where they are equal or it was not measured.
    precision "mixed": fp16, but for the modules named in float32_modules. exporter: "dynamo" or
    "torchscript", empty where srtool did not trace it. input_name, output_name: of the tensors.
    Of files that srtool did not write: input_range, output_range: the value of white, where float32
    is not in 0..1. output_bgr: the result's channels come in the other order. fixed: the height
    and width of the only tiles that it takes.
    """

    scale: Annotated[int, Field(ge=1, le=16)]
    io: Literal["uint8", "float32"]
    precision: Literal["fp32", "fp16", "mixed"]
    architecture: str
    halo: Annotated[int, Field(ge=0, le=2048)]
    multiple_of: Annotated[int, Field(ge=1, le=1024)] = 1
    minimum: Annotated[int, Field(ge=0, le=4096)] = 0
    square: bool = False
    batch: Literal[1] | None = None
    tile: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    seam: float | None = None
    exporter: Literal["dynamo", "torchscript", ""] = ""
    input_name: str = "image"
    output_name: str = "upscaled"
    input_range: Literal[1, 255] = 1
    output_range: Literal[1, 255] = 1
    output_bgr: bool = False
    fixed: tuple[Side, Side] | None = None
    weights: str = ""
    weights_sha256: str = ""
    training: dict[str, Any] = Field({})
    float32_modules: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether pixels go in and come out as they are, in tiles of any size."""
        ranges = self.input_range == self.output_range == 1
        return ranges and not self.output_bgr and self.fixed is None


class Profile(Strict):
    """The input shapes that a plan takes, and the one that its kernels were chosen for."""

    min: Shape
    opt: Shape
    max: Shape

    @model_validator(mode="after")
    def _grows(self) -> Profile:
        ordered = zip(self.min, self.opt, self.max, strict=True)
        if not all(1 <= low <= middle <= high for low, middle, high in ordered):
            raise ValueError("expected 1 <= min <= opt <= max in batch, height and width")
        return self

    def fitted(self, facts: ModelFacts) -> Profile:
        """The same range as far as a network goes along: its sides, its tiles, its batch."""
        step = facts.multiple_of
        least = -(-max(1, facts.minimum) // step) * step
        largest = facts.tile or max(self.max)

        def shape(batch: int, height: int, width: int) -> Shape:
            rows, columns = (
                max(least, min(side, largest) // step * step) for side in (height, width)
            )
            return facts.batch or batch, rows, columns

        return Profile(min=shape(*self.min), opt=shape(*self.opt), max=shape(*self.max))

    def __str__(self) -> str:
        """As in "1x16x16,4x256x256,4x256x256"."""
        return ",".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))


# Most tiles are whole ones and come four at a time: for these kernels are chosen for just that
# shape. The second profile takes what is left: single tiles, and smaller ones.
DEFAULT_PROFILES = (
    Profile(min=(4, 256, 256), opt=(4, 256, 256), max=(4, 256, 256)),
    Profile(min=(1, 16, 16), opt=(1, 256, 256), max=(4, 256, 256)),
)
DEFAULT_PROFILE = Profile(min=(1, 16, 16), opt=(4, 256, 256), max=(4, 256, 256))


class PlanSettings(Strict):
    """Of the builder. workspace: MiB of scratch memory that its kernels may take, opt_level: 0..5
    of its effort, tiling: 0..3 of the search for kernels that keep data in the cache, aux_streams:
    how many the network may spread over, None as it likes. platform: "windows" for a plan that is
    built on Linux and runs there."""

    workspace: int | None = None
    opt_level: int | None = None
    tiling: int | None = None
    aux_streams: int | None = None
    platform: Literal["", "windows"] = ""
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False


class PlanRecipe(PlanSettings):
    """What a plan was asked to be; `srtool engine rebuild` asks for the same again.

    profiles: none for the default ones, as far as the network takes them. gpus: "local",
    "portable", or classes as sm89 or RTX 4090.
    """

    flavour: Flavour
    gpus: tuple[str, ...] = ("local",)
    profiles: tuple[Profile, ...] = DEFAULT_PROFILES


class PlanFacts(Strict):
    """What a TensorRT plan was made of, for what, and by what.

    onnx: name of the file that it was built from, in the same folder. version: full, of the
    library, that is of `recipe.flavour`. cuda: major version that the library is built for, 0
    where unknown. compute: capabilities that it is for, such as "8.9". gpu, driver: of the machine
    that built it, empty where kernels were not chosen by running them there. platform: such as
    "linux x86_64". flags: the builder's, by name. seconds: what the build took. key: hash of all
    that decides what the plan is. stripped: it has no weights yet. not_certified: why it was not
    compared with PyTorch when it was made, "built without a GPU" for example.
    """

    recipe: PlanRecipe
    onnx: str
    onnx_sha256: str
    version: str
    cuda: int
    compute: tuple[str, ...]
    gpu: str
    driver: str
    platform: str
    flags: tuple[str, ...]
    seconds: float
    key: str
    stripped: bool = False
    not_certified: str = ""


class Manifest(Strict):
    """The sidecar of an engine file. companion: the float32 I/O variant of the same network in
    the same folder, for 16-bit images. fidelity: per backend and precision, such as
    "onnxruntime fp32" or "openvino bf16". fails: backends that do not run it, and why. versions: of
    the libraries that made and compared it, by name. cpu: on which. plan: of a TensorRT plan only.
    """

    manifest: Literal[1] = 1
    model: ModelFacts
    sha256: str
    opset: int
    srtool: str
    made: str
    companion: str | None = None
    fidelity: dict[str, Fidelity] = Field({})
    fails: dict[str, str] = Field({})
    versions: dict[str, str] = Field({})
    cpu: str = ""
    plan: PlanFacts | None = None


def uncertified_reason(manifest: Manifest | None, backend: str) -> str:
    """Why what an engine makes on a backend is not certified, in words; empty where it is."""
    if manifest is None:
        return "it has no manifest; `srtool export` writes engines with one"
    if backend in manifest.fails:
        return f"it does not run on {backend} ({manifest.fails[backend]})"
    found = manifest.fidelity.get(backend)
    if found is None and manifest.plan and manifest.plan.not_certified:
        return f"{manifest.plan.not_certified}; `srtool verify` on its GPU certifies it"
    if found is None:
        return f"on {backend} it was never compared with PyTorch; `srtool verify` does that"
    missed = found.misses(found.gates)
    return f"on {backend} it failed: {', '.join(missed)}" if missed else ""


def sidecar(engine: Path) -> Path:
    """Where the manifest of an engine stands: x4.onnx -> x4.onnx.json."""
    return engine.with_name(engine.name + ".json")


def write_manifest(engine: Path, manifest: Manifest) -> None:
    write_whole(sidecar(engine), manifest.model_dump_json(indent=2) + "\n")


def read_manifest(engine: Path) -> Manifest | None:
    """The manifest beside an engine, None when there is none.

    EngineError when it cannot be read or describes another file than the engine. While another
    process puts a set of files in its place, the new set is waited for.
    """
    settle(engine.parent)
    try:
        return _read_manifest(engine)
    except (ChangedFileError, FileNotFoundError):
        time.sleep(0.05)  # renaming takes less
        settle(engine.parent)
    return _read_manifest(engine)


def _read_manifest(engine: Path) -> Manifest | None:
    path = sidecar(engine)
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        reason = what_is_wrong(error) if isinstance(error, ValidationError) else str(error)
        raise EngineError(
            f"{path}: is no manifest that this version of srtool reads ({reason}); export the "
            "network again",
            path=path,
            found=reason,
        ) from None
    found = sha256(engine)
    if manifest.sha256 != found:
        raise ChangedFileError(
            f"{path}: describes another file than {engine} (SHA-256 differs); "
            "export the network again, or delete the manifest",
            path=engine,
            found=found,
            expected=manifest.sha256,
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
