"""The CPU and the packages that are here."""

from __future__ import annotations

import os
import platform
import sys

import numpy as np
import pytest

from srtool import system


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: X\nflags\t\t: fpu avx2 avx512f amx_bf16 sse\n", "avx2 avx512f amx_bf16"),
        ("Features\t: fp asimd asimddp bf16 crc32\n", "asimd asimddp bf16"),
        ("", ""),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_instructions_are_those_that_networks_use(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setattr(system, "text_of", lambda path: text)
    assert system.instructions() == tuple(expected.split())


def test_the_cpu_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.processor().strip() == system.processor() != ""
    if sys.platform == "linux":
        text = "processor\t: 0\nmodel name\t: A  CPU\nmodel name\t: another\n"
        monkeypatch.setattr(system, "text_of", lambda path: text)
        assert system.processor() == "A CPU"


def test_versions_of_what_is_installed() -> None:
    found = system.versions(("numpy", "no-such-package"))
    assert found == {"python": platform.python_version(), "numpy": np.__version__}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities, as Linux has")
def test_cpus_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(allowed)})
        assert (system.cpus(), system.cores()) == ([max(allowed)], 1)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "20000 100000"}, 1),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "9900000 100000"}, None),
        (  # that of the pod, above that of the container
            {
                "/proc/self/cgroup": "0::/pod/one",
                "/sys/fs/cgroup/pod/one/cpu.max": "400000 100000",
                "/sys/fs/cgroup/pod/cpu.max": "300000 100000",
            },
            3,
        ),
        (  # version 1, in a container that does not see its own group
            {
                "/proc/self/cgroup": "3:cpuset:/x\n2:cpu,cpuacct:/docker/abc\n0::/",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "/proc/self/cgroup": "1:cpu:/",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
)
def test_a_container_may_have_less_time_than_cpus(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int | None
) -> None:
    monkeypatch.setattr(system, "text_of", lambda path: files.get(path.as_posix(), ""))
    monkeypatch.setattr(system, "cpus", lambda: list(range(64)))
    assert system.share() == expected
    assert system.cores() == (expected or 64)
