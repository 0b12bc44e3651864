"""The table of docs/gpus.md: what networks cost, and what each class of GPU makes of that at best.

    python tools/roofline.py docs/gpus.md

Writes between the two markers of the page. Counted in the ONNX graphs; GPUs by their data sheets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from srtool.export.flops import BYTES, GENERATORS, Cost, cost_from_file, megapixels_per_second
from srtool.export.tensorrt.gpus import GPUS, Gpu, support_of
from srtool.models import engine_path, model_names

START, END = "<!-- roofline -->", "<!-- /roofline -->"
SHOWN = (
    "GTX 1080 Ti", "RTX 2080 Ti", "Tesla V100 16GB", "Tesla T4", "RTX 3060", "RTX 3090",
    "A100 80GB", "RTX 4060", "RTX 4090", "L4", "H100", "H200", "RTX 5090",
)  # fmt: skip


def networks() -> dict[str, Cost]:
    """The paper's generator, and those that ship, once for each cost."""
    found = {"full": GENERATORS["full"]}
    for name in model_names():
        cost = cost_from_file(engine_path(name))
        if cost not in found.values():
            found[name] = cost
    return found | {"RRDB-23 (ESRGAN)": GENERATORS["RRDB-23"]}


def intensity(cost: Cost, precision: str) -> float:
    """Floating-point operations for each byte that layers read and write, one after the other."""
    return cost.flops / (cost.moved * BYTES[precision])


def ridge(gpu: Gpu, precision: str) -> float:
    """The intensity from which on arithmetic is the limit."""
    rate = gpu.fp32 if precision == "fp32" else gpu.fp16
    return rate * 1e12 / (gpu.bandwidth * 1e9)


def page() -> str:
    """Both tables, in Markdown."""
    costs = networks()
    lines = ["| network | MFLOP per LR pixel | bytes per LR pixel, FP16 | FLOP/B | parameters |",
             "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    lines += [
        f"| {name} | {cost.flops / 1e6:.1f} | {cost.moved * 2:,.0f} | "
        f"{intensity(cost, 'fp16'):.0f} | {cost.parameters / 1e6:.1f} M |"
        for name, cost in costs.items()
    ]
    names = " | ".join(costs)
    lines += ["", f"| GPU | precision | ridge, FLOP/B | {names} |",
              "| --- | --- | ---: | " + " | ".join(["---:"] * len(costs)) + " |"]  # fmt: skip
    for gpu in (gpu for gpu in GPUS if gpu.name in SHOWN):
        precision = "fp32" if support_of(gpu.compute).against_fp16 else "fp16"
        cells = []
        for cost in costs.values():
            limit = "M" if intensity(cost, precision) < ridge(gpu, precision) else "A"
            speed = megapixels_per_second(cost, gpu, precision)  # type: ignore[arg-type]
            cells.append(f"{speed:.3g} {limit}")
        lines.append(
            f"| {gpu.name} | {precision.upper()} | {ridge(gpu, precision):.0f} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def written(text: str) -> str:
    """A page with its tables brought up to date."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{page()}\n\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
