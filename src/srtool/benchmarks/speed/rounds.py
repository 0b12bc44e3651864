"""Rounds: the images that all candidates run on, warm-up until stable, and then in turn, every
candidate once a round.

Machines are shared and drift. What hits one round hits all its candidates, so that the ratio of two
candidates, taken round by round, is far steadier than the seconds of either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from srtool.errors import SrtoolError
from srtool.images.folders import SAMPLES
from srtool.images.picture import Picture
from srtool.images.reading import read_rgb
from srtool.images.writing import write_image

Item = TypeVar("Item")
Image = NDArray[np.uint8]  # (H, W, 3) RGB
Run = Callable[[], float]  # runs once, and gives the seconds

STABLE = 0.05  # warm when the last three runs lie within this share of each other
MOST_WARM_UP = 12  # runs; a machine that others use may never be that stable
FEWEST, MOST = 5, 200  # rounds; fewer tell nothing of noise
PAUSE = (
    0.02  # seconds before a run: threads of the last one spin for a while, and cost this one 8 %
)


def warm_up(run: Run, budget: float, least: float = 0.0) -> int:
    """Run until the time is stable; how many runs that took, at least two.

    budget: seconds; after half of it (the first run apart) it is as warm as it gets. least: seconds
    that it goes on for in any case.
    """
    found: list[float] = []
    while len(found) < MOST_WARM_UP or sum(found) < least:
        found.append(run())
        last = found[-3:]
        stable = len(last) == 3 and max(last) - min(last) <= STABLE * min(last)
        late = len(found) >= 2 and sum(found[1:]) > budget / 2
        if (stable or late) and sum(found) >= least:
            break
    return len(found)


def interleaved(
    candidates: Mapping[str, Run],
    budget: float,
    fewest: int = FEWEST,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Run all candidates in turn, round by round; the seconds of each round, by candidate. A
    candidate that fails is left out of everything that follows; second result: the reasons.

    budget: seconds that a candidate may take, on average. fewest: rounds that are made in any case.
    Each begins with another candidate, so that none always follows the same.
    """
    failed: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    left = budget * len(candidates)
    rounds = 0
    while seconds and rounds < MOST and (rounds < fewest or left > 0):
        report(f"round {rounds + 1}")
        for name in rotated(list(seconds), rounds):
            try:
                time.sleep(PAUSE)
                took = candidates[name]()
            except SrtoolError as error:  # noqa: PERF203
                failed[name] = str(error)
                del seconds[name]
            else:
                seconds[name].append(took)
                left -= took
        rounds += 1
    return {name: tuple(found) for name, found in seconds.items()}, failed


def rotated(items: Sequence[Item], by: int) -> list[Item]:
    """The same in a circle, beginning elsewhere."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]


def ratios(own: Sequence[float], reference: Sequence[float]) -> list[float]:
    """How many times as fast as the reference, round by round, as far as both went."""
    return [theirs / ours for ours, theirs in zip(own, reference, strict=False)]


def photographs() -> list[Image]:
    """The photographs that srtool ships."""
    return [read_rgb(path) for path in sorted((SAMPLES / "HR").glob("*.png"))]


def pieces(count: int, width: int, height: int, of: Sequence[Image] | None = None) -> Image:
    """(count, height, width, 3): from each photograph in turn, at places drawn at random,
    seeded; larger pieces are continued by their mirror images."""
    random = np.random.default_rng(0)
    of = of or photographs()
    made = np.empty((count, height, width, 3), np.uint8)
    for number in range(count):
        image = of[number % len(of)]
        top, left = (
            int(random.integers(0, max(1, full - side + 1)))
            for full, side in zip(image.shape, (height, width), strict=False)
        )
        piece = image[top : top + height, left : left + width]
        rows, columns = height - piece.shape[0], width - piece.shape[1]
        made[number] = np.pad(piece, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
    return made


def write_files(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """PNG files of one size. At most 64 differ."""
    folder.mkdir(parents=True, exist_ok=True)
    images = pieces(min(count, 64), width, height)
    paths: list[Path] = []
    for number in range(count):
        path = folder / f"{number:05}.png"
        if number < len(images):
            write_image(path, Picture(images[number], None, False))
        else:
            path.write_bytes(paths[number % len(images)].read_bytes())
        paths.append(path)
    return paths


def images_file(folder: Path, size: tuple[int, int], batch: int) -> Path:
    """A batch of images of that width and height as a file, made when it is first asked for."""
    path = folder / f"{size[0]}x{size[1]}x{batch}.npy"
    if not path.exists():
        np.save(path, pieces(batch, *size))
    return path
