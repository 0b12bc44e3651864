"""This machine, the load by others, and sensors of a GPU that is simulated."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from srtool.benchmarks.speed import machine as machine_module
from srtool.benchmarks.speed.machine import Sensors, busy_cores, this_machine
from srtool.runtime.gpu.machine import Library
from srtool.runtime.gpu.machine import Machine as Plans
from srtool.system import INSTRUCTIONS


def test_this_machine_is_described() -> None:
    found = this_machine()
    assert found.cpu
    assert 1 <= found.cores <= found.threads <= (os.cpu_count() or 1)
    assert found.memory > 1 << 28
    assert set(found.instructions) <= set(INSTRUCTIONS)
    assert {"python", "srtool", "numpy"} <= found.versions.keys()
    assert "" not in found.versions.values()
    assert this_machine().fingerprint == found.fingerprint


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities, as Linux has")
def test_only_the_cores_that_the_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        found = this_machine()
        assert (found.cores, found.threads) == (1, 1)
    finally:
        os.sched_setaffinity(0, allowed)


def test_two_threads_of_a_core_are_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    def siblings(path: Path) -> str:
        number = int(path.parts[-3].removeprefix("cpu"))
        return f"{number % 4},{number % 4 + 4}"  # eight threads of four cores

    monkeypatch.setattr(machine_module, "text_of", siblings)
    assert machine_module._cores([0, 1, 2, 3, 4, 5, 6, 7]) == 4
    assert machine_module._cores([0, 4, 1]) == 2


def test_the_gpu_and_tensorrt_are_those_that_plans_see(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = {"tensorrt": Library("tensorrt", "10.13.0.35", 12)}
    here = Plans("RTX 4090", "8.9", "580.65", 24 << 30, libraries=libraries)  # type: ignore[arg-type]
    monkeypatch.setattr(machine_module.gpus, "this_machine", lambda device=0: here)
    found = this_machine()
    assert (found.gpu, found.driver, found.gpu_memory) == ("RTX 4090", "580.65", 24 << 30)
    assert found.versions["tensorrt"] == "10.13.0.35"


def test_the_load_of_another_process_is_seen_and_the_own_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two CPUs, of three, are ours; the process itself uses half a core."""
    monkeypatch.setattr(machine_module, "cpus", lambda: [0, 2])
    shares = SimpleNamespace(cpu_percent=lambda interval, percpu: [80.0, 100.0, 90.0])
    monkeypatch.setattr(machine_module, "psutil", shares)
    clock = iter([10.0, 12.0])
    own = iter([1.0, 2.0])
    fake = SimpleNamespace(process_time=lambda: next(own), perf_counter=lambda: next(clock))
    monkeypatch.setattr(machine_module, "time", fake)
    assert busy_cores(2.0) == pytest.approx(0.8 + 0.9 - 0.5)


def test_a_process_that_spins_is_load() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert 0.3 < busy_cores(0.5) <= len(machine_module.cpus()) + 0.2
        finally:
            other.kill()


# Sensors


class FakeNvml(ModuleType):
    """The functions of nvidia-ml-py that are used, with two GPUs. Readings count up."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, power: bool = True, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.power, self.driver, self.open, self.reads, self.asked = power, driver, 0, 0, ""

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, at: int) -> str:
        return f"handle {at}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return f"GPU-{handle[-1] * 8}-0000"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.asked = handle
        if not self.power:
            raise self.NVMLError
        self.reads += 1
        return 100_000 if self.reads % 2 else 300_000  # mW

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1500

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=24 << 30, used=(5 << 30) + {1: 0, 2: 700}.get(self.reads, 300))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def test_sensors_give_means_and_how_much_memory_grew(nvml: FakeNvml) -> None:
    with Sensors() as sensors:
        assert sensors.watts is None
        deadline = time.monotonic() + 120
        while nvml.reads < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert nvml.reads >= 4
    later = nvml.reads - 1  # the first is of before the block
    expected = (300 * (later - later // 2) + 100 * (later // 2)) / later
    assert sensors.watts == pytest.approx(expected)
    assert sensors.clock == 1500
    assert sensors.device_memory == 700  # more than at the beginning, for a while
    assert (nvml.open, nvml.asked) == (0, "handle 0")


def test_a_short_block_is_read_before_and_at_its_end(nvml: FakeNvml) -> None:
    with Sensors() as sensors:
        pass
    assert nvml.reads == 2
    assert sensors.watts == pytest.approx(300)


def test_sensors_stop_when_the_block_fails(nvml: FakeNvml) -> None:
    with pytest.raises(ValueError, match="of the block"), Sensors():
        raise ValueError("of the block")
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "handle"),
    [("1", "handle 1"), ("1,0", "handle 1"), ("GPU-1111", "handle 1"), ("0", "handle 0")],
)
def test_the_gpu_is_the_first_that_cuda_sees(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str, handle: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with Sensors():
        pass
    assert nvml.asked == handle


@pytest.mark.parametrize("visible", ["", "7", "-1"])
def test_a_hidden_gpu_is_not_read(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with Sensors() as sensors:
        pass
    assert (sensors.watts, sensors.clock, sensors.device_memory) == (None, None, None)
    assert nvml.open == 0


def test_what_a_gpu_does_not_tell_is_none(nvml: FakeNvml) -> None:
    nvml.power = False
    with Sensors() as sensors:
        pass
    assert (sensors.watts, sensors.clock) == (None, 1500)


@pytest.mark.parametrize("module", [None, FakeNvml(driver=False)])
def test_without_nvml_or_a_driver_all_is_none(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    with Sensors() as sensors:
        pass
    assert (sensors.watts, sensors.clock, sensors.device_memory) == (None, None, None)


# The peaks


def test_peaks_of_small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    from srtool.benchmarks.speed import roofline

    monkeypatch.setattr(roofline, "SIDES", {"cpu": (128,)})
    monkeypatch.setattr(roofline, "CHANNELS", (8,))
    monkeypatch.setattr(roofline, "_COPIED", 1 << 20)
    found = roofline._measure("cpu")
    assert 1e7 < found.matrix["fp32"] < 1e15
    assert 1e7 < found.bandwidth < 1e15


@pytest.mark.slow
def test_peaks_are_measured_in_a_process_of_its_own() -> None:
    from srtool.benchmarks.speed.roofline import measured_roofline

    assert 1e9 < measured_roofline(threads=1).matrix["fp32"] < 1e15
