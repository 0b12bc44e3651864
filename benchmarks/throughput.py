"""How fast the engines are: PyTorch eager and every installed backend, interleaved in one run.

    python -m srtool.benchmarks.throughput --preset full --out results.json

Machines are shared and drift, so seconds are printed but ratios are the result: each image runs
on every side before the next image, and a ratio is formed image by image.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srtool import console
from srtool.export import certify
from srtool.export.onnx import onnx_from_network
from srtool.manifest import ModelFacts
from srtool.psnr import psnr
from srtool.runtime import pipeline
from srtool.runtime.backends import DEFAULT_HALO
from srtool.runtime.engine import Engine, installed_backends, open_session
from srtool.runtime.image import Picture, read_image, write_image
from srtool.runtime.inputs import Job
from srtool.train.checkpoint import Network, load_network, save_generator
from srtool.train.generator import PRESETS, Generator

REFERENCE = "PyTorch eager fp32"


@dataclass(frozen=True)
class Side:
    """One contestant. seconds: per image. speed: PyTorch's seconds over its own, image by image:
    median, lowest and highest. end_to_end: wall time of decoding, upscaling and encoding the
    folder over the engine's own compute time in that run. psnr_between: dB to PyTorch's output
    over all images (None: equal), max_difference: levels."""

    name: str
    seconds: list[float]
    speed: float
    speed_low: float
    speed_high: float
    end_to_end: float | None
    psnr_between: float | None
    max_difference: int


def random_network(preset: str, folder: Path) -> Network:
    """A preset with seeded random weights whose output lies around mid-gray."""
    torch.manual_seed(0)
    generator = Generator(PRESETS[preset]).eval()
    if not generator.config.image_skip:
        with torch.inference_mode():
            out = generator(torch.rand(1, 3, 96, 96)).image
        last = generator.fusion.image
        gain = 0.2 / out.std()
        last.weight.data.mul_(gain)
        assert last.bias is not None
        last.bias.data.fill_(0.5 - float(out.mean() * gain))
    path = folder / f"{preset}-random.safetensors"
    save_generator(path, generator, {})
    return load_network(path)


def crops(count: int, side: int) -> list[NDArray[np.uint8]]:
    """Square pieces of the shipped photographs, the same number of each."""
    folder = Path(str(resources.files("srtool") / "samples" / "HR"))
    photographs = [read_image(path).pixels for path in sorted(folder.glob("*.png"))]
    pieces: list[NDArray[np.uint8]] = []
    for number in range(count):
        image = photographs[number % len(photographs)].astype(np.uint8)
        step = number // len(photographs)
        rounds = max(1, -(-count // len(photographs)) - 1)
        top = (image.shape[0] - side) // 2
        left = (image.shape[1] - side) * step // rounds
        pieces.append(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return pieces


def measure(
    network: Network,
    images: list[NDArray[np.uint8]],
    report: Callable[[str], None] = lambda line: None,
) -> list[Side]:
    """Time every side on every image, interleaved; PyTorch first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        report("writing the ONNX file")
        model, _ = onnx_from_network(network, "uint8", "fp32")
        path.write_bytes(model.SerializeToString())
        engines = {name: _engine(network, path, name) for name in installed_backends()}
        sides: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
            REFERENCE: lambda lr: certify.reference(network, lr)
        }
        for name, engine in engines.items():
            sides[name] = lambda lr, engine=engine: engine.upscale(lr[None])[0]  # type: ignore[misc]
        for upscale in sides.values():
            upscale(images[0])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        outputs: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in sides}
        for number, lr in enumerate(images):
            report(f"image {number + 1} of {len(images)}")
            for name, upscale in sides.items():
                start = time.perf_counter()
                outputs[name].append(upscale(lr))
                seconds[name].append(time.perf_counter() - start)
        overheads = {
            name: _end_to_end(engine, images, Path(folder)) for name, engine in engines.items()
        }
    return [_side(name, seconds, outputs, overheads.get(name)) for name in sides]


def _side(
    name: str,
    seconds: dict[str, list[float]],
    outputs: dict[str, list[NDArray[np.uint8]]],
    end_to_end: float | None,
) -> Side:
    ratios = [a / b for a, b in zip(seconds[REFERENCE], seconds[name], strict=True)]
    own, reference = (np.concatenate([x.ravel() for x in outputs[n]]) for n in (name, REFERENCE))
    between = psnr(own, reference)
    return Side(
        name,
        seconds[name],
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        end_to_end,
        between if math.isfinite(between) else None,
        int(np.abs(own.astype(np.int16) - reference).max()),
    )


def _engine(network: Network, path: Path, name: str) -> Engine:
    facts = ModelFacts(
        scale=network.scale,
        io="uint8",
        precision="fp32",
        architecture=network.architecture,
        halo=DEFAULT_HALO,
    )
    return Engine(path, facts, name, "", open_session(path, name))


def _end_to_end(engine: Engine, images: list[NDArray[np.uint8]], folder: Path) -> float:
    """Wall time of the whole job on PNG files over the engine's compute time in the same run."""
    jobs = []
    for number, image in enumerate(images):
        source = folder / "in" / f"{number:02}.png"
        if not source.exists():
            source.parent.mkdir(exist_ok=True)
            write_image(source, Picture(image, None, False))
        jobs.append(Job(source, folder / "out" / engine.backend / source.name))
    seconds = pipeline.run(jobs, engine).seconds
    return seconds["total"] / seconds["compute"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="weights, .safetensors or .pth")
    what.add_argument("--preset", choices=sorted(PRESETS), help="a preset with random weights")
    parser.add_argument("--images", type=int, default=12, help="how many images")
    parser.add_argument("--side", type=int, default=128, help="pixels, of square images")
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = (
            load_network(options.model)
            if options.model
            else random_network(options.preset, Path(folder))
        )
        with console.status("measuring") as report:
            sides = measure(network, crops(options.images, options.side), report)
    _print(sides)
    if options.out:
        result: dict[str, Any] = {
            "network": options.model.name if options.model else f"{options.preset}, random weights",
            "images": options.images,
            "side": options.side,
            "machine": _machine(),
            "sides": [asdict(side) for side in sides],
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    import importlib.metadata

    packages = ("torch", "onnxruntime", "openvino")
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            x for x in info.read_text(encoding="utf-8").splitlines() if x.startswith("model name")
        ]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _print(sides: list[Side]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "s / image", "speed", "range", "end to end / compute", "PSNR", "max", box=None
    )
    for side in sides:
        table.add_row(
            side.name,
            f"{statistics.median(side.seconds):.3f}",
            f"{side.speed:.2f}x",
            f"{side.speed_low:.2f}-{side.speed_high:.2f}",
            f"{side.end_to_end:.3f}" if side.end_to_end else "",
            f"{side.psnr_between:.1f} dB" if side.psnr_between else "equal",
            str(side.max_difference),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
