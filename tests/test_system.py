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
