"""Everything that can be built for this machine's GPU: built, certified, and measured against
PyTorch in the same run.

    python -m srtool.benchmarks.gpu_check

TensorRT, TensorRT-RTX and ONNX Runtime take part as far as they are installed and serve the GPU;
of the others the result says why not. Ends with 2 where there is no GPU, and with 1 where an
engine is not faithful or the fastest one of a network misses a bar.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from srtool import console
from srtool.benchmarks.evaluation import versions
from srtool.benchmarks.gpu_sides import (
    Folder,
    Ratio,
    Side,
    engine_side,
    folder_run,
    interleaved,
    matrix_peak,
    ratio,
    tiles_from_photographs,
    torch_side,
    write_folder,
)
from srtool.benchmarks.throughput import random_network
from srtool.errors import EngineError, SrtoolError, UsageError
from srtool.export import certify, onnx
from srtool.export.flops import cost_from_onnx
from srtool.export.gpus import support_of
from srtool.export.plans import certifier, export_plan, source_from_onnx
from srtool.manifest import DEFAULT_PROFILE, Fidelity, Flavour, PlanRecipe
from srtool.runtime.cuda import open_cuda
from srtool.runtime.engine import Backend, Engine, open_engine
from srtool.runtime.image import read_image
from srtool.runtime.plan import Machine, this_machine
from srtool.train.checkpoint import Network, load_network
from srtool.train.generator import PRESETS

OVER_EAGER, OVER_COMPILED, GPU_SHARE = 2.0, 1.2, 0.9  # the bars
RESULTS = Path(__file__).resolve().parent / "results"
ONNX: tuple[Backend, ...] = ("onnxruntime-cuda", "onnxruntime-tensorrt")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One engine. seconds: per round. peak_share: of the GPU's measured matrix product rate.
    over_eager, over_compiled: against PyTorch; None where that does not run."""

    name: str
    layout: str
    seconds: list[float]
    megapixels_per_second: float
    peak_share: float
    over_eager: Ratio | None
    over_compiled: Ratio | None
    fidelity: Fidelity
    folder: Folder


@dataclass
class Checked:
    """One network. references: seconds per round of PyTorch. absent: engines and references that
    were not measured, and why. missed: bars that the fastest engine misses, in words."""

    network: str
    precision: str
    flops_per_pixel: float
    tile: tuple[int, int]
    batch: int
    tiles: int
    references: dict[str, list[float]] = field(default_factory=dict)
    engines: list[Measured] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


def check(
    network: Network,
    folder: Path,
    here: Machine,
    *,
    rounds: int = 12,
    tiles: int = 64,
    images: int = 200,
    compiled: bool = True,
    device: str = "cuda",
    peak: float = 0.0,
    report: Report = lambda line: None,
) -> Checked:
    """Build, certify and measure all engines of one network.

    folder: for what is built and written. rounds, tiles: of the measurement; images: of the folder
    that goes from file to file. compiled: torch.compile takes part. peak: FLOP/s.
    """
    precision: Literal["fp16", "fp32"] = "fp32" if support_of(here.compute).against_fp16 else "fp16"
    batch, height, width = DEFAULT_PROFILE.opt
    report(f"{network.path.name}: exporting")
    written = onnx.export(network, folder / "x4.onnx", precision, force=True)
    source = written[-1].path
    cost = cost_from_onnx(_model(source))
    found = Checked(network.path.name, precision, cost.flops, (height, width), batch, tiles)
    pieces = tiles_from_photographs(photographs(), tiles, height, width)
    pixels = pieces[..., 0].size
    dtype = torch.float16 if precision == "fp16" else torch.float32
    with ExitStack() as stack:
        engines: dict[str, tuple[Engine, Fidelity]] = {}
        for name in (*get_args(Flavour), *ONNX):
            with _absence(found, name):
                report(f"{name}: building and certifying")
                opened = _opened(name, network, source, here, device)
                stack.enter_context(opened[0])
                engines[name] = opened
        sides: list[Side] = []
        for name, wanted in (("PyTorch eager", False), ("torch.compile", True)):
            with _absence(found, name):
                if wanted and not compiled:
                    raise UsageError("was not asked for")
                report(f"{name}: compiling" if wanted else f"{name}: warming up")
                sides.append(torch_side(network, pieces, batch, device, dtype, wanted))
        references = [side.name for side in sides]
        sides += [engine_side(engine, pieces) for engine, _ in engines.values()]
        report(f"measuring {rounds} rounds")
        seconds = interleaved(sides, rounds)
        found.references = {name: seconds[name] for name in references}
        eager, faster = (
            next((seconds[name] for name in references if name.startswith(start)), None)
            for start in ("PyTorch eager", "torch.compile")
        )
        paths = write_folder(folder / "images", photographs(), images)
        for engine, fidelity in engines.values():
            report(f"{engine.backend}: a folder of {images} images")
            own = seconds[engine.backend]
            rate = pixels / statistics.median(own)
            found.engines.append(
                Measured(
                    engine.backend,
                    engine.reason,
                    own,
                    rate / 1e6,
                    rate * cost.flops / peak if peak else 0.0,
                    ratio(own, eager) if eager else None,
                    ratio(own, faster) if faster else None,
                    fidelity,
                    folder_run(engine, paths, folder / "out"),
                )
            )
    found.missed = missed(found)
    return found


