"""Which NVIDIA GPUs there are: asked of the driver's own library, so in CUDA's order, and only
those that CUDA_VISIBLE_DEVICES leaves (by number, UUID or the name of a MIG slice). No package is
needed for it and no context is made."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtool.errors import EngineError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver. memory: bytes. cuda: the newest CUDA version that the driver serves,
    driver: "580.65.06" for example, empty where it cannot be read. number: CUDA's among those that
    are visible. uuid: "GPU-..." or "MIG-...", empty where the driver is too old to say."""

    name: str
    compute_capability: tuple[int, int]
    memory: int
    cuda: tuple[int, int]
    driver: str
    number: int = 0
    uuid: str = ""

    @property
    def compute(self) -> str:
        """Such as "8.9"."""
        return ".".join(map(str, self.compute_capability))


def driver_library() -> Any | None:
    """The driver's own library, None where no driver is installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


def visible_gpus() -> list[Gpu]:
    """All GPUs that a program sees here, empty where there are none.

    EngineError where a driver is installed and fails: another version than its kernel module, say.
    """
    library = driver_library()
    if library is None:
        return []
    status = library.cuInit(0)
    if status == _NO_DEVICE:
        return []
    if status:
        raise EngineError(
            f"the NVIDIA driver does not start ({error_name(library, status)}); check nvidia-smi, "
            "and restart the machine where the driver was updated"
        )
    count, version = ctypes.c_int(), ctypes.c_int()
    _check(library, "cuDeviceGetCount", ctypes.byref(count))
    _check(library, "cuDriverGetVersion", ctypes.byref(version))
    cuda, driver = (version.value // 1000, version.value % 1000 // 10), driver_version()
    return [_gpu(library, number, cuda, driver) for number in range(count.value)]


def check_device(device: int | None) -> None:
    """EngineError where a GPU is asked for by its number, and there is none of that number."""
    if device is None:
        return
    try:
        gpu_number(device)
    except EngineError as error:
        error.parameter, error.found = "device", str(device)
        raise


def gpu_number(number: int) -> Gpu:
    """The GPU of a number. EngineError where there is none, with those that there are."""
    gpus = visible_gpus()
    if 0 <= number < len(gpus):
        return gpus[number]
    if not gpus:
        raise EngineError(f"{without_gpu()}; check nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f" with CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
    there = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in gpus)
    raise EngineError(f"there is no GPU of number {number} here{why}; expected one of {there}")


def without_gpu() -> str:
    """Why no GPU is seen, in words."""
    if driver_library() is None:
        return "this machine has no NVIDIA GPU, or no driver for it"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"the NVIDIA driver finds no GPU with CUDA_VISIBLE_DEVICES={visible}"
    return "the NVIDIA driver finds no GPU"


def _gpu(library: Any, number: int, cuda: tuple[int, int], driver: str) -> Gpu:
    device, value = ctypes.c_int(), ctypes.c_int()
    _check(library, "cuDeviceGet", ctypes.byref(device), number)
    name = ctypes.create_string_buffer(256)
    _check(library, "cuDeviceGetName", name, len(name), device)
    memory = ctypes.c_size_t()
    _check(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        _check(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(value.value)
    text = name.value.decode()
    return Gpu(
        text,
        (capability[0], capability[1]),
        memory.value,
        cuda,
        driver,
        number,
        _uuid(library, device, "MIG" if " MIG " in text else "GPU"),
    )


def _uuid(library: Any, device: ctypes.c_int, kind: str) -> str:
    function = getattr(library, "cuDeviceGetUuid_v2", None)  # of MIG slices, from CUDA 11.4
    content = (ctypes.c_uint8 * 16)()
    if function is None or function(ctypes.byref(content), device):
        return ""
    return f"{kind}-{uuid.UUID(bytes=bytes(content))}"


def _check(library: Any, function: str, *arguments: Any) -> None:
    if status := getattr(library, function)(*arguments):
        raise EngineError(f"the NVIDIA driver fails ({function}: {error_name(library, status)})")


def error_name(library: Any, status: int) -> str:
    """CUDA's name for a status of the driver's library."""
    text = ctypes.c_char_p()
    if library.cuGetErrorName(status, ctypes.byref(text)) or not text.value:
        return f"CUDA error {status}"
    return text.value.decode()


def driver_version() -> str:
    """The version of the installed NVIDIA driver, empty where it cannot be read."""
    with suppress(OSError):
        report = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        for word in report.split():
            if word.count(".") in (1, 2) and word.replace(".", "").isdigit():
                return word
    program = shutil.which("nvidia-smi")  # on Windows, and in containers without /proc/driver
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = done.stdout.partition("\n")[0].strip()
    return first if not done.returncode and first[:1].isdigit() else ""
