"""Whether a library failed for want of memory.

ONNX Runtime, OpenVINO, TensorRT and PyTorch's CPU allocator have no type of error for that, only
words. They are read here and nowhere else: every other file decides by MemoryError or, on a GPU, by
OutOfMemory.
"""

from __future__ import annotations

import re

_WORDS = re.compile(
    r"out ?of ?memory|insufficient memory|bad_alloc|allocat|cudaMalloc|bfc_?arena", re.IGNORECASE
)


def is_shortage(text: str) -> bool:
    """text: what the library said."""
    return _WORDS.search(text) is not None
