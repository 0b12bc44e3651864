"""`make gpu-check`: everything that can be built for this machine's GPU, certified, and measured
against PyTorch in the same run.

    python tools/gpu_check.py

TensorRT, TensorRT-RTX and ONNX Runtime take part as far as they are installed and serve the GPU;
of the others the result says why not. Ends with 2 where there is no GPU, and with 1 where an
engine is not faithful or the fastest one of a network misses a bar.
"""

# Heavy modules are imported where they are needed: the process of each side imports this one.
from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from srtool.cli import progress as console
from srtool.errors import EngineError, SrtoolError

if TYPE_CHECKING:
    from gpu_engines import Built

    from srtool.benchmarks.speed.bench import Config
    from srtool.benchmarks.speed.result import Bench, Measured, Side, Spread
    from srtool.parity import Fidelity
    from srtool.runtime.gpu.plan import Machine

# How many times as fast as these the fastest engine is at least.
BARS = {"PyTorch eager fp16 channels_last": 2.0, "torch.compile fp16 channels_last": 1.2}
GPU_SHARE = 0.9  # of the time of a folder, in which the GPU computes
SIZE = (256, 256)
COMPARED = ("PyTorch eager", "torch.compile")
RESULTS = Path(__file__).resolve().parents[1] / "results"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """fidelities: of the engines of each network in `bench`, by the name of the side. missed: what
    is not as it should be, in words."""

    bench: Bench
    fidelities: tuple[dict[str, Fidelity], ...]
    missed: tuple[str, ...]


def check(
    weights: Sequence[Path],
    folder: Path,
    here: Machine,
    config: Config,
    command: str = "",
    report: Report = lambda line: None,
) -> Checked:
    """Build, certify and measure all engines of some networks.

    folder: for what is built. config: its backends are chosen here. EngineError where nothing runs.
    """
    from gpu_engines import build

    from srtool.benchmarks.speed.bench import bench
    from srtool.benchmarks.speed.networks import networks_from_files
    from srtool.benchmarks.speed.runner import engine_name
    from srtool.manifest import sha256

    built: dict[str, Built] = {}
    for number, (digest, path) in enumerate({sha256(path): path for path in weights}.items()):
        place = folder / str(number)
        place.mkdir()
        built[digest] = build(path, place, here, report)
    missed = [_without_engines(item) for item in built.values() if not item.certified]
    ready = {digest: item for digest, item in built.items() if item.certified}
    if not ready:
        raise EngineError("; ".join(missed))
    networks = networks_from_files(
        [file for item in ready.values() for file in item.files],
        [item.weights for item in ready.values()],
        (),
        folder,
    )
    backends = dict.fromkeys(name for item in ready.values() for name in item.backends)
    result = bench(networks, replace(config, backends=tuple(backends)), command, report)
    found: list[Measured] = []
    fidelities: list[dict[str, Fidelity]] = []
    for network, measured in zip(networks, result.networks, strict=True):
        own = ready[network.facts.weights_sha256]
        absent = {**own.absent, **measured.absent}
        found.append(measured.model_copy(update={"absent": absent}))
        certified = own.certified.items()
        named = {engine_name(network, backend, file): f for (file, backend), f in certified}
        fidelities.append(named)
        missed += [f"{network.name}: {line}" for line in misses(measured, named)]
    result = result.model_copy(update={"networks": tuple(found)})
    return Checked(result, tuple(fidelities), tuple(missed))


def misses(measured: Measured, fidelities: Mapping[str, Fidelity]) -> list[str]:
    """Engines that are not faithful or do not run, and the bars that the fastest one misses."""
    lines = []
    for name, fidelity in fidelities.items():
        if unmet := fidelity.misses(fidelity.gates):
            lines.append(f"{name} is {fidelity.grade} ({', '.join(unmet)})")
    timed = {side.name: side for side in measured.sides if side.kind == "engine" and side.timings}
    lines += [f"{name} was certified but not measured" for name in fidelities if name not in timed]
    lines += [f"{name} was measured but not certified" for name in timed if name not in fidelities]
    if not timed:
        return [*lines, "no engine could be measured"]
    best = max(timed.values(), key=_fastest)
    for name, bar in BARS.items():
        faster = over(best, measured.side(name))
        if faster is None:
            lines.append(f"{name} was not measured")
        elif faster.median < bar:
            lines.append(
                f"{best.name} is {faster.median:.2f}x as fast as {name}, expected {bar:g}x"
            )
    if not best.end_to_end:
        lines.append(f"{best.name} was not measured from file to file")
    elif (share := best.end_to_end[0].share) < GPU_SHARE:
        lines.append(
            f"{best.name} computes in {share:.1%} of the time of a folder, expected {GPU_SHARE:.0%}"
        )
    return lines


