"""TensorRT on the plain ONNX file in float16: the plan that trtexec would build."""

from __future__ import annotations

from pathlib import Path

from srtool.benchmarks.speed.baselines.plain_onnx import check_gpu, write_plain_onnx
from srtool.benchmarks.speed.opened import Opened, missing
from srtool.errors import EngineError, SrtoolError
from srtool.files import write_whole

PLAN, FACTS = "plain.plan", "plain.json"


def build(weights: Path, folder: Path) -> None:
    """Build a plan on this machine's GPU, unless the folder has one. EngineError where there is no
    GPU or TensorRT, or the builder refuses."""
    check_gpu()
    if (folder / PLAN).is_file():
        return
    from srtool.export.tensorrt.builder import Blueprint, generation_of, plan_from_onnx
    from srtool.export.tensorrt.gpus import local_target
    from srtool.manifest import ModelFacts, PlanRecipe
    from srtool.networks.loading import load_network
    from srtool.runtime.gpu.machine import load_library, this_machine
    from srtool.runtime.session import DEFAULT_HALO

    here = this_machine()
    library = here.libraries.get("tensorrt")
    if library is None:
        raise missing("TensorRT", "gpu")
    network = load_network(weights)
    facts = ModelFacts(
        scale=network.scale,
        io="float32",
        precision="fp16",
        architecture=network.architecture,
        halo=DEFAULT_HALO,
    )
    try:
        blueprint = Blueprint(
            write_plain_onnx(weights, folder, half=True),
            facts,
            PlanRecipe(flavour="tensorrt"),
            (local_target(here),),
        )
        plan = plan_from_onnx(load_library("tensorrt"), generation_of(library), blueprint)
    except SrtoolError as error:
        raise EngineError(str(error)) from None
    (folder / FACTS).write_text(facts.model_dump_json(), encoding="utf-8")
    write_whole(folder / PLAN, plan.content)


def open_tensorrt(weights: Path, folder: Path) -> Opened:
    """The plan, driven by srtool's runtime: images larger than the plan takes are cut up there."""
    build(weights, folder)
    from srtool.manifest import ModelFacts
    from srtool.runtime.backends.tensorrt import TensorRt
    from srtool.runtime.engine import Engine, EngineInfo
    from srtool.runtime.gpu.machine import this_machine

    path = folder / PLAN
    facts = ModelFacts.model_validate_json((folder / FACTS).read_text(encoding="utf-8"))
    backend = TensorRt("tensorrt", facts.precision)
    engine = Engine(EngineInfo(path, facts, backend), backend.open(path, facts))
    version = this_machine().libraries["tensorrt"].version
    return Opened(engine.upscale_batch, f"tensorrt {version}", "fp16")
