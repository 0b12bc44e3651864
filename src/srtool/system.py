"""What srtool runs on: the CPUs that it may use, their name and instructions, and the packages that
are installed."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

# Of x86 and of ARM, by the names of Linux: what libraries choose their kernels of networks by.
INSTRUCTIONS = (
    *("avx", "f16c", "fma", "avx2", "avx_vnni", "avx_ne_convert"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme", "sme2"),
)
_MACOS = {  # sysctl hw.optional.arm.FEAT_...
    "AdvSIMD": "asimd",
    "FP16": "asimdhp",
    "DotProd": "asimddp",
    "BF16": "bf16",
    "I8MM": "i8mm",
    "SME": "sme",
    "SME2": "sme2",
}
_GROUPS = Path("/sys/fs/cgroup")
_WINDOWS = {"avx": 39, "avx2": 40, "avx512f": 41, "asimddp": 43}  # PF_..._INSTRUCTIONS_AVAILABLE


def cpus() -> list[int]:
    """Numbers of the logical CPUs that this process may use: a cluster's scheduler, a container and
    taskset give it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share() -> int | None:
    """How many CPUs' worth of time a container's quota leaves, as `docker run --cpus` and limits in
    Kubernetes set it; None where these are no fewer than `cpus`. No library that counts CPUs sees
    it, and threads beyond it are halted in turn, while others wait for them."""
    least = min(_quotas(), default=math.inf)
    return max(1, round(least)) if least < len(cpus()) else None


def cores() -> int:
    """How many CPUs this process can keep busy."""
    return share() or len(cpus())


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, and of those packages that are installed; none is imported."""
    found = {package: version_of(package) for package in packages}
    return {
        "python": platform.python_version(),
        **{package: version for package, version in found.items() if version},
    }


def version_of(*packages: str) -> str:
    """Of the first of some packages that is installed, empty where none is; none is imported."""
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return ""


def processor() -> str:
    """The CPU's name; its architecture where the system tells no name."""
    name = ""
    if sys.platform == "win32":
        import winreg

        key = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with suppress(OSError), winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
            name = str(winreg.QueryValueEx(opened, "ProcessorNameString")[0])
    elif sys.platform == "darwin":
        name = _printed("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        name = _field(text_of(Path("/proc/cpuinfo")), "model name")
        name = name or _field(_printed("lscpu"), "Model name")  # ARM: the kernel gives numbers only
    return " ".join(name.split()) or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Those of INSTRUCTIONS that the CPU has, as far as the system tells."""
    if sys.platform == "win32":
        import ctypes

        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        found = {name for name, number in _WINDOWS.items() if has(number)}
    elif sys.platform == "darwin":
        features = _printed("sysctl", "hw.optional.arm")
        found = {name for key, name in _MACOS.items() if f".FEAT_{key}: 1\n" in f"{features}\n"}
        intel = _printed("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
        found |= set(intel.lower().replace("avx1.0", "avx").split())
    else:
        text = text_of(Path("/proc/cpuinfo"))
        found = set((_field(text, "flags") or _field(text, "Features")).split())
    return tuple(name for name in INSTRUCTIONS if name in found)


def text_of(path: Path) -> str:
    """What a file of the system says; empty where it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _quotas() -> Iterator[float]:
    """CPUs' worth of time of the control groups that this process is in, of both versions."""
    for line in text_of(Path("/proc/self/cgroup")).splitlines():
        _, controllers, name = line.split(":", 2)
        if "cpu" not in controllers.split(",") and controllers:
            continue
        top = _GROUPS / "cpu" if controllers else _GROUPS
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):
            if controllers:
                quota, period = (text_of(folder / f"cpu.cfs_{it}_us") for it in ("quota", "period"))
            else:
                quota, _, period = text_of(folder / "cpu.max").partition(" ")
            if quota.isdecimal() and period.isdecimal() and int(period):
                yield int(quota) / int(period)
            if folder == top:
                break


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _printed(*command: str) -> str:
    """What a program of the system prints; empty where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
