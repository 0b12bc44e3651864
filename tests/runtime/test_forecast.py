"""What a run would make and take, before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.images.picture import Size
from srtool.runtime.folder import run, upscale_images
from srtool.runtime.forecast import Outlook, forecast, outlook
from srtool.runtime.index import Index
from srtool.runtime.inputs import Job
from srtool.runtime.upscaling import Options


@pytest.fixture
def make_jobs(tmp_path: Path, write_png: Any) -> Callable[..., list[Job]]:
    """Noise, which no encoder makes smaller."""

    def make(count: int, side: int, suffix: str = ".png", channels: int = 3) -> list[Job]:
        random = np.random.default_rng(0)
        jobs = []
        for number in range(count):
            pixels = random.integers(0, 256, (side, side, channels), np.uint8)
            source = write_png(tmp_path / "in" / f"{number}.png", pixels)
            jobs.append(Job(source, tmp_path / "out" / f"{number}{suffix}"))
        return jobs

    return make


def sleeping(seconds: float) -> Callable[[NDArray[Any]], None]:
    """That long for a tile of 128 x 128 pixels."""
    return lambda batch: time.sleep(seconds * batch.shape[1] * batch.shape[2] / 128**2)


def test_what_a_run_does_is_foretold(make_jobs: Any, nearest: Any, tmp_path: Path) -> None:
    jobs = make_jobs(5, 20)
    index = Index(tmp_path / "out")
    with nearest() as engine:
        run(jobs[:1], engine)  # without the index: made by nobody knows what
        list(upscale_images(jobs[1:2], engine, index=index))
        index.close()
        jobs[2].source.write_bytes(b"broken")
        jobs[3].target.mkdir()
        options = Options(size=Size(scale=2))
        found = list(outlook(jobs, engine, options, index))
    kinds = [each.event.kind if each.event else "made" for each in found]
    assert kinds == ["skipped", "other", "failed", "failed", "made"]
    assert (found[4].size, found[4].made) == ((20, 20), (40, 40))
    assert not jobs[4].target.exists()


def looked_at(jobs: list[Job], engine: Any, options: Options) -> list[Outlook]:
    return list(outlook(jobs, engine, options, None))


@pytest.mark.parametrize("size", [None, Size(scale=2)])
def test_time_and_space_are_about_right(make_jobs: Any, nearest: Any, size: Size | None) -> None:
    jobs, options = make_jobs(6, 300), Options(size=size)
    with nearest(sleeping(0.1)) as engine:
        found = forecast(looked_at(jobs, engine, options), 6, engine, options, always=True)
        summary = run(jobs, engine, options)
    assert found is not None
    side = 1200 if size is None else 600
    assert (found.files, found.pixels_in, found.pixels_out) == (6, 6 * 300**2, 6 * side**2)
    assert found.seconds == pytest.approx(summary.seconds["total"], rel=0.6)
    written = sum(job.target.stat().st_size for job in jobs)
    assert found.bytes == pytest.approx(written, rel=0.2)
    assert found.free > 0


def test_a_part_of_the_images_stands_for_all(make_jobs: Any, nearest: Any) -> None:
    jobs = make_jobs(4, 64)
    with nearest() as engine:
        some = looked_at(jobs[::2], engine, Options())
        found = forecast(some, 400, engine, Options(), always=True)
    assert found is not None
    assert (found.files, found.pixels_in) == (400, 400 * 64**2)


@pytest.mark.parametrize(("seconds", "count", "is_said"), [(0.0, 2, False), (0.02, 20_000, True)])
def test_only_of_a_long_run_something_is_said(
    make_jobs: Any, nearest: Any, seconds: float, count: int, is_said: bool
) -> None:
    batches: list[Any] = []

    def before(batch: NDArray[Any]) -> None:
        batches.append(batch.shape)
        sleeping(seconds)(batch)

    jobs = make_jobs(2, 128)
    with nearest(before) as engine:
        some = looked_at(jobs, engine, Options())
        found = forecast(some, count, engine, Options(), always=False)
    assert (found is not None) == is_said
    assert bool(batches) == is_said  # a short run is not made longer by a trial


def test_alpha_damage_and_nothing_at_all(make_jobs: Any, nearest: Any) -> None:
    jobs = make_jobs(3, 40, ".jpg", channels=4)
    content = jobs[0].source.read_bytes()
    jobs[0].source.write_bytes(content[: len(content) // 2])
    with nearest() as engine:
        some = looked_at(jobs, engine, Options())
        assert forecast(some, 3, engine, Options(), always=True) is not None
        nothing = forecast([], 0, engine, Options(), always=True)
    assert nothing is not None
    assert nothing.files == 0
