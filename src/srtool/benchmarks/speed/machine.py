"""The machine that is measured on: what it is, how busy others keep it, and what its GPU draws."""

from __future__ import annotations

import importlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from srtool.benchmarks.speed.result import Machine
from srtool.runtime.gpu import machine as gpus
from srtool.runtime.gpu.devices import check_device, gpu_number
from srtool.system import cpus, instructions, processor, text_of, versions

PACKAGES = (
    *("srtool", "numpy", "pyvips", "torch", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("openvino", "spandrel", "ncnn", "pnnx"),
)

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_PERIOD = 0.02  # seconds between readings of the GPU's sensors


def this_machine(device: int | None = None) -> Machine:
    """Ask the system, the GPU's driver and the installed packages; loads no library. device: number
    of the GPU, None for the first, if any."""
    here = gpus.this_machine(device)
    mine = cpus()
    libraries = {library.flavour: library.version for library in here.libraries.values()}
    return Machine(
        cpu=processor(),
        cores=_cores(mine),
        threads=len(mine),
        memory=psutil.virtual_memory().total,
        platform=f"{platform.system()} {platform.machine()}",
        instructions=instructions(),
        gpu=here.gpu,
        driver=here.driver,
        gpu_memory=here.memory,
        versions={**versions(PACKAGES), **libraries},
    )


@contextmanager
def only_gpu(device: int | None) -> Iterator[None]:
    """A block whose new processes and sensors see one GPU, the one of that number; all of them
    where it is None. EngineError where there is none of that number."""
    if device is None:
        yield
        return
    check_device(device)
    before = os.environ.get(_VISIBLE)
    names = before.split(",") if before else []
    name = gpu_number(device).uuid  # empty where the driver is too old to say
    os.environ[_VISIBLE] = name or (names[device].strip() if names else str(device))
    try:
        yield
    finally:
        del os.environ[_VISIBLE]
        if before is not None:
            os.environ[_VISIBLE] = before


def busy_cores(seconds: float = 1.0) -> float:
    """Load by others, in cores, over some seconds: what was not idle of the CPUs that this process
    may use, without its own share. What a hypervisor withheld counts as load by others."""
    own, start = time.process_time(), time.perf_counter()
    shares = psutil.cpu_percent(interval=seconds, percpu=True)
    own = (time.process_time() - own) / (time.perf_counter() - start)
    used = sum(shares[cpu] for cpu in cpus() if cpu < len(shares)) / 100
    return float(max(0.0, used - own))


class Sensors:
    """Power, clock and memory of the first GPU that CUDA sees, read while a block runs.

    After the block: watts and clock (of the streaming multiprocessors, MHz) are means,
    device_memory is by how much the memory that all processes together hold had grown at most
    since the block began, bytes. None where the GPU does not tell, and without a GPU or NVML (the
    package nvidia-ml-py). Since Ampere, the driver gives power as the mean of the last second: let
    the block run for some.
    """

    def __init__(self) -> None:
        self.watts: float | None = None
        self.clock: float | None = None
        self.device_memory: int | None = None
        self._read: dict[str, list[float]] = {"watts": [], "clock": [], "memory": []}
        self._ended = threading.Event()
        self._nvml: Any = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sensors:
        self._nvml = _nvml()
        handle = _handle(self._nvml) if self._nvml else None
        if handle is not None:
            self._sample(handle)  # before the block begins: what memory grows from
            self._thread = threading.Thread(target=self._watch, args=(handle,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
        if self._nvml:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        watts, clock = self._read["watts"][1:], self._read["clock"][1:]  # of the block itself
        memory = self._read["memory"]
        self.watts = sum(watts) / len(watts) if watts else None
        self.clock = sum(clock) / len(clock) if clock else None
        self.device_memory = int(max(memory) - memory[0]) if memory else None

    def _watch(self, handle: Any) -> None:
        """Read every period, and at the end."""
        while not self._ended.wait(_PERIOD):
            self._sample(handle)
        self._sample(handle)

    def _sample(self, handle: Any) -> None:
        nvml = self._nvml
        sensors: dict[str, Callable[[], float]] = {
            "watts": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
        }
        for name, read in sensors.items():
            with suppress(nvml.NVMLError):
                self._read[name].append(read())


def _nvml() -> Any:
    """The module, initialised; None where it or the driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _handle(nvml: Any) -> Any:
    """NVML counts all GPUs of the machine, whatever CUDA is told to see."""
    first = os.environ.get(_VISIBLE, "0").split(",")[0].strip()
    with suppress(nvml.NVMLError):
        for at in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(at)
            uuid = nvml.nvmlDeviceGetUUID(handle)
            if first == str(at) or (first.startswith("GPU-") and uuid.startswith(first)):
                return handle
    return None


def _cores(logical: list[int]) -> int:
    """Physical cores behind logical CPUs."""
    siblings = {
        text_of(Path(f"/sys/devices/system/cpu/cpu{n}/topology/core_cpus_list")) for n in logical
    }
    if "" not in siblings:
        return len(siblings)
    return min(psutil.cpu_count(logical=False) or len(logical), len(logical))
