"""What to install for a GPU and its driver, as one pip command; for GPUs that the current libraries
have left behind, the last versions that serve them.

Sources: the packages' own metadata; the support matrices of TensorRT 8.6.1 and 10.4; cuDNN's
release notes (9.10 is the last for Pascal and Volta); ONNX Runtime's build scripts (1.20 is the
last release with kernels for them).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata

from srtool.export.tensorrt.gpus import Support, Target, numbers_of
from srtool.manifest import Flavour
from srtool.runtime.gpu.machine import INSTALL, OLDEST_DRIVER, Machine

# ONNX Runtime of 1.20 brings no CUDA libraries along.
_OLD_ONNXRUNTIME = (
    "onnxruntime-gpu==1.20.2",
    "nvidia-cudnn-cu12>=9.1,<9.11",
    "nvidia-cublas-cu12<13",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cufft-cu12",
    "nvidia-curand-cu12",
    "cuda-python>=12.6,<13",
)


@dataclass(frozen=True)
class Pinned:
    """The last packages for older GPUs. python: versions that they have wheels for, newest last.
    linux, windows: requirements for pip. notes: what else one has to know."""

    python: tuple[str, ...]
    linux: tuple[str, ...]
    windows: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def requirements(self, platform: str = sys.platform) -> tuple[str, ...]:
        return self.windows if platform == "win32" else self.linux


PINNED = {  # by the last TensorRT
    "8.6.1": Pinned(
        python=("3.10", "3.11"),
        linux=(
            "tensorrt==8.6.1.post1",
            "nvidia-cudnn-cu12==8.9.7.29",  # 8.6.1 loads libcudnn.so.8
            "nvidia-cublas-cu12<13",
            "nvidia-cuda-runtime-cu12",
            "cuda-python>=12.6,<13",
            "numpy>=1.26,<2",  # its bindings were compiled for 1.x
        ),
        windows=_OLD_ONNXRUNTIME,
        notes=(
            "On Windows TensorRT 8.6.1 has no Python bindings: ONNX Runtime's CUDA provider runs "
            "the .onnx file there (backend onnxruntime-cuda). On Linux it is the other way, in "
            "an environment of its own, for it takes another cuDNN: "
            + " ".join(f"'{requirement}'" for requirement in _OLD_ONNXRUNTIME),
        ),
    ),
    "10.4": Pinned(
        python=("3.10", "3.11", "3.12"),
        linux=("tensorrt-cu12==10.4.0", *_OLD_ONNXRUNTIME),
        windows=("tensorrt-cu12==10.4.0", *_OLD_ONNXRUNTIME),
    ),
}


def pinned_for(support: Support) -> Pinned | None:
    return PINNED.get(support.tensorrt[1])


def extra_for(here: Machine) -> str:
    """Of srtool's extras the one that fits a machine: gpu for drivers that serve CUDA 13, gpu-cu12
    for those that serve CUDA 12; cpu without a GPU, or with a driver that is too old for both."""
    if not here.gpu:
        return "cpu"
    branch = here.driver.partition(".")[0]
    if not branch.isdigit() or int(branch) >= OLDEST_DRIVER[13]:
        return "gpu"
    return "gpu-cu12" if int(branch) >= OLDEST_DRIVER[12] else "cpu"


def install_command(target: Target, here: Machine) -> str:
    """All that runs the engines of a GPU, in one pip command."""
    if pinned := pinned_for(target.support):
        requirements = ("srtool", *pinned.requirements())
        return "pip install " + " ".join(f"'{requirement}'" for requirement in requirements)
    extra = extra_for(here) if here.compute == target.support.compute else "gpu"
    if here.compute == target.support.compute and extra == "cpu":
        return (
            f"update the driver to R{OLDEST_DRIVER[13]} or newer ({here.driver} serves neither "
            "CUDA 12 nor 13), then pip install 'srtool[gpu]'"
        )
    return f"pip install 'srtool[{extra}]'"


def install(flavour: Flavour, targets: tuple[Target, ...], here: Machine) -> str:
    """The pip command for a library that serves GPUs: of the last version that does."""
    if flavour == "tensorrt" and targets:
        oldest = min(targets, key=lambda target: numbers_of(target.support.compute))
        return install_command(oldest, here)
    return INSTALL[flavour]


def conflicts() -> list[str]:
    """What is installed and spoils each other, with the command that mends it."""
    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        for found in metadata.distributions(name=name):
            versions[name] = found.version
    if len(versions) < 2:
        return []
    gpu = versions["onnxruntime-gpu"]
    return [
        f"onnxruntime {versions['onnxruntime']} and onnxruntime-gpu {gpu} are both installed, one "
        "over the other, which leaves the CPU provider alone: pip uninstall -y onnxruntime && "
        f"pip install --force-reinstall --no-deps onnxruntime-gpu=={gpu}"
    ]


def constraints_text(target: Target, platform: str = sys.platform) -> str:
    """A constraints file for pip: with it nothing is upgraded past what serves the GPU."""
    pinned = pinned_for(target.support)
    if pinned is None:
        return f"# The current releases serve the {target.name}: nothing to hold back.\n"
    lines = [f"# The last versions for the {target.name} ({target.support.architecture})."]
    return "\n".join([*lines, *pinned.requirements(platform)]) + "\n"


_SOURCE = "path/to/srtool"  # as it stands in the steps


def readme_text(target: Target, rows: dict[str, str], platform: str = sys.platform) -> str:
    """The steps from an empty environment to a picture, for the folder of the constraints."""
    pinned = pinned_for(target.support)
    python = pinned.python[-1] if pinned else "3.12"
    windows = platform == "win32"
    activate = r"gpu\Scripts\activate" if windows else "source gpu/bin/activate"
    maker = f"py -{python}" if windows else f"python{python}"
    names = [item.partition("=")[0].partition("<")[0].partition(">")[0] for item in (
        pinned.requirements(platform) if pinned else ()
    )]  # fmt: skip
    packages = " ".join([_SOURCE, *names]) if pinned else f"'{_SOURCE}[gpu]'"
    plan = bool(pinned) and not windows and "tensorrt" in " ".join(names)
    precision = "--precision fp32" if target.support.against_fp16 else "--precision fp16"
    steps = [
        f"# srtool on the {target.name}",
        "",
        *(f"- {subject}: {text}" for subject, text in rows.items()
          if subject in ("GPU", "precision", "driver", "TensorRT", "CUDA")),
        *(f"- {note}" for note in (pinned.notes if pinned else ())),
        "",
        "1. The network as an ONNX file, on any machine with `srtool[cpu,export]`:",
        "",
        f"       srtool export model.pth -o x4.onnx {precision} --flavour none",
        "",
        "   The networks that ship with srtool (`srtool models`) need no export.",
        "2. An environment on the machine with the GPU, in this folder. srtool is on no package",
        f"   index yet: {_SOURCE} is a clone of it, or its wheel.",
        "",
        f"       {maker} -m venv gpu",
        f"       {activate}",
        f"       pip install -c constraints.txt {packages}",
        "       srtool doctor",
        "",
    ]  # fmt: skip
    if plan or pinned is None:
        flags = " --precision fp32" if target.support.against_fp16 else ""
        steps += [
            "3. The plan and the pictures:",
            "",
            f"       srtool export x4.onnx --flavour tensorrt{flags}",
            "       srtool infer photos/ --engine x4.plan",
        ]
    else:
        steps += [
            "3. The pictures:",
            "",
            "       srtool infer photos/ --engine x4.onnx --backend onnxruntime-cuda",
        ]
    return "\n".join(steps) + "\n"
