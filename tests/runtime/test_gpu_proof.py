"""The proof on a GPU, as far as it goes on a fake one: what it compares, and that it can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu_proof import Proof
from numpy.typing import NDArray

from srtool.runtime.gpu.cuda import open_cuda


@pytest.fixture
def make_proof(make_gpu: Any) -> Callable[..., Any]:
    """A proof on a fake GPU. spoil: changes what a kernel is about to make."""

    def make(spoil: Callable[[], None] = lambda: None, **facts: Any) -> Proof:
        gpu = make_gpu(**facts)

        def queue(stream: int, work: Callable[[], object]) -> None:
            gpu.kernel(stream, "network", lambda: (work(), spoil()))

        return Proof(open_cuda(), queue, "cpu")

    return make


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_many_images(make_proof: Any, io: str) -> None:
    found = make_proof(seed=3).exact(io, 6, 150)
    assert found["passed"]
    assert found["values that differ"] == 0
    assert found["values"] > 100_000


def test_graphs(make_proof: Any) -> None:
    found = make_proof(seed=4).graphs()
    assert found["passed"]
    assert found["graphs captured"] == 3
    assert found["graphs launched"] > 3


def test_shortage_of_memory(make_proof: Any) -> None:
    found = make_proof(capacity=1 << 26).memory(1 << 24, 64)
    assert found["passed"]
    assert found["chosen"] != "64 tiles of 64x64 at a time in 3 slots"


def test_a_copy_that_is_too_late_shows(make_proof: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that are read before they have come."""
    from srtool.runtime.gpu.slots import Slot

    monkeypatch.setattr(Slot, "wait", lambda self: None)
    monkeypatch.setattr("srtool.runtime.gpu.cuda.CudaPython.seconds", lambda *_: 0.0)
    found = make_proof(seed=5).exact("uint8", 6, 150)
    assert not found["passed"]
    assert found["values that differ"] > 0


def test_a_wrong_pixel_shows(make_proof: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_proof

    right = gpu_proof.on_cpu

    def wrong(*given: Any) -> NDArray[np.uint8]:
        made = right(*given)
        made[0, 0, 0] ^= 1
        return made

    monkeypatch.setattr(gpu_proof, "on_cpu", wrong)
    found = make_proof().exact("uint8", 3, 40)
    assert not found["passed"]
    assert found["values that differ"] == 3
