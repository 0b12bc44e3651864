"""A model repository: a network's engines, each as a model that Triton loads, with a config.pbtxt
made of its manifest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from srtool.errors import EngineError, UsageError
from srtool.files import whole_file, write_whole
from srtool.manifest import Manifest, ModelFacts, read_manifest
from srtool.models import engine_path
from srtool.runtime.backends.kserve import MANIFEST
from srtool.runtime.engine_files import engine_files, read_beside, weight_files
from srtool.runtime.onnx_files import facts_from_onnx
from srtool.version import __version__

BATCH = 8  # tiles or requests at most that are computed together
DELAY = 2000  # microseconds that a request waits for others of its shape
WARM_UP = (64, 64)  # LR pixels
MODEL = """from srtool.serving.triton.pictures import PicturesModel
import triton_python_backend_utils


class TritonPythonModel(PicturesModel):
    def __init__(self):
        super().__init__(triton_python_backend_utils)
"""


@dataclass(frozen=True)
class Written:
    """A model of a repository. what: what it is, for the user."""

    name: str
    folder: Path
    what: str


def write_repository(
    engines: Sequence[str | Path], folder: Path, name: str | None = None, version: int = 1
) -> list[Written]:
    """Write the models of one network: NAME (its .onnx file), NAME_plan (its TensorRT plans, one
    for each kind of GPU) and NAME_pictures (pictures of any size).

    engines: files of the same weights, or names of shipped networks. name: default, that of the
    first file. version: of the models; other versions in the folder stay.
    UsageError where engines do not go together, the name is none for Triton, or the version is
    there already; EngineError where a file is none that Triton runs.
    """
    files = {engine_path(engine): None for engine in engines}
    manifests = {path: _manifest(path) for path in files}
    onnx = [path for path in files if path.suffix == ".onnx"]
    plans = [path for path in files if path.suffix == ".plan"]
    _check(manifests, onnx)
    name = next(iter(files)).stem.removesuffix(".fp16") if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UsageError(
            f"{name}: is no name for a model, expected letters, digits, _ . and -",
            parameter="name",
            found=name,
        )
    if version < 1:
        raise UsageError(f"version {version}, expected 1 or more", parameter="version")
    written = []
    if onnx:
        manifest = manifests[onnx[0]]
        copies = {onnx[0]: "model.onnx", **{path: path.name for path in weight_files(onnx[0])}}
        config = _onnx_config(name, manifest)
        what = f"{onnx[0].name} on Triton's onnxruntime backend"
        written.append(_write(folder, version, config, copies, what))
    if plans:
        by_gpu = {
            gpu: path.name
            for path in plans
            if (plan := manifests[path].plan)
            for gpu in plan.compute
        }
        config = _plan_config(f"{name}_plan", manifests[plans[0]], by_gpu)
        what = f"{', '.join(path.name for path in plans)} on Triton's tensorrt backend"
        copies = {path: path.name for path in plans}
        written.append(_write(folder, version, config, copies, what))
    engine = (onnx or plans)[0]
    config = _pictures_config(f"{name}_pictures", manifests[engine], engine.name)
    copies = {engine.parent / file: file for file in engine_files(engine.name, read_beside(engine))}
    what = f"pictures of any size, as pixels or as files, through srtool {__version__}"
    written.append(_write(folder, version, config, copies, what, MODEL))
    return written


def _manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise EngineError(f"{path}: no such engine; `srtool export model.pth` writes one")
    if path.suffix not in (".onnx", ".plan"):
        raise UsageError(f"{path}: Triton runs .onnx files and plans; export the network first")
    manifest = read_manifest(path)
    if path.suffix == ".onnx":
        weight_files(path)
    if manifest is None and path.suffix == ".onnx":
        return Manifest(
            model=facts_from_onnx(path), sha256="", opset=0, srtool=__version__, made=""
        )
    if manifest is None or (path.suffix == ".plan" and manifest.plan is None):
        raise EngineError(f"{path}: its manifest is missing; export the network again")
    if manifest.plan is not None and manifest.plan.stripped:
        raise EngineError(f"{path}: has no weights yet; `srtool engine refit` puts them in")
    if manifest.plan is not None and manifest.plan.recipe.flavour != "tensorrt":
        raise EngineError(
            f"{path}: is a plan of TensorRT-RTX, which Triton's tensorrt backend does not run; "
            "build one with TensorRT, or serve the .onnx file"
        )
    return manifest


def _check(manifests: dict[Path, Manifest], onnx: list[Path]) -> None:
    if not manifests:
        raise UsageError("no engine was named, expected .onnx files or plans")
    weights = {manifest.model.weights_sha256 for manifest in manifests.values()}
    if len(weights) > 1:
        names = ", ".join(str(path) for path in manifests)
        raise UsageError(f"{names}: are of several networks; write a repository for each")
    if len(onnx) > 1:
        raise UsageError(f"{onnx[0]}, {onnx[1]}: one model takes one .onnx file")


def _write(
    folder: Path, version: int, config: Any, copies: dict[Path, str], what: str, code: str = ""
) -> Written:
    """One model's folder: the version first, so that a server that looks on finds it whole."""
    model = folder / config.name
    target = model / str(version)
    if target.exists():
        raise UsageError(f"{target}: is there already; name another version", parameter="version")
    for source, name in copies.items():
        with whole_file(target / name) as temporary:
            shutil.copyfile(source, temporary)
    settings = text_format.MessageToString(config)
    for path, text in ((target / "model.py", code), (model / "config.pbtxt", settings)):
        if text:
            write_whole(path, text)
    return Written(model.name, model, what)


