"""Install what the GPU of this machine needs into the environment that runs this, as far as it can
be had: the extra that fits the driver, and TensorRT-RTX. What could not be had is said at the end.

    python tools/gpu_install.py
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement

from srtool.export.tensorrt.gpus import local_target
from srtool.export.tensorrt.installing import extra_for, pinned_for
from srtool.runtime.gpu.machine import Machine, this_machine


def requirements_for(here: Machine) -> list[str]:
    """Of srtool's extras for this machine, one by one; or the pinned ones of an older GPU."""
    if pinned := pinned_for(local_target(here).support):
        return list(pinned.requirements())
    found = []
    for line in metadata.requires("srtool") or ():
        item = Requirement(line)
        for extra in (extra_for(here), "rtx"):
            if item.marker and item.marker.evaluate({"extra": extra}):
                item.marker = None
                found.append(str(item))
                break
    return [item for item in found if item not in _base()]


def _base() -> set[str]:
    """What srtool needs everywhere."""
    asked = [Requirement(line) for line in metadata.requires("srtool") or ()]
    return {str(item) for item in asked if item.marker is None}


def main() -> int:
    here = this_machine()
    if not here.gpu:
        sys.stderr.write(f"gpu-install: {here.no_gpu}\n")
        return 2
    missing = []
    for requirement in requirements_for(here):
        command = [sys.executable, "-m", "pip", "install", "--quiet", requirement]
        if subprocess.run(command, check=False).returncode:
            missing.append(requirement)
    for requirement in missing:
        sys.stderr.write(f"gpu-install: could not be had: {requirement}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
