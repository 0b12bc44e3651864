"""Proof on hardware that engines make the right pixels: ONNX Runtime's providers, and plans of
TensorRT-RTX that were built elsewhere.

    python tools/gpu_engines.py prepare FOLDER x4-fast.onnx [x4-full.onnx ...]
    python tools/gpu_engines.py run FOLDER OUT.json

The first needs no GPU but TensorRT-RTX: it copies each network with its manifest, and builds plans
of it for each of TARGETS. The second is run where the GPU is: every network on ONNX Runtime's CUDA
and TensorRT providers, every plan, also those that `srtool infer` would refuse there, since
whether an older or portable plan opens on a newer GPU is a question; each against ONNX Runtime on
the CPU, pixel by pixel. It ends with 2 where there is no GPU, and with 1 where an engine that opens
makes other pixels, or none opens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from proof_inputs import Pixels, photographs

from srtool.errors import SrtoolError
from srtool.export.tensorrt.plans import export_plan, source_from_onnx
from srtool.images.colour import psnr
from srtool.manifest import PlanRecipe, sidecar
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.machine import this_machine
from srtool.runtime.onnx_files import open_on
from srtool.runtime.plan_files import plan_backend, plan_facts
from srtool.runtime.session import Backend
from srtool.runtime.tiling import upscale_tiled

TARGETS = ("sm80", "sm89", "sm120", "portable")
PROVIDERS = (OnnxRuntimeGpu("cuda"), OnnxRuntimeGpu("tensorrt"))
FAITHFUL = 50.0  # dB between, the least: what float16 gives

Found = dict[str, Any]


def prepare(folder: Path, networks: Sequence[Path]) -> dict[str, str]:
    """A copy and the plans of each network; file -> why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    absent = {}
    for network in networks:
        copy = folder / network.name
        for path in (network, sidecar(network)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        for target in TARGETS:
            plan = folder / f"{network.stem}-{target}.plan"
            recipe = PlanRecipe(flavour="tensorrt-rtx", gpus=(target,))
            try:
                export_plan(source_from_onnx(copy), plan, recipe, this_machine())
            except SrtoolError as error:
                absent[plan.name] = str(error)
    return absent


def run(folder: Path, providers: Sequence[Backend] = PROVIDERS, side: int = 320) -> Found:
    """What every engine of a folder makes of photographs of `side` pixels: engine -> figures.
    "opens" is False beside the error where it does not."""
    tiles = photographs(side)
    found: Found = {}
    for network in sorted(folder.glob("*.onnx")):
        with open_on(network, OnnxRuntime()) as engine:
            right = [upscale_tiled(tile, engine) for tile in tiles]
        for backend in providers:
            found[f"{network.name}, {backend}"] = compared(network, backend, tiles, right)
        for plan in sorted(folder.glob(f"{network.stem}-*.plan")):
            found[plan.name] = compared(plan, None, tiles, right)
    return found


def compared(
    path: Path, backend: Backend | None, tiles: Sequence[Pixels], right: Sequence[Pixels]
) -> Found:
    """One engine against the right pixels, and its speed from the second time on."""
    start = time.perf_counter()
    try:
        engine = open_on(path, backend) if backend else open_anyhow(path)
    except (SrtoolError, RuntimeError) as error:
        return {"opens": False, "error": " ".join(str(error).split())[:400]}
    opened = time.perf_counter() - start
    with engine:
        try:
            made = [upscale_tiled(tile, engine) for tile in tiles]
            start = time.perf_counter()
            again = [upscale_tiled(tile, engine) for tile in tiles]
            seconds = time.perf_counter() - start
        except (SrtoolError, RuntimeError, MemoryError) as error:
            return {"opens": True, "passed": False, "error": " ".join(str(error).split())[:400]}
        notes = list(engine.notes())
    between = min(psnr(x, y) for x, y in zip(made, right, strict=True))
    most = max(int(np.abs(x.astype(np.int16) - y).max()) for x, y in zip(made, right, strict=True))
    same = all(np.array_equal(x, y) for x, y in zip(made, again, strict=True))
    return {
        "opens": True,
        "passed": between >= FAITHFUL and same,
        "backend": str(engine.backend),
        "PSNR between, dB": round(between, 2) if np.isfinite(between) else None,
        "most levels": most,
        "the same every time": same,
        "seconds to open": round(opened, 2),
        "LR megapixels/s": round(sum(x[..., 0].size for x in tiles) / 1e6 / seconds, 3),
        "notes": notes[:4],
    }


def open_anyhow(path: Path) -> Engine:
    """A plan, without asking its manifest whether it is for this GPU."""
    manifest, plan = plan_facts(path)
    backend = plan_backend(plan, manifest.model)
    return Engine(EngineInfo(path, manifest.model, backend), backend.open(path, manifest.model))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("prepare")
    step.add_argument("folder", type=Path)
    step.add_argument("networks", type=Path, nargs="+")
    step = steps.add_parser("run")
    step.add_argument("folder", type=Path)
    step.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    if options.step == "prepare":
        absent = prepare(options.folder, options.networks)
        for name, why in absent.items():
            sys.stderr.write(f"gpu-engines: {name}: {why}\n")
        return 1 if absent else 0
    here = this_machine()
    if not here.gpu:
        sys.stderr.write(f"gpu-engines: {here.no_gpu}\n")
        return 2
    found = run(options.folder)
    machine = {"GPU": here.gpu, "compute capability": here.compute, "driver": here.driver}
    versions = {name: library.version for name, library in here.libraries.items()}
    result = {"about": __doc__, "machine": machine, "libraries": versions, "engines": found}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, figures in found.items():
        sys.stdout.write(f"{name}: {json.dumps(figures)[:300]}\n")
    opened = [figures for figures in found.values() if figures["opens"]]
    return 0 if opened and all(figures["passed"] for figures in opened) else 1


if __name__ == "__main__":
    sys.exit(main())
