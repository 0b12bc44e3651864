"""Which words of a library mean that memory is short, and what comes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError
from srtool.runtime.gpu.cuda import OutOfMemory
from srtool.runtime.session import is_shortage

SHORT = {
    "onnxruntime": "Failed to allocate memory for requested buffer of size 68719476736",
    "its CUDA provider": "onnxruntime/core/framework/bfc_arena.cc:376 Available memory of 0",
    "openvino": "Exception from src/inference/src/cpp/infer_request.cpp: std::bad_alloc",
    "torch": "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    "torch on a GPU": "CUDA out of memory. Tried to allocate 20.00 GiB",
    "tensorrt": "[convolution] Error Code 1: Cuda Runtime (out of memory)",
    "tensorrt 8.6": "[executionContext] Error Code 2: OutOfMemory (Requested size was 9)",
}
OTHER = {
    "onnxruntime": "Non-zero status code returned while running Reshape node",
    "openvino": "Check 'broadcast_passed' failed: Argument shapes are inconsistent",
    "tensorrt": "Error Code 3: API Usage Error (an illegal memory access was encountered)",
}


@pytest.mark.parametrize("library", SHORT)
def test_memory_is_short(library: str) -> None:
    assert is_shortage(SHORT[library])


@pytest.mark.parametrize("library", OTHER)
def test_something_else_is_wrong(library: str) -> None:
    assert not is_shortage(OTHER[library])


@pytest.mark.parametrize("text", [*SHORT.values(), *OTHER.values()])
def test_a_session_says_it_by_the_type(nearest: Any, text: str) -> None:
    def fail(batch: Any) -> None:
        raise RuntimeError(text)

    kind = MemoryError if text in SHORT.values() else RuntimeError
    with pytest.raises(kind) as caught:
        nearest(before=fail).upscale_batch(np.zeros((1, 8, 8, 3), np.uint8))
    assert caught.type is kind


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (MemoryError(), {"tile": 128}),
        (OutOfMemory("cuMemAlloc"), {"tile": 128}),
        (RuntimeError("bad shape"), {}),
    ],
)
def test_what_helps(nearest: Any, error: Exception, remedy: dict[str, int]) -> None:
    def fail(batch: Any) -> None:
        raise error

    with pytest.raises(EngineError) as caught:
        nearest(before=fail).upscale(np.zeros((8, 8, 3), np.uint8))
    assert caught.value.remedy == remedy
