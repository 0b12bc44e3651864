"""CUDA in a few functions: memory, copies, streams, events and graphs.

Through PyCUDA, and where that is not installed through cuda-python. Both work in the device's
primary context, which torch, TensorRT and ONNX Runtime use as well: in a second context their
memory would not exist. A context is current only inside `with cuda.current():`, so nothing is
left behind for others, and every other function here must be called inside such a block.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext, suppress

from srtool.errors import EngineError
from srtool.runtime.gpu.cuda.interface import Buffer, Cuda, CudaError, OutOfMemory
from srtool.runtime.gpu.devices import Gpu, driver_library, gpu_number

__all__ = ["Buffer", "Cuda", "CudaError", "OutOfMemory", "find_gpu", "on_gpu", "open_cuda"]


def find_gpu(number: int = 0) -> Gpu | None:
    """A GPU of this machine, None where there is none or nothing to reach it with."""
    try:
        return open_cuda(number).gpu
    except EngineError:
        return None


def open_cuda(number: int = 0) -> Cuda:
    """A GPU by its number among those that are visible (CUDA_VISIBLE_DEVICES).

    EngineError where there is no driver, no such GPU, neither library, or where another context
    than the primary one is in use in this thread.
    """
    gpu = gpu_number(number)
    if _is_installed("pycuda"):
        from srtool.runtime.gpu.cuda.pycuda import PyCuda

        with suppress(ImportError):  # built for another Python, numpy or CUDA
            return PyCuda(gpu, driver_library())
    if _is_installed("cuda.bindings") or _is_installed("cuda.cuda"):
        from srtool.runtime.gpu.cuda.cudapython import CudaPython

        return CudaPython(gpu)
    raise EngineError(
        "neither PyCUDA nor cuda-python is installed; pip install cuda-python, "
        "or pip install pycuda where the CUDA toolkit is"
    )


def on_gpu(number: int) -> AbstractContextManager[None]:
    """A block for libraries that work on the thread's current GPU, which is the first where nobody
    says another. EngineError as `open_cuda`."""
    return open_cuda(number).current() if number else nullcontext()


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent
        return False
