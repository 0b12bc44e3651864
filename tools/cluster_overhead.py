"""What a Ray cluster costs beside plain shards, on one machine of at least two cores.

    python tools/cluster_overhead.py [--rounds 3] [--few 40] [--many 200] [--side 64]

Two workers of one CPU against two `srtool infer --shard` processes of one CPU, in turn, on a few
and on many pictures of one size. Start-up is what the few take less their share of the slope;
steady is the slope: seconds a picture. Prints both, and the ratio of the slopes, 1 where Ray costs
nothing, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from srtool.images.picture import Picture
from srtool.images.writing import write_image


def seconds(photographs: Path, ray: bool) -> float:
    """How long all of them take."""
    infer = [sys.executable, "-m", "srtool", "infer", str(photographs), "--threads", "1", "-q"]
    with tempfile.TemporaryDirectory() as out:
        infer += ["-o", out]
        more = (
            [["--cluster", "local", "--workers", "2"]]
            if ray
            else [["--shard", "1/2"], ["--shard", "2/2"]]
        )
        start = time.perf_counter()
        running = [
            subprocess.Popen([*infer, *each], stdout=subprocess.DEVNULL, env=dict(os.environ))
            for each in more
        ]
        codes = [process.wait() for process in running]
        taken = time.perf_counter() - start
        made = len(list(Path(out).rglob("*.png")))
    expected = len(list(photographs.iterdir()))
    if any(codes) or made != expected:
        raise SystemExit(f"exit codes {codes}, {made} results of {expected}")
    return taken


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("rounds", 3), ("few", 40), ("many", 200), ("side", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    asked = parser.parse_args()
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for label, count in (("few", asked.few), ("many", asked.many)):
            folders[label] = Path(name, label)
            for number in range(count):
                pixels = random.integers(0, 256, (asked.side, asked.side, 3), np.uint8)
                write_image(folders[label] / f"{number}.png", Picture(pixels))
        taken: dict[str, list[dict[str, float]]] = {"shards": [], "ray": []}
        for _ in range(asked.rounds):
            round_ = {
                kind: {label: seconds(path, kind == "ray") for label, path in folders.items()}
                for kind in taken
            }
            for kind, found in round_.items():
                slope = (found["many"] - found["few"]) / (asked.many - asked.few)
                start_up = found["few"] - slope * asked.few
                taken[kind].append({**found, "steady": slope, "start-up": start_up})
    middle = {
        kind: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for kind, found in taken.items()
    }
    ratios = [
        shards["steady"] / ray["steady"]
        for shards, ray in zip(taken["shards"], taken["ray"], strict=True)
    ]
    steady = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    result: dict[str, object] = {"asked": vars(asked), "seconds": middle}
    result["shards over ray"] = steady
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
