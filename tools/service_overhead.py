"""What a server adds to an engine in process: Triton by gRPC and HTTP, and `srtool serve`.

    python tools/service_overhead.py results/service.json ENGINE grpc://HOST:8001/MODEL \
        [http://HOST:8000/MODEL] [--serve http://HOST:8765] [--rounds 15]

ENGINE is the file that the servers run, on this machine. All take one picture after the other, in
turn; Triton gets pixels, `srtool serve` a PNG file and answers with one. Then eight callers at a
time, with pictures of one size and of four: the batches that Triton's statistics count. Writes
medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc

from srtool.images.picture import Picture
from srtool.images.writing import write_image
from srtool.runtime.backends.kserve import Service, service_at
from srtool.runtime.engine import Engine
from srtool.runtime.opening import open_engine
from srtool.version import __version__

SIDES = (32, 128, 256, 1024)
CALLERS, CALLS = 8, 16
MIXED = (48, 64, 80, 96)  # sides; the equal ones have the second


def picture(side: int) -> NDArray[np.uint8]:
    """Smooth as photographs are: noise would make files that no camera writes."""
    coarse = np.random.default_rng(side).integers(0, 256, (side // 16 + 1, side // 16 + 1, 3))
    return np.kron(coarse, np.ones((16, 16, 1)))[:side, :side].astype(np.uint8)


def posting(address: str, image: NDArray[np.uint8]) -> Callable[[], None]:
    """Upscale a picture by `srtool serve`, from PNG to PNG."""
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder, "a.png"), Picture(image))
        data = Path(folder, "a.png").read_bytes()

    def post() -> None:
        with urlopen(Request(f"{address}/v1/upscale", data), timeout=300) as answer:
            answer.read()

    return post


def milliseconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each, run in turn; the first round is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(statistics.median(each[1:]), 2) for name, each in taken.items()}


def batches(service: Service) -> Counter[int]:
    """How many batches of each size the server has computed."""
    client = grpc.InferenceServerClient(service.host)
    (found,) = client.get_inference_statistics(service.model).model_stats
    return Counter({it.batch_size: it.compute_infer.count for it in found.batch_stats})


def reached(served: Engine, service: Service, sides: tuple[int, ...]) -> dict[str, object]:
    """The batches of so many callers at a time, and pictures a second."""
    images = [picture(sides[n % len(sides)]) for n in range(CALLERS * CALLS)]
    before, start = batches(service), time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(served.upscale, images))
    seconds, found = time.perf_counter() - start, batches(service) - before
    mean = sum(size * count for size, count in found.items()) / found.total()
    return {
        "sides": sides,
        "batches": dict(sorted(found.items())),
        "mean batch": round(mean, 2),
        "pictures/s": round(len(images) / seconds, 2),
    }


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("engine", type=Path)
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--serve", default="")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    by_grpc = service_at(asked.addresses[0])
    if by_grpc is None or by_grpc.protocol != "grpc":
        parser.error(f"{asked.addresses[0]}: expected grpc://HOST:PORT/MODEL first")
    with ExitStack() as stack:
        engines = {"in process": stack.enter_context(open_engine(asked.engine))}
        for address in asked.addresses:
            name = f"Triton, {address.partition(':')[0]}"
            engines[name] = stack.enter_context(open_engine(address))
        latency = {}
        for side in SIDES:
            image = picture(side)
            ways: dict[str, Callable[[], object]] = {
                name: lambda it=it, image=image: it.upscale(image)  # type: ignore[misc]
                for name, it in engines.items()
            }
            if asked.serve:
                ways["srtool serve, PNG"] = posting(asked.serve, image)
            latency[side] = milliseconds(ways, asked.rounds if side < SIDES[-1] else 3)
        served = engines[f"Triton, {by_grpc.protocol}"]
        result = {
            "srtool": __version__,
            "engine": asked.engine.name,
            "backend": str(engines["in process"].backend),
            "rounds": asked.rounds,
            "ms": latency,
            "equal": reached(served, by_grpc, MIXED[1:2]),
            "mixed": reached(served, by_grpc, MIXED),
        }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
