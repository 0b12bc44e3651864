"""What is evaluated: engines, the two bicubic baselines, and folders of results made elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srtool.errors import ImageError, UsageError
from srtool.files import sha256
from srtool.images.datasets import (
    SCALE,
    Dataset,
    Image,
    Pair,
    Sample,
    fingerprint,
)
from srtool.images.folders import images_below
from srtool.images.imresize import imresize, mod_crop
from srtool.images.reading import read_rgb
from srtool.manifest import read_manifest
from srtool.models import engine_path, model_names
from srtool.runtime.backends.kserve import service_at, service_manifest
from srtool.runtime.engine import Engine
from srtool.runtime.onnx_files import backend_named, on_device, open_on
from srtool.runtime.opening import open_engine
from srtool.runtime.session import DEFAULT_TILE, BackendName, PrecisionName
from srtool.runtime.tiling import upscale_tiled

Upscale = Callable[[Sample, Pair], Image]


@dataclass
class Method:
    """One column of the table.

    facts: what is recorded of it; an engine adds its backend when it is opened. identity: changes
    whenever its results for a sample may. open: gives the function that upscales, ImageError
    where it cannot; the engine lives as long as that function.
    """

    name: str
    identity: Callable[[Sample], str]
    open: Callable[[], Upscale]
    facts: dict[str, Any] = field(default_factory=dict)


def methods_from_arguments(
    arguments: list[str],
    datasets: list[Dataset],
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    recorded: dict[str, dict[str, Any]] | None = None,
    device: int | None = None,
) -> list[Method]:
    """PATH or NAME=PATH of an engine file or a folder of results, or bicubic, bicubic-float.

    backend, precision: for .onnx files, and device, as `open_engine` takes them. recorded: facts of
    methods from an earlier run, which goes on with the backend that it had.
    UsageError where two methods have one name, by which the results are keyed.
    """
    methods: dict[str, Method] = {}
    for argument in arguments:
        name, text = _split(argument)
        path = Path(text)
        if text in BASELINES:
            method = baseline_method(name or text, text)
        elif service := service_at(text):
            method = engine_method(name or service.model, text, "auto", "auto", {})
        elif path.is_dir():
            method = results_method(name or path.resolve().name, path, datasets)
        elif path.is_file() or text in model_names():
            name, path = name or path.name, engine_path(text)
            before = (recorded or {}).get(name, {})
            method = engine_method(name, str(path), backend, precision, before, device)
        else:
            raise UsageError(
                f"{text}: no such engine; expected a .pth, .safetensors or .onnx file, a folder of "
                f"upscaled images, or one of {', '.join((*BASELINES, *model_names()))}"
            )
        if method.name in methods:
            raise UsageError(
                f"two engines are called {method.name}; name them, as NAME={text}",
                parameter="engine",
            )
        methods[method.name] = method
    return list(methods.values())


def _split(argument: str) -> tuple[str, str]:
    """NAME=PATH, unless there is a file of that whole name."""
    name, equals, text = argument.partition("=")
    if not equals or Path(argument).exists():
        return "", argument
    if not name or not text:
        raise UsageError(f"{argument}: expected NAME=PATH with both parts")
    return name, text


def _bicubic() -> Upscale:
    """The LR image every engine gets, upscaled as MATLAB does with 8-bit images."""
    return lambda sample, pair: np.asarray(imresize(pair.lr, SCALE, "clamp"))


def _bicubic_float() -> Upscale:
    """The paper's column: LR never rounded or clipped, edges mirrored, rounded once at the end."""

    def upscale(sample: Sample, pair: Pair) -> Image:
        lr = imresize(pair.hr.astype(np.float64), 1 / SCALE, "mirror")
        return np.floor(imresize(lr, SCALE, "mirror") + 0.5).clip(0, 255).astype(np.uint8)

    return upscale


BASELINES = {"bicubic": _bicubic, "bicubic-float": _bicubic_float}


def baseline_method(name: str, word: str) -> Method:
    return Method(name, lambda sample: word, BASELINES[word])


