"""Whether training waits for its data: batches a second, and the wait of a consumer that computes.

    python -m srtool.benchmarks.loader --data photographs/ --mixture

The consumer stands for a GPU: 15 ms a step is what a fast one needs for the lite network. It is
measured twice, since the threads that make batches share Python's lock with the training loop:
asleep, as when kernels are queued far ahead, and busy, as when each must first be launched.
Nothing is stored.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from srtool import console
from srtool.errors import SrtoolError
from srtool.train.data.augment import Mixture
from srtool.train.data.patches import Patches


@dataclass(frozen=True)
class Loading:
    """batches_per_second: made by the background threads alone. asleep, busy: the share of its
    time that such a consumer waited for data, in 0..1."""

    batches_per_second: float
    asleep: float
    busy: float


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _launch(seconds: float) -> None:
    """Small operations one after another, as a training loop hands them to a GPU."""
    end = time.perf_counter() + seconds
    x = torch.zeros(64)
    while time.perf_counter() < end:
        x.add_(1)


def _wait_share(
    patches: Patches, steps: int, seconds: float, compute: Callable[[float], None]
) -> float:
    waited, start = patches.waited, time.perf_counter()
    for _ in patches.batches(1, steps):
        compute(seconds)
    return (patches.waited - waited) / (time.perf_counter() - start)


def measure(patches: Patches, steps: int, seconds: float) -> Loading:
    """Take `steps` batches without, and twice with, computing `seconds` for each of them."""
    start = time.perf_counter()
    for _ in patches.batches(1, steps):
        pass
    rate = steps / (time.perf_counter() - start)
    asleep = _wait_share(patches, steps, seconds, _sleep)
    return Loading(rate, asleep, _wait_share(patches, steps, seconds, _launch))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m srtool.benchmarks.loader", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of photographs, or a packed file")
    add("--batch", type=_positive, default=16)
    add("--patch", type=_side, default=128, help="side of the HR patch, a multiple of 4")
    add("--mixture", action="store_true", help="with the mixture of augmentations")
    add("--steps", type=_positive, default=200)
    add("--compute", type=_positive, default=15, metavar="MS", help="milliseconds a step")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        mixture = Mixture() if options.mixture else None
        patches = Patches(options.data, options.patch, options.batch, 0, mixture)
    except SrtoolError as error:
        console.say(f"srtool: {error}")
        return 2
    opened = time.perf_counter() - start
    found = measure(patches, options.steps, options.compute / 1000)
    console.answer(
        f"{patches.photographs} photographs opened in {opened:.1f} s\n"
        f"{found.batches_per_second:.0f} batches/s of {options.batch} patches of {options.patch}\n"
        f"at {options.compute} ms a step: {found.asleep:.1%} of the time waiting for data "
        f"({found.busy:.1%} while launching kernels)"
    )
    return 0


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: expected at least 1")
    return number


def _side(text: str) -> int:
    if (number := _positive(text)) % 4:
        raise argparse.ArgumentTypeError(f"{number}: expected a multiple of 4")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
