"""Whether several threads that share an engine are as fast as one.

    python tools/threads.py --backend openvino --precision bf16 --threads 4

Both upscale the same pictures, in turn, round by round; the ratio is the median over rounds, with
the lowest and the highest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import srtool
from srtool.benchmarks.speed.result import Spread, spread
from srtool.benchmarks.speed.rounds import interleaved, pieces, ratios


def ratio_of_threads(engine: Any, threads: int, side: int, pictures: int, seconds: float) -> Spread:
    """How many times as fast so many threads are as one. side: of the pictures, LR pixels."""
    images = pieces(pictures, side, side)
    with ThreadPoolExecutor(threads) as pool:

        def timed(upscale_all: Callable[[], list[Any]]) -> float:
            start = time.perf_counter()
            assert len(upscale_all()) == pictures
            return time.perf_counter() - start

        runs = {
            "one": partial(timed, lambda: [engine.upscale(image) for image in images]),
            "several": partial(timed, lambda: list(pool.map(engine.upscale, images))),
        }
        for run in runs.values():
            run()
        found, failed = interleaved(runs, seconds)
    if failed:
        raise RuntimeError("; ".join(failed.values()))
    return spread(ratios(found["several"], found["one"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="x4-fast")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, LR pixels")
    parser.add_argument("--pictures", type=int, default=8, help="in a run")
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    with srtool.open_engine(
        asked.engine, backend=asked.backend, precision=asked.precision
    ) as engine:
        found = ratio_of_threads(engine, asked.threads, asked.side, asked.pictures, asked.seconds)
        print(  # noqa: T201
            f"{asked.threads} threads on {engine.backend}: {found.median:.3f}x "
            f"({found.low:.3f} to {found.high:.3f}) as fast as one"
        )


if __name__ == "__main__":
    main()
