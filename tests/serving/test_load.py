"""Many clients and pictures at a time, on this machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_load import Server, make_pictures, run_load

from srtool.runtime.folder import run
from srtool.runtime.inputs import Job
from srtool.runtime.opening import open_engine

pytestmark = pytest.mark.slow


@pytest.fixture
def server(compact_engine: Path) -> Iterator[Server]:
    started = Server(str(compact_engine))
    yield started
    started.end(signal.SIGTERM)


@pytest.fixture
def pictures(tmp_path: Path) -> list[bytes]:
    return make_pictures(200, tmp_path)


@pytest.fixture
def expected(pictures: list[bytes], tmp_path: Path, compact_engine: Path) -> list[bytes]:
    """What infer makes of the pictures."""
    jobs = [
        Job(tmp_path / f"{number}.png", tmp_path / f"out/{number}.png")
        for number in range(len(pictures))
    ]
    with open_engine(compact_engine) as engine:
        assert run(jobs, engine).failed == 0
    return [job.target.read_bytes() for job in jobs]


def test_none_is_lost_and_memory_is_flat(
    server: Server, pictures: list[bytes], expected: list[bytes]
) -> None:
    load = run_load(server, pictures, lambda number, body: body == expected[number], clients=8)
    print(load)  # noqa: T201
    assert load.lost == []
    assert len(load.seconds) == 200
    assert load.growth < 20  # MB


def test_a_server_that_is_killed(
    server: Server, pictures: list[bytes], expected: list[bytes]
) -> None:
    load = run_load(
        server, pictures, lambda number, body: body == expected[number], 8, kill_after=60
    )
    print(load)  # noqa: T201
    assert load.lost == []
    assert load.retries > 0
