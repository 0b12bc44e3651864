"""NumPy 2 under a Python backend that was built for NumPy 1: pixels would be garbage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.errors import EngineError
from srtool.runtime.backends.kserve import Client, service_at
from srtool.serving.triton.pictures import check_transport
from srtool.serving.triton.repository import write_repository


class Tensor:
    """As the backend's, but for what the fault does to the memory that is sent."""

    def __init__(self, name: str, array: Any) -> None:
        self._array = array

    def as_numpy(self) -> Any:
        return self._array

    def to_dlpack(self) -> Any:
        return self._fault(self._array)

    @classmethod
    def from_dlpack(cls, name: str, sent: Any) -> Tensor:
        return cls(name, sent)

    def _fault(self, array: Any) -> Any:
        return array


class Reordered(Tensor):
    def _fault(self, array: Any) -> Any:
        return array.ravel()[::-1].reshape(array.shape).copy()


class Emptied(Tensor):
    def _fault(self, array: Any) -> Any:
        return array[:0]


class Retyped(Tensor):
    def _fault(self, array: Any) -> Any:
        return array.astype(np.float64)


@pytest.mark.parametrize("tensor", [Reordered, Emptied, Retyped])
def test_what_arrives_otherwise_is_not_served(tensor: type[Tensor]) -> None:
    with pytest.raises(EngineError):
        check_transport(type("Utils", (), {"Tensor": tensor}))


def test_what_arrives_as_it_was_is_served() -> None:
    check_transport(type("Utils", (), {"Tensor": Tensor}))


@pytest.mark.slow
def test_a_server_with_numpy_2_refuses(
    triton_environment: Path, compact_export: Path, serve: Any, tmp_path: Path
) -> None:
    """The real fault: the NumPy of these tests in place of the one of Triton's environment."""
    (theirs,) = triton_environment.glob("lib/python3.*/site-packages")
    numpy = Path(np.__file__).parent
    if np.lib.NumpyVersion(np.__version__) < "2.0.0" or theirs.parent.name not in numpy.parts:
        pytest.skip("needs the Python of Triton's environment, with NumPy 2")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (ours,) = environment.glob("lib/python3.*/site-packages")
    server = (theirs / "pytriton", theirs / "nvidia_pytriton.libs")
    for linked in (numpy, numpy.with_name("numpy.libs"), *server):
        (ours / linked.name).symlink_to(linked)
    # Files of paths are not read where a path leads to
    (ours / "others.pth").write_text(f"{theirs}\n{(theirs / 'srtool-under-test.pth').read_text()}")
    write_repository([compact_export / "x4.onnx"], tmp_path / "models", "sr")
    triton = serve(tmp_path / "models", "sr_pictures", environment=environment)
    with pytest.raises(EngineError):
        Client(service_at(f"{triton.addresses[0]}/sr_pictures")).check()
    assert np.__version__ in triton.said
    assert "numpy<2" in triton.said