def over(side: Side, other: Side | None) -> Spread | None:
    """How many times as fast as another one, round by round, at the largest batch that both ran."""
    from srtool.benchmarks.speed.result import spread
    from srtool.benchmarks.speed.timing import ratios

    if other is None:
        return None
    pairs = [(timing, other.timing(timing.size, timing.batch)) for timing in side.timings]
    both = [(own, theirs) for own, theirs in pairs if theirs is not None]
    if not both:
        return None
    own, theirs = max(both, key=lambda pair: pair[0].batch)
    return spread(ratios(own.seconds, theirs.seconds))


def _fastest(side: Side) -> float:
    return max(timing.lr_megapixels_per_second for timing in side.timings)


def _without_engines(built: Built) -> str:
    reasons = "; ".join(f"{name}: {why}" for name, why in built.absent.items())
    return f"{built.weights.stem}: no engine could be measured ({reasons})"


def print_checked(checked: Checked) -> None:
    """The tables of `srtool bench`, a line for each engine, and what was missed."""
    from srtool.cli.speed_tables import print_bench

    print_bench(checked.bench)
    console.answer("")
    for measured, fidelities in zip(checked.bench.networks, checked.fidelities, strict=True):
        for name, fidelity in fidelities.items():
            console.answer(f"{measured.network}: {name}: {_verdict(measured, name, fidelity)}")
    for line in checked.missed:
        console.say(f"missed: {line}")


def _verdict(measured: Measured, name: str, fidelity: Fidelity) -> str:
    """The grade, the ratios, and the share of a folder: an engine in one line."""
    between = "equal to" if fidelity.psnr_between is None else f"{fidelity.psnr_between:.1f} dB to"
    parts = [f"{fidelity.grade} ({between} PyTorch)"]
    if side := measured.side(name):
        for other in BARS:
            if faster := over(side, measured.side(other)):
                low, high = f"{faster.low:.2f}", f"{faster.high:.2f}"
                parts.append(f"{faster.median:.2f}x ({low}-{high}) as fast as {other}")
        ends = side.end_to_end
        parts += [f"{end.share:.1%} of the time of {end.files} files in compute" for end in ends]
    return ", ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    from srtool.networks.generator import PRESETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", help="weights; may be repeated")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        action="append",
        help="a network with random weights; may be repeated (default: full)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of measuring, per side and batch"
    )
    parser.add_argument(
        "--batch", type=int, action="append", help="images a run; may be repeated (default: 1, 4)"
    )
    parser.add_argument("--images", type=int, default=200, help="in the folder")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/speed-NAME-gpu.json")
    options = parser.parse_args(arguments)

    from gpu_engines import machine_with_gpu

    from srtool.benchmarks.speed.bench import Config
    from srtool.benchmarks.speed.networks import random_weights
    from srtool.benchmarks.speed.result import write_bench

    try:
        here = machine_with_gpu()
    except EngineError as error:
        console.say(f"gpu-check: not on this machine: {error}")
        return 2
    config = Config(
        sizes=(SIZE,),
        batches=tuple(options.batch or (1, 4)),
        seconds=options.seconds,
        files=options.images,
        compared=COMPARED[:1] if options.no_compile else COMPARED,
        device="cuda",
    )
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "tools/gpu_check.py", *given])
    presets = options.preset or ([] if options.model else ["full"])
    try:
        with tempfile.TemporaryDirectory() as name, console.status("gpu-check") as report:
            weights = [*(options.model or []), *(random_weights(p, Path(name)) for p in presets)]
            checked = check(weights, Path(name), here, config, command, report)
    except SrtoolError as error:
        console.say(f"gpu-check: {error}")
        return 1
    slug = re.sub(r"[^a-z0-9]+", "-", here.gpu.lower())
    out = options.out or RESULTS / f"speed-{slug}-gpu.json"
    write_bench(out, checked.bench)
    print_checked(checked)
    console.say(f"-> {out}")
    return 1 if checked.missed else 0


if __name__ == "__main__":
    sys.exit(main())
