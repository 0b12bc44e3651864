"""A model repository: a network's engines, each as a model that Triton loads."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srtool.errors import EngineError, UsageError
from srtool.files import whole_file
from srtool.manifest import Manifest, read_manifest
from srtool.models import engine_path
from srtool.runtime.engine_files import engine_files, read_beside, weight_files
from srtool.runtime.onnx_files import facts_from_onnx
from srtool.serving.triton.config import onnx_config, pictures_config, plan_config
from srtool.version import __version__

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
        config = onnx_config(name, manifest)
        what = f"{onnx[0].name} on Triton's onnxruntime backend"
        written.append(_write(folder / name, version, config, copies, what))
    if plans:
        by_gpu = {gpu: path.name for path in plans for gpu in _compute(manifests[path])}
        config = plan_config(f"{name}_plan", manifests[plans[0]], by_gpu)
        what = f"{', '.join(path.name for path in plans)} on Triton's tensorrt backend"
        copies = {path: path.name for path in plans}
        written.append(_write(folder / f"{name}_plan", version, config, copies, what))
    engine = (onnx or plans)[0]
    config = pictures_config(f"{name}_pictures", manifests[engine], engine.name)
    copies = {engine.parent / file: file for file in engine_files(engine.name, read_beside(engine))}
    what = f"pictures of any size, as pixels or as files, through srtool {__version__}"
    written.append(_write(folder / f"{name}_pictures", version, config, copies, what, MODEL))
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


def _compute(manifest: Manifest) -> tuple[str, ...]:
    """The compute capabilities that a plan is for, as Triton names them: "8.9"."""
    assert manifest.plan is not None
    return manifest.plan.compute


def _write(
    model: Path, version: int, config: str, copies: dict[Path, str], what: str, code: str = ""
) -> Written:
    """One model's folder: the version first, so that a server that looks on finds it whole."""
    target = model / str(version)
    if target.exists():
        raise UsageError(f"{target}: is there already; name another version", parameter="version")
    for source, name in copies.items():
        with whole_file(target / name) as temporary:
            shutil.copyfile(source, temporary)
    for path, text in ((target / "model.py", code), (model / "config.pbtxt", config)):
        if text:
            with whole_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return Written(model.name, model, what)
