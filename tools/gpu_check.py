"""`make gpu-check`: what this machine's NVIDIA GPU can run of a network, certified and measured.

    python tools/gpu_check.py weights/x4-fast.safetensors -o gpu-check/

Three commands that one can type as well: `srtool export` with a plan of each library that serves
the GPU, `srtool verify` on the sample photographs, `srtool bench` against PyTorch in the same run.
Ends with 2 where there is no GPU, and with 1 where an engine is not faithful, or the fastest one is
slower than BARS.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from srtool.benchmarks.report.standings import fastest
from srtool.benchmarks.speed.result import Bench, read_bench
from srtool.benchmarks.speed.rounds import ratios
from srtool.images.folders import SAMPLES
from srtool.runtime.gpu.machine import this_machine

BARS = {"PyTorch eager fp16 channels_last": 2.0, "torch.compile fp16 channels_last": 1.2}


def check(weights: Path, out: Path, flavours: Sequence[str]) -> int:
    """Run the three commands; 0 where all of them end well and the bars are kept. flavours: of
    plans, each beside an .onnx file of its own."""
    result = out / f"{weights.stem}-speed.json"
    failed, engines = 0, []
    for flavour in flavours or ("none",):
        onnx = out / f"{weights.stem}-{flavour}.onnx"
        gpu = () if flavour == "none" else ("--gpu", "local")
        failed += _srtool("export", weights, "-o", onnx, "--flavour", flavour, *gpu)
        made = onnx if flavour == "none" else onnx.with_suffix(".plan")
        engines += [path for path in (onnx, made) if path.is_file()][-1:]
    if not engines:
        return 1
    failed += _srtool("verify", weights, *engines, "--images", SAMPLES)
    chosen = ("--sizes", "256x256", "--batch", "1,4", "--seconds", 10, "--backend", "all")
    failed += _srtool("bench", *engines, "--model", weights, *chosen, "--out", result)
    missed = misses(read_bench(result)) if result.is_file() else ["nothing was measured"]
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)  # noqa: T201
    return 1 if failed or missed else 0


def misses(bench: Bench) -> list[str]:
    """The bars that the fastest engine of a network does not keep, in words."""
    found = []
    for network in bench.networks:
        best = fastest(network)
        if best is None:
            found.append(f"{network.network}: no engine was measured")
            continue
        for name, bar in BARS.items():
            other = network.candidate(name)
            timing = other.timing(*best.place) if other else None
            if timing is None:
                found.append(f"{network.network}: {name} was not measured")
                continue
            rounds = sorted(ratios(best.timing.seconds, timing.seconds))
            median = rounds[len(rounds) // 2]
            if median < bar:
                found.append(
                    f"{network.network}: {best.engine.name} is {median:.2f}x as fast as {name}, "
                    f"expected {bar:g}x"
                )
    return found


def _srtool(*arguments: object) -> int:
    command = [sys.executable, "-m", "srtool", *map(str, arguments)]
    print("$ srtool", *command[3:], flush=True)  # noqa: T201
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu-check"))
    options = parser.parse_args()
    here = this_machine()
    if not here.gpu:
        print(f"gpu-check: {here.no_gpu}", file=sys.stderr)  # noqa: T201
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    return max(check(weights, options.out, list(here.libraries)) for weights in options.weights)


if __name__ == "__main__":
    sys.exit(main())
