"""What each way of building and running an engine is worth on the GPU at hand.

    python tools/gpu_choices.py x4-fast.onnx -o gpu-check/ [--seconds 4]

Tiles, kernels and streams: a plan of TensorRT for each choice (minutes each), and ONNX Runtime's
CUDA provider with each of its layouts, all timed in turn on the same noise, round by round. The
first of each library is what srtool does by itself; a choice that is worth it everywhere should
become that. Ends with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srtool.errors import SrtoolError
from srtool.export.tensorrt.plans import export_plan, source_from_onnx
from srtool.manifest import DEFAULT_PROFILE, PlanRecipe, Profile
from srtool.runtime.backends.onnxruntime_gpu import OnnxRuntimeGpu
from srtool.runtime.engine import Engine
from srtool.runtime.gpu.machine import Machine, this_machine
from srtool.runtime.onnx_files import open_on
from srtool.runtime.opening import open_engine
from srtool.runtime.tiling import upscale_tiled

ROUNDS = 5
ONE_512 = (
    Profile(min=(1, 512, 512), opt=(1, 512, 512), max=(1, 512, 512)),
    Profile(min=(1, 16, 16), opt=(1, 256, 256), max=(1, 512, 512)),
)


@dataclass(frozen=True)
class Choice:
    """recipe: of a plan, beside its flavour. tuning: of ONNX Runtime's CUDA provider, see
    `OnnxRuntimeGpu`."""

    name: str
    recipe: Mapping[str, Any] | None = None
    tuning: tuple[str, ...] = field(default=())


PLANS = (
    Choice("as it is", {}),
    Choice("one profile for all sizes", {"profiles": (DEFAULT_PROFILE,)}),
    Choice("tiles of 512x512", {"profiles": ONE_512}),
    Choice("effort 5", {"opt_level": 5}),
    Choice("tiling 1", {"tiling": 1}),
    Choice("tiling 3", {"tiling": 3}),
    Choice("no other streams", {"aux_streams": 0}),
    Choice("4 other streams", {"aux_streams": 4}),
)
PROVIDER = (
    Choice("as it is"),
    Choice("prefer_nhwc", tuning=("prefer_nhwc",)),
    Choice("fuse_conv_bias", tuning=("fuse_conv_bias",)),
    Choice("both", tuning=("prefer_nhwc", "fuse_conv_bias")),
)


def opened(source: Path, out: Path, here: Machine) -> tuple[dict[str, Engine], dict[str, str]]:
    """An engine for each choice that there is here, and why there is none for the others."""
    engines: dict[str, Engine] = {}
    absent: dict[str, str] = {}
    for flavour in here.libraries:
        for choice in PLANS:
            name = f"{flavour}, {choice.name}"
            path = out / f"{source.stem}-{name.replace(', ', '-').replace(' ', '-')}.plan"
            try:
                recipe = PlanRecipe(flavour=flavour, **(choice.recipe or {}))
                export_plan(source_from_onnx(source), path, recipe, here)
                engines[name] = open_engine(path)
            except (SrtoolError, RuntimeError) as error:
                absent[name] = " ".join(str(error).split())[:300]
    for choice in PROVIDER:
        name = f"onnxruntime-cuda, {choice.name}"
        try:
            engines[name] = open_on(source, OnnxRuntimeGpu("cuda", tuning=choice.tuning))
        except (SrtoolError, RuntimeError) as error:
            absent[name] = " ".join(str(error).split())[:300]
    return engines, absent


def worth(engines: Mapping[str, Engine], side: int = 1500, seconds: float = 4.0) -> dict[str, Any]:
    """LR megapixels/s of whole images of `side` pixels, in the median of the rounds, and the ratio
    to the first choice of the same library, round by round."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    repeats = {}
    for name, engine in engines.items():
        upscale_tiled(image, engine)
        start = time.perf_counter()
        upscale_tiled(image, engine)
        each = time.perf_counter() - start
        repeats[name] = max(1, int(seconds / ROUNDS / each))
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                upscale_tiled(image, engine)
            took = time.perf_counter() - start
            speeds[name].append(repeats[name] * side**2 / 1e6 / took)
    found: dict[str, Any] = {}
    for name, rounds in speeds.items():
        library = name.partition(",")[0]
        first = next(other for other in speeds if other.partition(",")[0] == library)
        ratios = [x / y for x, y in zip(rounds, speeds[first], strict=True)]
        found[name] = {
            "LR megapixels/s": round(statistics.median(rounds), 3),
            "over as it is": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, per choice")
    options = parser.parse_args(arguments)
    here = this_machine()
    if not here.gpu:
        sys.stderr.write(f"gpu-choices: {here.no_gpu}\n")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    engines, absent = opened(options.onnx, options.out, here)
    found = worth(engines, seconds=options.seconds) if engines else {}
    for name, figures in found.items():
        low, high = figures["range"]
        print(  # noqa: T201
            f"{name}: {figures['LR megapixels/s']:g} LR megapixels/s, "
            f"{figures['over as it is']:g}x ({low:g} to {high:g})"
        )
    for name, why in absent.items():
        print(f"{name}: not here: {why}")  # noqa: T201
    result = {"GPU": here.gpu, "driver": here.driver, "choices": found, "absent": absent}
    path = options.out / f"{options.onnx.stem}-choices.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for engine in engines.values():
        engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
