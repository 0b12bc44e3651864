"""What can be built of a network for this machine's GPU, each engine certified against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from srtool.errors import EngineError, SrtoolError
from srtool.export import certify, onnx
from srtool.export.tensorrt.gpus import support_of
from srtool.export.tensorrt.plans import certifier, export_plan, source_from_onnx
from srtool.manifest import Flavour, PlanRecipe
from srtool.networks.loading import load_network
from srtool.parity import Fidelity
from srtool.runtime.gpu.cuda import open_cuda
from srtool.runtime.gpu.plan import Machine, this_machine
from srtool.runtime.opening import open_engine
from srtool.runtime.request import BackendName

ON_ONNX: tuple[BackendName, ...] = ("onnxruntime-cuda", "onnxruntime-tensorrt")

Report = Callable[[str], None]


@dataclass
class Built:
    """Engines of one network. files: the .onnx file and the plans that run here. backends: those
    of `ON_ONNX` that run the .onnx file. certified: (file name, backend as the engine names it) ->
    against PyTorch. absent: engines that were not built or do not run -> why."""

    weights: Path
    files: list[Path]
    backends: list[BackendName] = field(default_factory=list)
    certified: dict[tuple[str, str], Fidelity] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def machine_with_gpu() -> Machine:
    """This machine; EngineError where its GPU is not there for TensorRT or not for PyTorch."""
    open_cuda()
    here = this_machine()
    if not here.gpu:
        raise EngineError("nvidia-smi shows no GPU")
    if not torch.cuda.is_available():
        raise EngineError(
            f"PyTorch {torch.__version__} does not see the {here.gpu}, and it is what engines are "
            "compared with; install its CUDA wheels"
        )
    return here


def build(weights: Path, folder: Path, here: Machine, report: Report = lambda line: None) -> Built:
    """Build all engines in a folder, in float16 unless the GPU is slow at it. An engine that is
    not faithful is kept, as that is a result as well. SrtoolError where not even the .onnx file
    can be written."""
    network = load_network(weights)
    precision: Literal["fp16", "fp32"] = "fp32" if support_of(here.compute).against_fp16 else "fp16"
    report(f"{weights.name}: exporting")
    out = folder / f"{weights.stem}.onnx"
    source = onnx.export(network, out, precision, force=True)[-1].path
    built = Built(weights, [source])
    for flavour in get_args(Flavour):
        with _absence(built, flavour):
            report(f"{weights.name}: building and certifying a plan of {flavour}")
            path = source.with_suffix(f".{flavour}.plan")
            recipe, compare = PlanRecipe(flavour=flavour), certifier(network, None)
            written = export_plan(
                source_from_onnx(source), path, recipe, here, certify=compare, force=True
            )
            if not written.manifest.fidelity:
                assert written.manifest.plan is not None
                raise EngineError(written.manifest.plan.not_certified)
            ((backend, fidelity),) = written.manifest.fidelity.items()
            built.certified[path.name, backend] = fidelity
            built.files.append(path)
    samples = certify.samples_from_images(network)
    for name in ON_ONNX:
        with _absence(built, f"{source.name} on {name}"):
            report(f"{weights.name}: opening and certifying it on {name}")
            with open_engine(source, name) as engine:
                fidelity = certify.fidelity(engine, samples)
            built.certified[source.name, str(engine.backend)] = fidelity
            built.backends.append(name)
    return built


@contextmanager
def _absence(built: Built, name: str) -> Iterator[None]:
    """Keep why something cannot be built, and go on."""
    try:
        yield
    except (SrtoolError, RuntimeError, MemoryError, ImportError, OSError) as error:
        why = str(error).replace(f"{built.files[0].parent}/", "")  # a folder that will be gone
        built.absent[name] = " ".join(why.split())[:500] or type(error).__name__
