"""Where a cluster's head, the store or the listing becomes the limit, on paper.

    python tools/cluster_scaling.py results/cluster.json

From what `tools/cluster_overhead.py` and `tools/million.py` measured of two workers and a head, as
lines of Markdown: a million pictures on 1, 10 and 100 machines.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PICTURES = 1_000_000
MACHINES = (1, 10, 100)
CPUS = 16  # workers of a machine without a GPU
GPU = 100.0  # pictures a second of a machine with one, assumed
PAGE, PAGE_SECONDS = 1000, 0.1  # names in a page of a store's listing; seconds for it, assumed
BYTES = 1.5  # of a PNG of a photograph, per pixel
NETWORK = 12.5e9  # bytes a second of a store to all, assumed: 100 Gbit/s
PREFIX = 3500  # objects that S3 takes a second below one prefix, as its makers say


def rows(record: dict[str, dict[str, float]], side: int, rate: float, name: str) -> list[str]:
    """A row for each number of machines. rate: pictures a second of one machine."""
    head, lines = record["million"], []
    for machines in MACHINES:
        wanted = machines * rate
        limits = {
            "head": head["head pictures/s"],
            "line to the store": NETWORK / (17 * side**2 * BYTES),
            "requests below one prefix": float(PREFIX),
        }
        limit = min(limits, key=limits.__getitem__)
        reached = min(wanted, limits[limit])
        listing = PICTURES / PAGE * PAGE_SECONDS + head["listed s"] + head["first batch s"]
        seconds = PICTURES / reached + listing
        cells = [
            name,
            f"{machines}",
            f"{wanted:,.0f}",
            f"{wanted / limits['head']:.0%}",
            f"{wanted * 17 * side**2 * BYTES / 1e6:,.0f}",
            f"{listing / seconds:.0%}",
            f"{seconds / 3600:,.1f}",
            limit if wanted > limits[limit] else "workers",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table."""
    record = json.loads(Path(sys.argv[1]).read_text())
    titles = ("machine", "machines", "pictures/s wanted", "of what the head can hand out",
              "MB/s from and to the store", "listing's share of the time", "hours",
              "the limit")  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * 6 + " --- |"]
    for side, found in record["overhead"].items():
        rate = CPUS * found["ray"]["pictures/s"] / 2
        lines += rows(record, int(side), rate, f"{CPUS} CPUs, {side}x{side}")
    lines += rows(record, 256, GPU, "a GPU, 256x256")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
