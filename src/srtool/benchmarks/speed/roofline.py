"""The peaks of this machine: the fastest products that its libraries make, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from srtool.benchmarks.speed.baselines.pytorch import Device, has_half
from srtool.benchmarks.speed.process import run_apart
from srtool.benchmarks.speed.result import Roofline
from srtool.system import cores

SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}  # of the matrices multiplied
CHANNELS = (64, 128, 256)  # of the 3x3 convolutions: products with reuse in the caches
_MAP = 96  # side of their images
_TRIES = 6
_COPIED = 256 << 20  # bytes, many times the caches


def measured_roofline(device: Device = "cpu", threads: int | None = None) -> Roofline:
    """Measure in a process of its own, that leaves nothing behind: some seconds. ProcessError
    where it fails.

    matrix: the best of matrix products and convolutions of several sizes, by NumPy and, where it
    is installed, PyTorch; half precision only where the hardware has instructions for it.
    """
    found: Roofline = run_apart(partial(_measure, device), threads)
    return found


def _measure(device: Device) -> Roofline:
    matrix = {"fp32": _numpy_peak()} if device == "cpu" else {}
    try:
        for name, peak in _torch_peaks(device).items():
            matrix[name] = max(peak, matrix.get(name, 0.0))
    except ImportError:
        pass
    return Roofline(matrix=matrix, bandwidth=_bandwidth(device))


def _numpy_peak() -> float:
    found = []
    for side in SIDES["cpu"]:
        left = np.random.default_rng(0).standard_normal((side, side), np.float32)
        found.append(2 * side**3 / _best(partial(np.matmul, left, left)))
    return max(found)


def _torch_peaks(device: Device) -> dict[str, float]:
    """FLOP/s by precision."""
    import torch

    half = {"cpu": ("bf16", torch.bfloat16), "cuda": ("fp16", torch.float16)}[device]
    kinds = [("fp32", torch.float32)] + ([half] if has_half(device) else [])

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    peaks = {}
    for name, dtype in kinds:
        rates = []
        with torch.inference_mode():
            for side in SIDES[device]:
                left = torch.randn(side, side).to(device, dtype)
                seconds = _best(partial(torch.matmul, left, left), finish)
                rates.append(2 * side**3 / seconds)
            for channels in CHANNELS:
                shape = (4 if device == "cuda" else 1, channels, _MAP, _MAP)
                kind: dict[str, Any] = {"dtype": dtype, "memory_format": torch.channels_last}
                image = torch.randn(shape).to(device, **kind)
                layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(device, **kind)
                seconds = _best(partial(layer, image), finish)
                rates.append(2 * 9 * channels * image.numel() / seconds)
        peaks[name] = max(rates)
    return peaks


def _bandwidth(device: str) -> float:
    """Bytes/s of a copy, read and written."""
    if device == "cuda":
        import torch

        there = torch.zeros(_COPIED, dtype=torch.uint8, device=device)
        other = torch.empty_like(there)
        return 2 * _COPIED / _best(partial(other.copy_, there), torch.cuda.synchronize)
    source, target = np.ones(_COPIED, np.uint8), np.zeros(_COPIED, np.uint8)
    parts = list(zip(np.array_split(source, cores()), np.array_split(target, cores()), strict=True))
    with ThreadPoolExecutor(cores()) as threads:
        copy = [lambda a=a, b=b: np.copyto(b, a) for a, b in parts]
        return 2 * _COPIED / _best(lambda: [x.result() for x in [threads.submit(c) for c in copy]])


def _best(run: Callable[[], object], finish: Callable[[], None] = lambda: None) -> float:
    """Seconds of the fastest of some tries, after one to warm up. finish: waits for a GPU."""
    run()
    finish()
    found = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        run()
        finish()
        found.append(time.perf_counter() - start)
    return min(found)
