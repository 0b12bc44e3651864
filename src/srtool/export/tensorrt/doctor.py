"""What a machine can run and what it lacks, and the whole recipe for a GPU that is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from srtool.export.flops import GENERATORS, Cost, megapixels_per_second, memory_of
from srtool.export.tensorrt.gpus import (
    SUPPORT,
    Gpu,
    Support,
    Target,
    precision_for,
    serves,
    support_of,
)
from srtool.export.tensorrt.installing import (
    constraints_text,
    install,
    install_command,
    pinned_for,
    readme_text,
)
from srtool.files import write_whole
from srtool.manifest import DEFAULT_PROFILE, Flavour, Profile
from srtool.runtime.gpu.machine import NAMES, OLDEST_DRIVER, Machine, this_machine

_SHARE = 0.8  # of a GPU's memory: the driver, the library and the pixels take some
_TILES = ((4, 256), (2, 256), (1, 256), (1, 192), (1, 128), (1, 64))  # batch, side


@dataclass(frozen=True)
class Part:
    """A library that srtool uses where it is there. found: its version, empty where it is not."""

    name: str
    found: str
    purpose: str
    command: str


@dataclass(frozen=True)
class Estimate:
    """What the roofline allows a generator on a GPU: LR megapixels/s at most, and GB of memory for
    the tiles of a profile. Nothing of it was measured."""

    generator: str
    megapixels: float
    memory: float
    profile: Profile


@dataclass(frozen=True)
class Diagnosis:
    """machine: what it is. parts: libraries, installed or not. abilities: in words."""

    machine: Machine
    parts: list[Part]
    abilities: list[str]


def doctor(device: int | None = None) -> Diagnosis:
    """What this machine can run, what it lacks, and the command that installs it. device: number of
    the GPU, default the first; EngineError where there is none of that number."""
    here = this_machine(device)
    return Diagnosis(here, parts(here), abilities(here))


# Name, packages that it may come in, what for, and the extra that brings it; "" for the one that
# fits the machine.
_PARTS = (
    ("ONNX Runtime", ("onnxruntime", "onnxruntime-gpu"), ".onnx on any machine", ""),
    ("OpenVINO", ("openvino",), ".onnx on CPUs, in bfloat16 too", "cpu"),
    ("PyTorch", ("torch",), "export, train, the reference", "export"),
    ("ONNX", ("onnx",), "export", "export"),
    ("CUDA for Python", ("pycuda", "cuda-bindings", "cuda-python"), "running on a GPU", "gpu"),
)
_PLANS: dict[Flavour, str] = {
    "tensorrt": "plans for the GPU of this machine",
    "tensorrt-rtx": "plans for any RTX GPU, anywhere",
}


def parts(here: Machine) -> list[Part]:
    """All libraries, installed or not; TensorRT last. What a GPU needs has one command for all."""
    served = _served(here)
    fits = install_command(served[0], here) if served else "pip install 'srtool[cpu]'"
    found = [
        Part(
            name,
            _version(packages),
            purpose,
            f"pip install 'srtool[{extra}]'" if extra and not (served and extra == "gpu") else fits,
        )
        for name, packages, purpose, extra in _PARTS
    ]
    for flavour, name in NAMES.items():
        library = here.libraries.get(flavour)
        version = library.version if library else ""
        found.append(Part(name, version, _PLANS[flavour], install(flavour, served, here)))
    return found


def _served(here: Machine) -> tuple[Target, ...]:
    return (Target(support_of(here.compute), here.gpu),) if here.gpu else ()


def _version(packages: tuple[str, ...]) -> str:
    for package in packages:
        for found in metadata.distributions(name=package):
            return f"{found.version} ({package})" if package != packages[0] else found.version
    return ""


def abilities(here: Machine) -> list[str]:
    """What this machine does, in words."""
    found = {part.name: bool(part.found) for part in parts(here)}
    on_cpu = [name for name in ("OpenVINO", "ONNX Runtime") if found[name]]
    lines = [f"runs .onnx files on {' and '.join(on_cpu)}" if on_cpu else "runs no .onnx file"]
    lines.append("exports networks" if found["PyTorch"] and found["ONNX"] else "exports nothing")
    builds = [
        f"{NAMES[library.flavour]} for "
        + ", ".join(
            item.sm
            for item in SUPPORT
            if serves(library, item)
            and (library.flavour == "tensorrt-rtx" or item.compute == here.compute)
        )
        for library in here.libraries.values()
        if library.flavour == "tensorrt-rtx" or here.gpu
    ]
    lines.append(f"builds plans of {'; of '.join(builds)}" if builds else "builds no plan")
    runs = [
        NAMES[library.flavour]
        for library in here.libraries.values()
        if any(serves(library, target.support) for target in _served(here))
    ]
    if not here.gpu:
        lines.append("runs no plan: no NVIDIA GPU, or no driver for it")
    elif not runs or not found["CUDA for Python"]:
        lines.append("runs no plan: see what is missing above")
    else:
        lines.append(f"runs plans of {' and '.join(runs)}")
    return lines


def write_recipe(folder: Path, target: Target, here: Machine) -> list[Path]:
    """constraints.txt for pip and a README of the steps, into a folder; for Windows where this is
    Windows."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "constraints.txt": constraints_text(target),
        "README.md": readme_text(target, advice(target, here)),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def advice(target: Target, here: Machine) -> dict[str, str]:
    """All that a GPU needs, by subject. here: this machine, whose driver counts where it has one
    of the kind."""
    support, gpu = target.support, target.gpu
    precision, why = precision_for((target,))
    last = support.tensorrt[1]
    rows = {
        "GPU": _hardware(support, gpu),
        "precision": f"{precision.upper()}: {why}",
        "TensorRT": f"{last}, the last that serves {support.architecture}; TensorRT-RTX does not"
        if last
        else f"{support.tensorrt[0]} or newer" + (", or TensorRT-RTX" if support.rtx else ""),
        "CUDA": f"{support.cuda} is the last toolkit; the wheels bring the libraries they need"
        if support.cuda
        else f"{support.first[0]} or newer; the wheels bring the libraries they need",
        "driver": f"{support.first[1]} to {support.driver}: R{support.driver} is the last branch"
        if support.driver
        else f"{support.first[1]} or newer, {OLDEST_DRIVER[13]} for libraries of CUDA 13",
        "PyTorch": f"wheels of tag {support.torch} (CUDA {support.torch[2:4]}.{support.torch[4:]})"
        + (", the last with its kernels" if support.cuda else "")
        + "; plans run without",
    }
    if pinned := pinned_for(support):
        rows["Python"] = f"{' or '.join(pinned.python)}, for TensorRT {last}"
    rows["install"] = install_command(target, here)
    if not last and support.compute != here.compute:
        rows["install"] += f" (driver R{OLDEST_DRIVER[13]} or newer), 'srtool[gpu-cu12]' before"
    if support.rtx:
        rows["or"] = f"{install('tensorrt-rtx', (), here)}, which builds for it anywhere"
    for number, note in enumerate(pinned.notes if pinned else (), 1):
        rows[f"note {number}" if number > 1 else "note"] = note
    flags = "" if precision == "fp16" else " --precision fp32"
    rows["export"] = f"srtool export model.pth -o x4.onnx --precision {precision}, anywhere"
    rows["build"] = f"srtool export x4.onnx --flavour tensorrt{flags}, on the machine with it"
    if support.rtx:
        name = f'"{target.name}"' if " " in target.name else target.name
        rows["or build"] = f"srtool export model.pth --flavour tensorrt-rtx --gpu {name}, anywhere"
    return rows


