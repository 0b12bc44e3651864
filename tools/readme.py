"""The tables of READMEs, written from the results between their markers.

    python tools/readme.py README.md weights/README.md docs/*.md --plot docs/throughput.png

A block begins with <!-- figures: NAME --> and ends with <!-- end of figures -->; what stands
between is replaced. No figure of these blocks is typed by hand. Where results come from several
machines, the details are of the one that was measured last.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.sources import by_machine
from srtool.benchmarks.speed.result import Bench, Measured, Scaling, Side, read_bench, spread
from srtool.benchmarks.speed.timing import ratios
from srtool.errors import DataError
from srtool.files import whole_file

RESULTS = Path(__file__).resolve().parents[1] / "results"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

# Rows of the table of quality: title, file, engine in it.
QUALITY = (
    ("bicubic", "quality-set5-set14.json", "bicubic"),
    (
        "bicubic-float (paper: 28.420 / 26.100, 0.8245 / 0.7850)",
        "quality-set5-set14.json",
        "bicubic-float",
    ),
    ("x4-lite, PyTorch", "quality-set5-set14.json", "lite-torch"),
    ("x4-lite, ONNX fp32 file, run in bf16", "quality-set5-set14.json", "lite-onnx"),
    ("x4-lite, ONNX fp16 file, run in bf16", "quality-set5-set14.json", "lite-fp16"),
    ("x4-lite-perceptual, PyTorch", "quality-set5-set14.json", "perceptual-torch"),
    ("realesr-animevideov3, PyTorch", "quality-realesr-animevideov3.json", "anime-torch"),
    ("realesr-animevideov3, ONNX fp32", "quality-realesr-animevideov3.json", "anime-onnx"),
    ("realesr-animevideov3, ONNX fp16", "quality-realesr-animevideov3.json", "anime-fp16"),
)
_METRICS = (("PSNR", "psnr", 3), ("SSIM (Wang)", "ssim_wang", 4), ("NIQE", "niqe", 3))
_SETS = ("Set5", "Set14")
_LIBRARIES = ("torch", "onnxruntime", "openvino", "ncnn")


def with_figures(text: str, results: Path = RESULTS) -> str:
    """A README with all its blocks up to date. DataError for a block of an unknown name."""

    def block(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise DataError(f"figures: {match[2]}: expected one of {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[match[2]](results)}\n{match[3]}"

    return _BLOCK.sub(block, text)


def quality_table(results: Path, titles: Sequence[str] = ()) -> str:
    """Means on Set5 / Set14, a row per method; titles: which, all where empty."""
    files = {file for _, file, _ in QUALITY}
    found = {
        file: Evaluation.model_validate_json((results / file).read_text(encoding="utf-8"))
        for file in files
    }
    rows = []
    for title, file, engine in QUALITY:
        if titles and title not in titles:
            continue
        cells = []
        for _, metric, digits in _METRICS:
            values = [found[file].mean[name][engine].get(metric) for name in _SETS]
            cells.append(" / ".join("" if v is None else f"{v:.{digits}f}" for v in values))
        rows.append([title, *cells])
    return _table(["", *(title for title, _, _ in _METRICS)], rows)


def speed_table(results: Path) -> str:
    """Every side of every network, at the largest size that most of them did."""
    rows = []
    for network in _networks(_machines(results)[0]):
        size = _size(network)
        rows += [_speed_row(network, side, size) for side in _by_speed(network, size)]
    head = ["network", "run by", "speed", "range", "LR MP/s", "of peak", "end to end", "PSNR"]
    return _table(head, rows)


def _speed_row(network: Measured, side: Side, size: tuple[int, int]) -> list[str]:
    timing = side.timing(size)
    assert timing is not None
    name = f"**{side.name}**" if side.kind == "engine" else side.name
    speed = timing.speed
    precision = "" if side.precision in side.name else f" ({side.precision})"
    return [
        f"{network.network}, {size[0]}x{size[1]}",
        name + precision,
        f"{speed.median:.2f}x" if speed else "1",
        f"{speed.low:.2f}-{speed.high:.2f}" if speed else "",
        f"{timing.lr_megapixels_per_second:.3g}",
        f"{timing.peak_share:.0%}" if timing.peak_share is not None else "",
        f"{side.end_to_end[0].share:.3f}" if side.end_to_end else "",
        _between(side, network),
    ]


def _between(side: Side, network: Measured) -> str:
    if side.name == network.reference:
        return ""
    return "equal" if side.psnr_between is None else f"{side.psnr_between:.1f} dB"


def machine_line(results: Path) -> str:
    """What the details were measured on, with the best of its peaks."""
    found = _machines(results)[0]
    machine = found[0].machine
    peaks: dict[str, float] = {}
    for bench in found:
        for name, rate in bench.roofline.matrix.items():
            peaks[name] = max(rate, peaks.get(name, 0.0))
    rates = [f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in peaks.items()]
    bandwidth = max(bench.roofline.bandwidth for bench in found)
    versions = [f"{x} {machine.versions[x]}" for x in _LIBRARIES if x in machine.versions]
    return (
        f"{machine.title}, {machine.memory / 1e9:.0f} GB; measured peaks {', '.join(rates)}, "
        f"{bandwidth / 1e9:.0f} GB/s; {', '.join(versions)}."
    )


def machines_table(results: Path) -> str:
    """The fastest engine of each network on each machine, against the reference and against the
    fastest of what people run otherwise: over the rounds of all results in which both ran."""
    rows = [
        _machine_row(benches, network)
        for benches in _machines(results)
        for network in _networks(benches)
    ]
    head = ["machine", "measured", "network", "fastest engine", "speed", "fastest of the others"]
    return _table([*head, "faster than that", "rounds"], rows)


def _machine_row(benches: Sequence[Bench], network: Measured) -> list[str]:
    size = _size(network)
    sides = _by_speed(network, size)
    engine = next(side for side in sides if side.kind == "engine")
    other = next(side for side in sides if side.kind == "baseline")
    timing = engine.timing(size)
    assert timing is not None
    ahead: list[float] = []
    for same in (it for bench in benches for it in bench.networks if _key(it) == _key(network)):
        both = [found and found.timing(size) for found in map(same.side, (engine.name, other.name))]
        if both[0] and both[1]:
            ahead += ratios(both[0].seconds, both[1].seconds)
    found = spread(ahead)
    return [
        benches[0].machine.title,
        max(bench.made for bench in benches)[:10],
        f"{network.network}, {size[0]}x{size[1]}",
        engine.name,
        f"{timing.speed.median:.2f}x" if timing.speed else "",
        other.name,
        f"{found.median:.2f}x ({found.low:.2f}-{found.high:.2f})",
        str(len(ahead)),
    ]


def scaling_table(results: Path) -> str:
    """What does not change the cost per megapixel, and what does."""
    rows = [
        _scaling_row(network, scaling)
        for network in _networks(_machines(results)[0])
        for scaling in network.scaling
    ]
    return _table(["network", "with", "cost, s per LR megapixel", "largest / smallest"], rows)


def _scaling_row(network: Measured, scaling: Scaling) -> list[str]:
    points = [f"{point.value:,}: {point.cost:.1f}" for point in scaling.points]
    what = f"{scaling.axis}: {scaling.fixed}"
    return [network.network, what, "; ".join(points), f"{scaling.flatness:.2f}"]


def _machines(results: Path) -> list[list[Bench]]:
    """The results of each machine, the one that was measured last first."""
    found = by_machine(read_bench(path) for path in sorted(results.glob("speed-*.json")))
    return sorted(found, key=lambda benches: max(it.made for it in benches), reverse=True)


def _networks(benches: Sequence[Bench]) -> list[Measured]:
    """Of each network the result with the most sides."""
    found: dict[str, Measured] = {}
    for network in (network for bench in benches for network in bench.networks):
        known = found.get(_key(network))
        if known is None or len(network.sides) > len(known.sides):
            found[_key(network)] = network
    return list(found.values())


def _key(network: Measured) -> str:
    return network.sha256 or network.network


def _size(network: Measured) -> tuple[int, int]:
    """The largest size that as many sides were measured at as at any."""
    counts: dict[tuple[int, int], int] = {}
    for side in network.sides:
        for timing in side.timings:
            if timing.batch == 1:
                counts[timing.size] = counts.get(timing.size, 0) + 1
    return max(counts, key=lambda size: (counts[size], size[0] * size[1]))


def _by_speed(network: Measured, size: tuple[int, int]) -> list[Side]:
    timed = [side for side in network.sides if side.timing(size)]
    return sorted(timed, key=lambda side: getattr(side.timing(size), "p50", 0.0))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(re.sub(r"\|\s+(?=\|)", "| ", f"| {' | '.join(cells)} |") for cells in lines)


def weights_table(results: Path) -> str:
    """The shipped networks alone."""
    shipped = ("bicubic", "x4-lite, PyTorch", "x4-lite-perceptual, PyTorch")
    return quality_table(results, shipped)


EXTRAS = {
    "": "`pip install .`: reading and writing pictures, no engine",
    "cpu": "upscaling: ONNX Runtime and OpenVINO",
    "bench": "evaluate, verify, bench, report",
    "baselines": "what bench runs beside srtool, PyTorch among it",
    "export": "weights to engines: PyTorch, spandrel",
    "train": "training: PyTorch, accelerate, LPIPS",
    "rtx": "TensorRT-RTX, builder and runtime",
    "docs": "these pages",
    "dev": "tests, lint, types",
}


def extras_table(results: Path) -> str:
    """What each extra weighs, the base among it."""
    found = json.loads((results / "extras.json").read_text(encoding="utf-8"))["megabytes"]
    rows = [
        [f"`{name}`" if name else "none", f"{found[name] / 1000:.1f} GB", what]
        for name, what in EXTRAS.items()
        if name in found
    ]
    return _table(["extra", "size", "for"], rows)


TABLES = {
    "quality": quality_table,
    "weights": weights_table,
    "speed": speed_table,
    "machine": machine_line,
    "machines": machines_table,
    "scaling": scaling_table,
    "extras": extras_table,
}


def write_plot(path: Path, results: Path = RESULTS) -> None:
    """Throughput by size, of the network that was measured at the most sizes."""
    from srtool.benchmarks.report.drawing import write_figure
    from srtool.benchmarks.report.plots import throughput_by_size

    networks = _networks(_machines(results)[0])
    network = max(networks, key=lambda network: max(len(it.timings) for it in network.sides))
    write_figure(path, throughput_by_size(network, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("readmes", type=Path, nargs="+")
    parser.add_argument("--plot", type=Path, help="PNG of throughput by image size")
    options = parser.parse_args()
    for path in options.readmes:
        text = with_figures(path.read_text(encoding="utf-8"))
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if options.plot:
        write_plot(options.plot)


if __name__ == "__main__":
    main()
