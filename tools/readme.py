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
from dataclasses import replace
from pathlib import Path

from models import NETWORKS

from srtool.benchmarks.evaluation import Evaluation
from srtool.benchmarks.report.quality import merged, quality_table
from srtool.benchmarks.report.standings import by_machine, by_speed, common_place, networks_of
from srtool.benchmarks.report.timings import (
    between,
    fastest_table,
    machine_line,
    scaling_table,
    speed_cell,
)
from srtool.benchmarks.speed.result import Bench, Candidate, Measured, read_bench
from srtool.errors import DataError
from srtool.files import whole_file
from srtool.tables.table import (
    Cell,
    Group,
    Table,
    figure,
    fixed,
    percent,
    size_text,
    table_of,
    table_of_texts,
)
from srtool.tables.writers import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results"
METRICS = ("psnr", "ssim_wang", "niqe", "lpips", "lpips_vgg")
ABLATION = {
    "full": "all parts",
    "no_gradient_branch": "without the gradient branch",
    "no_unet": "without the U-Net",
    "no_lpips": "without LPIPS",
}
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def with_figures(text: str, results: Path = RESULTS) -> str:
    """A README with all its blocks up to date. DataError for a block of an unknown name."""

    def block(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise DataError(f"figures: {match[2]}: expected one of {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[match[2]](results)}\n{match[3]}"

    return _BLOCK.sub(block, text)


def quality(results: Path) -> str:
    """All that was evaluated."""
    return _text(quality_table(_evaluation(results), metrics=METRICS))


def weights(results: Path) -> str:
    """Bicubic and the shipped networks alone."""
    names = {"bicubic": "bicubic"} | {shipped.column: shipped.name for shipped in NETWORKS}
    return _named(_evaluation(results), names, METRICS)


def ablation(results: Path) -> str:
    """Table 2 with a small network: what tools/ablation.py measured."""
    path = results / "ablation.json"
    if not path.exists():
        return "Not measured."
    found = Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    names = {name: title for name, title in ABLATION.items() if name in found.engines}
    return _named(found, names, ("niqe", "lpips", "psnr", "ssim_wang"))


def _named(found: Evaluation, names: dict[str, str], metrics: Sequence[str]) -> str:
    """Some of the engines, under other names."""
    table = quality_table(found, engines=list(names), metrics=metrics)
    groups = (
        Group(group.title, tuple((Cell(names[row[0].text]), *row[1:]) for row in group.rows))
        for group in table.groups
    )
    return _text(replace(table, groups=tuple(groups)))


def speed(results: Path) -> str:
    """Every candidate of every network on the machine that was measured last."""
    return _text(_candidates(_networks(results)))


def _candidates(networks: list[Measured]) -> Table:
    """A block per network: each candidate where most of them were timed, the fastest first."""
    rows = {}
    for network in networks:
        if place := common_place(network):
            title = f"{network.network}, {size_text(*place)}"
            rows[title] = [(network, *timed) for timed in by_speed(network, place)]

    def name(candidate: Candidate) -> Cell:
        precision = "" if candidate.precision in candidate.name else candidate.precision
        return Cell(candidate.name, best=candidate.kind == "engine", note=precision)

    return table_of(
        "",
        {
            "run by": lambda row: name(row[1]),
            "speed": lambda row: speed_cell(*row),
            "LR MP/s": lambda row: figure(row[2].lr_megapixels_per_second),
            "of the peak": lambda row: percent(row[2].peak_share),
            "end to end": lambda row: (
                fixed(row[1].end_to_end[0].share, 3) if row[1].end_to_end else None
            ),
            "PSNR between, dB": lambda row: between(row[0], row[1]),
        },
        rows,
    )


def machines(results: Path) -> str:
    """The fastest engine of each network on each machine."""
    return _text(fastest_table(_benches(results)))


def machine(results: Path) -> str:
    """What the details were measured on."""
    return machine_line(by_machine(_benches(results))[0][0])


def scaling(results: Path) -> str:
    """What does not change the cost per megapixel, and what does."""
    found = (scaling_table(network) for network in _networks(results) if network.scaling)
    return "\n\n".join(map(_text, found))


def extras(results: Path) -> str:
    """What each extra weighs, the base among it."""
    found = json.loads((results / "extras.json").read_text(encoding="utf-8"))["megabytes"]
    rows = [
        (f"`{name}`" if name else "none", f"{found[name] / 1000:.1f} GB", what)
        for name, what in EXTRAS.items()
        if name in found
    ]
    return _text(table_of_texts(("extra", "size", "for"), rows, words=3))


def _text(table: Table) -> str:
    return markdown(table, caption=False)


def _evaluation(results: Path) -> Evaluation:
    return merged(
        [
            (path.stem, Evaluation.model_validate_json(path.read_text(encoding="utf-8")))
            for path in sorted(results.glob("quality-*.json"))
        ]
    )


def _benches(results: Path) -> list[Bench]:
    return [read_bench(path) for path in sorted(results.glob("speed-*.json"))]


def _networks(results: Path) -> list[Measured]:
    return networks_of(by_machine(_benches(results))[0])


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


TABLES = {
    "quality": quality,
    "weights": weights,
    "speed": speed,
    "machine": machine,
    "machines": machines,
    "scaling": scaling,
    "extras": extras,
    "ablation": ablation,
}


def write_plot(path: Path, results: Path = RESULTS) -> None:
    """Throughput by size, of the network that was measured at the most sizes."""
    from srtool.benchmarks.report.drawing import write_figure
    from srtool.benchmarks.report.plots import throughput_by_size

    network = max(
        _networks(results), key=lambda network: max(len(it.timings) for it in network.candidates)
    )
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