def missed(found: Checked) -> list[str]:
    """Engines that are not faithful, and the bars that the fastest one misses."""
    lines = [
        f"{engine.name} is {engine.fidelity.grade}"
        for engine in found.engines
        if engine.fidelity.misses(engine.fidelity.gates)
    ]
    if not found.engines:
        return ["no engine could be measured"]
    best = max(found.engines, key=lambda engine: engine.megapixels_per_second)
    for against, bar, what in (
        (best.over_eager, OVER_EAGER, "PyTorch eager"),
        (best.over_compiled, OVER_COMPILED, "torch.compile"),
    ):
        if against is None:
            lines.append(f"{what} was not measured")
        elif against.median < bar:
            lines.append(
                f"{best.name} is {against.median:.2f}x as fast as {what}, expected {bar:g}x"
            )
    if best.folder.gpu_share < GPU_SHARE:
        lines.append(
            f"{best.name} computes in {best.folder.gpu_share:.0%} of the time of a folder, "
            f"expected {GPU_SHARE:.0%}"
        )
    return lines


def photographs() -> list[NDArray[np.uint8]]:
    """The photographs that srtool ships."""
    folder = Path(str(resources.files("srtool") / "samples" / "HR"))
    return [np.asarray(read_image(path).pixels, np.uint8) for path in sorted(folder.glob("*.png"))]


def _opened(
    name: str, network: Network, source: Path, here: Machine, device: str
) -> tuple[Engine, Fidelity]:
    """Build, open and certify one engine; SrtoolError or RuntimeError where that cannot be."""
    if name in ONNX:
        engine = open_engine(source, name)
        try:
            return engine, certify.fidelity(engine, certify.samples_from_images(network))
        except BaseException:
            engine.close()
            raise
    flavour: Flavour = "tensorrt-rtx" if name == "tensorrt-rtx" else "tensorrt"
    if flavour not in here.libraries:
        raise EngineError("is not installed")
    out = source.with_suffix(f".{flavour}.plan")
    written = export_plan(
        source_from_onnx(source),
        out,
        PlanRecipe(flavour=flavour),
        here,
        certify=certifier(network, None),
        force=True,  # an engine that is not faithful is a result as well
    )
    if not written.manifest.fidelity:
        assert written.manifest.plan is not None
        raise EngineError(written.manifest.plan.not_certified)
    (fidelity,) = written.manifest.fidelity.values()
    return open_engine(out), fidelity


@contextmanager
def _absence(found: Checked, name: str) -> Iterator[None]:
    """Keep why something cannot be measured, and go on."""
    try:
        yield
    except (SrtoolError, RuntimeError, MemoryError) as error:
        found.absent[name] = " ".join(str(error).split())[:500] or type(error).__name__


def _model(path: Path) -> Any:
    import onnx as library

    return library.load(path)


def main(arguments: list[str] | None = None) -> int:
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
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--images", type=int, default=200, help="in the folder")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu-NAME.json")
    options = parser.parse_args(arguments)
    try:
        here = machine()
    except EngineError as error:
        console.say(f"gpu-check: not on this machine: {error}")
        return 2
    with tempfile.TemporaryDirectory() as name, console.status("gpu-check") as report:
        folder = Path(name)
        report("measuring the matrix peak")
        dtype = torch.float32 if support_of(here.compute).against_fp16 else torch.float16
        peak = matrix_peak("cuda", dtype)
        presets = options.preset or ([] if options.model else ["full"])
        networks = [load_network(path) for path in options.model or []]
        networks += [random_network(preset, folder) for preset in presets]
        results = []
        for number, network in enumerate(networks):
            place = folder / str(number)
            place.mkdir()
            results.append(
                check(
                    network,
                    place,
                    here,
                    rounds=options.rounds,
                    images=options.images,
                    compiled=not options.no_compile,
                    peak=peak,
                    report=report,
                )
            )
    out = options.out or RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', here.gpu.lower())}.json"
    write(out, here, peak, results)
    print_results(results, peak)
    console.say(f"-> {out}")
    return 1 if any(result.missed for result in results) else 0


def machine() -> Machine:
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


def write(out: Path, here: Machine, peak: float, results: list[Checked]) -> None:
    networks = [
        asdict(result)
        | {
            "engines": [
                asdict(engine) | {"fidelity": engine.fidelity.model_dump(mode="json")}
                for engine in result.engines
            ]
        }
        for result in results
    ]
    record = {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": {"name": here.gpu, "compute": here.compute, "driver": here.driver},
        "libraries": {name: library.version for name, library in here.libraries.items()},
        "versions": versions(),
        "matrix_peak_tflops": peak / 1e12,
        "timing": "engines: pixels on the host to pixels on the host; PyTorch: on the device alone",
        "networks": networks,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def print_results(results: list[Checked], peak: float) -> None:
    from rich.console import Console
    from rich.table import Table

    for result in results:
        table = Table(
            result.network, "LR MP/s", "x eager", "x compile", "of peak", "grade", "GPU share",
            box=None,
        )  # fmt: skip
        pixels = result.tiles * result.tile[0] * result.tile[1]
        for name, seconds in result.references.items():
            table.add_row(name, f"{pixels / statistics.median(seconds) / 1e6:.3f}")
        for engine in result.engines:
            table.add_row(
                engine.name,
                f"{engine.megapixels_per_second:.3f}",
                f"{engine.over_eager.median:.2f}" if engine.over_eager else "",
                f"{engine.over_compiled.median:.2f}" if engine.over_compiled else "",
                f"{engine.peak_share:.1%}",
                engine.fidelity.grade,
                f"{engine.folder.gpu_share:.1%}",
            )
        Console().print(table)
        for name, reason in result.absent.items():
            console.say(f"{name}: not measured: {reason}")
        for line in result.missed:
            console.say(f"missed: {line}")
    console.say(f"matrix peak {peak / 1e12:.1f} TFLOP/s")


if __name__ == "__main__":
    sys.exit(main())