def _onnx_config(name: str, manifest: Manifest) -> Any:
    """Of an .onnx file on Triton's onnxruntime backend."""
    config = _tensors(name, manifest, manifest.model.batch or BATCH)
    config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_AUTO)
    _warm_up(config, manifest.model, (1, *WARM_UP))
    return config


def _plan_config(name: str, manifest: Manifest, files: Mapping[str, str]) -> Any:
    """Of TensorRT plans of one network. files: compute capability ("8.9") -> file name."""
    assert manifest.plan is not None
    profiles = manifest.plan.recipe.profiles
    config = _tensors(name, manifest, max(profile.max[0] for profile in profiles))
    config.backend = "tensorrt"
    for capability, file in files.items():
        config.cc_model_filenames[capability] = file
    batches = sorted({profile.opt[0] for profile in profiles})
    config.dynamic_batching.preferred_batch_size.extend(batches)
    group = config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_GPU)
    group.profile.extend(str(number) for number in range(len(profiles)))
    _warm_up(config, manifest.model, profiles[-1].opt)
    return config


def _pictures_config(name: str, manifest: Manifest, engine: str) -> Any:
    """Of the model that takes pictures of any size, as pixels or as files, in Python.

    engine: the file name of what computes, in the version's folder.
    """
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=BATCH)
    facts = manifest.model
    for title, kind, dims in (
        (facts.input_name, pb.TYPE_UINT8, [-1, -1, 3]),
        ("file", pb.TYPE_STRING, [1]),
    ):
        config.input.add(
            name=title, data_type=kind, dims=dims, optional=True, allow_ragged_batch=True
        )
    config.output.add(name=facts.output_name, data_type=pb.TYPE_UINT8, dims=[-1, -1, 3])
    config.output.add(name="upscaled_file", data_type=pb.TYPE_STRING, dims=[1])
    config.dynamic_batching.max_queue_delay_microseconds = 0
    kind = pb.ModelInstanceGroup.KIND_GPU if manifest.plan else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    _describe(config, manifest)
    config.parameters["engine"].string_value = engine
    return config


def _tensors(name: str, manifest: Manifest, batch: int) -> Any:
    """A model whose tensors are the engine's own."""
    facts = manifest.model
    config = pb.ModelConfig(name=name, max_batch_size=batch)
    kind, dims = pb.TYPE_UINT8, [-1, -1, 3]
    if facts.io == "float32":
        kind, dims = pb.TYPE_FP32, [3, -1, -1]
    config.input.add(name=facts.input_name, data_type=kind, dims=dims)
    config.output.add(name=facts.output_name, data_type=kind, dims=dims)
    config.dynamic_batching.max_queue_delay_microseconds = DELAY
    _describe(config, manifest)
    return config


def _describe(config: Any, manifest: Manifest) -> None:
    """Version policy, and what clients may want to know."""
    config.version_policy.latest.num_versions = 1
    parameters = {
        MANIFEST: manifest.model_dump_json(),
        "scale": str(manifest.model.scale),
        "halo": str(manifest.model.halo),
        "multiple_of": str(manifest.model.multiple_of),
        "certified": ", ".join(
            f"{backend}: {found.grade if found.passed else 'failed'}"
            for backend, found in manifest.fidelity.items()
        )
        or "no",
    }
    if manifest.plan is not None:
        parameters["tensorrt"] = manifest.plan.version
        parameters["gpus"] = ", ".join(manifest.plan.compute)
    for key, value in parameters.items():
        config.parameters[key].string_value = value


def _warm_up(config: Any, facts: ModelFacts, shape: Sequence[int]) -> None:
    """One request before the model counts as ready."""
    batch, height, width = shape
    given = config.input[0]
    sample = config.model_warmup.add(name="first", batch_size=batch)
    sides = [height, width, 3] if facts.io == "uint8" else [3, height, width]
    sample.inputs[given.name].data_type = given.data_type
    sample.inputs[given.name].dims.extend(sides)
    sample.inputs[given.name].random_data = True
