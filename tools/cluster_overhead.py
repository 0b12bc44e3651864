"""What a Ray cluster costs beside plain shards, on one machine of at least two cores.

    python tools/cluster_overhead.py results/cluster.json [--side 64] [--count 800] [--rounds 3]

Two workers of one CPU against two `srtool infer --shard` processes of one CPU, in turn, on pictures
of one size. Start-up is the time until the first result lies there; the steady rate is that of the
results from the first fifth to the last, by when their files were written; the tail is what passes
from then on that would not at the steady rate. `--single` sends each picture alone as well: what is
more then is the cost of a batch. Adds its figures to the JSON file by the side of the pictures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from srtool.images.picture import Picture
from srtool.images.writing import write_image
from srtool.version import __version__

SHARDS = [["--shard", "1/2"], ["--shard", "2/2"]]
RAY = [["--cluster", "local", "--workers", "2"]]
WAYS = {"shards": ("", SHARDS), "ray": ("", RAY), "single": ("pool.BATCH_FILES = 1; ", RAY)}


def run(photographs: Path, way: str) -> dict[str, float]:
    """Start-up, steady pictures a second, tail and the whole, in seconds, of one way."""
    before, commands = WAYS[way]
    code = f"from srtool.cluster import pool; {before}from srtool.cli.main import main; main()"
    infer = [sys.executable, "-c", code, "infer", str(photographs), "--threads", "1", "-q"]
    with tempfile.TemporaryDirectory() as out:
        start = time.time()
        running = [subprocess.Popen([*infer, "-o", out, *more]) for more in commands]
        codes = [process.wait() for process in running]
        whole = time.time() - start
        written = sorted(path.stat().st_mtime - start for path in Path(out).rglob("*.png"))
    count = len(list(photographs.iterdir()))
    if any(codes) or len(written) != count:
        raise SystemExit(f"{way}: exit codes {codes}, {len(written)} results of {count}")
    first, last = count // 5, count * 4 // 5
    rate = (last - first) / (written[last] - written[first])
    tail = whole - written[last] - (count - 1 - last) / rate
    return {"start-up s": written[0], "pictures/s": rate, "tail s": tail, "whole s": whole}


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    for name, value in (("side", 64), ("count", 800), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--single", action="store_true")
    asked = parser.parse_args()
    random = np.random.default_rng(1)
    ways = [way for way in WAYS if way != "single" or asked.single]
    with tempfile.TemporaryDirectory() as name:
        for number in range(asked.count):
            pixels = random.integers(0, 256, (asked.side, asked.side, 3), np.uint8)
            write_image(Path(name, f"{number}.png"), Picture(pixels))
        rounds = [{way: run(Path(name), way) for way in ways} for _ in range(asked.rounds)]
    ratios = [each["ray"]["pictures/s"] / each["shards"]["pictures/s"] for each in rounds]
    found: dict[str, object] = {
        "count": asked.count,
        "srtool": __version__,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }
    for way in ways:
        found[way] = {
            key: statistics.median(each[way][key] for each in rounds) for key in rounds[0][way]
        }
    record = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    record.setdefault("overhead", {})[str(asked.side)] = found
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
