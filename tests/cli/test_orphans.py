"""No process of evaluate or bench outlives the command, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


def started(process: subprocess.Popen[bytes], count: int) -> list[psutil.Process]:
    """The processes that do the work, once there are so many; not multiprocessing's own tracker."""
    while process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        found = [child for child in children if "spawn_main" in command_of(child)]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"it ended with {process.returncode}")


def command_of(child: psutil.Process) -> str:
    """Empty where it has just ended."""
    try:
        return " ".join(child.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("command", ["evaluate", "bench"])
def test_nothing_is_left_behind(
    command: str, name: str, tmp_path: Path, compact_export: Path, write_png: Any
) -> None:
    if command == "evaluate":
        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
        for number in range(30):
            write_png(tmp_path / "set" / f"{number}.png", noise)
        arguments = ["evaluate", tmp_path / "set", "--engine", "bicubic", "--metrics", "ssim"]
    else:
        arguments = ["bench", compact_export / "x4.onnx", "--baselines", "none", "--seconds", 1000]
    line = [sys.executable, "-m", "srtool", *map(str, arguments)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        children = started(process, 1)
        process.send_signal(getattr(signal, name))
        process.wait(120)
    _, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert alive == []