def _hardware(support: Support, gpu: Gpu | None) -> str:
    text = f"{support.architecture}, compute capability {support.compute} ({support.sm})"
    if gpu is None:
        return text
    return (
        f"{text}, {gpu.memory} GB at {gpu.bandwidth:g} GB/s, {gpu.fp32:g} TFLOP/s FP32, "
        f"{gpu.fp16:g} FP16"
    )


def estimates(target: Target, networks: dict[str, Cost] = GENERATORS) -> list[Estimate]:
    """By network; empty where only the class of the GPU is known."""
    if target.gpu is None:
        return []
    precision, _ = precision_for((target,))
    return [_estimate(name, cost, target.gpu, precision) for name, cost in networks.items()]


def _estimate(name: str, cost: Cost, gpu: Gpu, precision: Literal["fp32", "fp16"]) -> Estimate:
    sizes = [(batch, side, memory_of(cost, precision, batch * side**2)) for batch, side in _TILES]
    fitting = [size for size in sizes if size[2] <= _SHARE * gpu.memory * 1e9] or sizes[-1:]
    batch, side, memory = fitting[0]
    shape = (batch, side, side)
    profile = Profile(min=DEFAULT_PROFILE.min, opt=shape, max=shape)
    return Estimate(name, megapixels_per_second(cost, gpu, precision), memory / 1e9, profile)