def engine_method(
    name: str,
    file: str,
    backend: BackendName,
    precision: PrecisionName,
    recorded: dict[str, Any],
    device: int | None = None,
) -> Method:
    """An engine file, or a network that a server runs. EngineError where it or its manifest is not
    one; more shows when it is opened."""
    service, path = service_at(file), Path(file)
    manifest = service_manifest(service) if service else read_manifest(path)
    onnx = not service and path.suffix == ".onnx"
    facts: dict[str, Any] = {
        "file": str(service or path),
        "sha256": manifest.sha256 if service and manifest else sha256(path),
        "asked": {"backend": backend, "precision": precision} if onnx else {},
        "tile": DEFAULT_TILE,
        "manifest": manifest.model_dump(mode="json") if manifest else None,
    }
    place = (facts["file"],) if service else ()
    identity = fingerprint(*place, facts["sha256"], str(facts["asked"]))
    if all(recorded.get(key) == facts[key] for key in ("sha256", "asked")):
        facts |= {key: recorded[key] for key in ("backend", "reason") if key in recorded}

    def open_() -> Upscale:
        before = backend_named(facts.get("backend", ""))  # in the earlier run
        if onnx and before is not None:
            engine = open_on(path, on_device(before, device))
        elif onnx:
            engine = open_engine(path, backend, precision, device=device)
        else:
            engine = open_engine(file if service else path, device=device)
        _check_scale(engine)
        facts.setdefault("backend", str(engine.backend))
        facts.setdefault("reason", engine.reason)
        return lambda sample, pair: np.asarray(upscale_tiled(pair.lr, engine))

    return Method(name, lambda sample: identity, open_, facts)


def _check_scale(engine: Engine) -> None:
    if engine.facts.scale != SCALE:
        raise UsageError(
            f"{engine.path}: upscales x{engine.facts.scale}; the evaluation protocol is for "
            f"x{SCALE}"
        )


def results_method(name: str, folder: Path, datasets: list[Dataset]) -> Method:
    """A folder of images that something else upscaled, see `results_for`. Where it has a
    subfolder with the name of a data set, the results for that set are taken from there."""
    files: dict[Path, Path] = {}
    for dataset in datasets:
        inner = folder / dataset.name
        files |= results_for(dataset, inner if inner.is_dir() else folder)

    def upscale(sample: Sample, pair: Pair) -> Image:
        path = files.get(sample.hr)
        if path is None:
            raise ImageError(f"{sample.hr}: {folder} has no result for it")
        image = read_rgb(path)
        height, width = pair.hr.shape[:2]
        if mod_crop(image, SCALE).shape != pair.hr.shape:
            raise ImageError(
                f"{path}: is {image.shape[1]}x{image.shape[0]}, expected {width}x{height} "
                f"to fit {sample.hr}"
            )
        return image[:height, :width]

    def identity(sample: Sample) -> str:
        path = files.get(sample.hr)
        return fingerprint(path) if path else ""

    return Method(name, identity, lambda: upscale, {"folder": str(folder)})


def results_for(dataset: Dataset, folder: Path) -> dict[Path, Path]:
    """HR file -> its upscaled version in `folder`, matched by name.

    A result is called as its HR image is, less an ending HR or GT and x4 of that, and then has one
    ending that is the same for all results: baby_HR_x4.png goes with baby_RCAN_x4.png where the
    others end in _RCAN_x4 as well. Subfolders must be the same, file formats need not.
    UsageError where no ending fits any image, or two fit equally many.
    """
    results: dict[str, Path] = {}
    for path in images_below(folder).files:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        other = results.setdefault(stem, path)
        if other != path:
            raise UsageError(f"{other} and {path} are results for one image; keep one of them")
    plain = {sample.hr: _plain(sample.name) for sample in dataset.samples}
    endings = Counter(
        stem.removeprefix(start)
        for start in plain.values()
        for stem in results
        if stem.startswith(start) and _ENDING.fullmatch(stem.removeprefix(start))
    )
    best = endings.most_common(2)
    if not best:
        raise UsageError(
            f"{folder}: holds no results for {dataset.folder}; expected files like "
            f"{next(iter(plain.values()))}.png"
        )
    if len(best) == 2 and best[0][1] == best[1][1]:
        first, second = (f"*{ending}" for ending, _ in best)
        raise UsageError(
            f"{folder}: {first} and {second} fit {dataset.folder} equally well; "
            "put the results to evaluate into a folder of their own"
        )
    ending = best[0][0]
    return {hr: results[start + ending] for hr, start in plain.items() if start + ending in results}


_ENDING = re.compile(r"([_.-].*)?|x4")


def _plain(name: str) -> str:
    """ "sub/baby_HR_x4.png" -> "sub/baby"."""
    stem = Path(name).with_suffix("").as_posix()
    stem = re.sub(r"[_.-]?x4$", "", stem)
    return re.sub(r"[_.-](HR|GT)$", "", stem, flags=re.IGNORECASE)
