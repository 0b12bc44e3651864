"""NVIDIA GPUs: what each can do, and the software that serves it.

Rates and memory: NVIDIA's architecture white papers and data sheets (boost clock, dense). Software:
the support matrices and release notes of TensorRT 8.6.1, 10.5, 10.8, 11 and of TensorRT-RTX, the
CUDA 13.0 release notes, the driver's notice of end of support for Maxwell to Volta after R580.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from srtool.errors import UsageError
from srtool.runtime.gpu.machine import OLDEST_DRIVER, Library, Machine

# FP16 on Pascal, in words for the user: why the precision "auto" is FP32 there.
_RATE_64 = "FP16 arithmetic runs at 1/64 of the FP32 rate on compute capability 6.1"
_NO_TENSOR_CORES = "Pascal has no tensor cores, so that FP16 products are summed in FP16 too"


@dataclass(frozen=True)
class Support:
    """The software that serves one compute capability.

    tensorrt: first and last version, the last empty where the current one still serves it.
    rtx: whether TensorRT-RTX does. cuda, driver: last toolkit and driver branch, empty likewise.
    torch: tag of the newest PyTorch wheels that have its kernels. against_fp16: why FP32 is the
    better precision, empty where FP16 is. first: oldest toolkit and driver branch for it.
    """

    compute: str
    architecture: str
    tensorrt: tuple[str, str]
    rtx: bool
    cuda: str = ""
    driver: str = ""
    torch: str = "cu130"
    against_fp16: str = ""
    first: tuple[str, int] = ("12.0", OLDEST_DRIVER[12])

    @property
    def sm(self) -> str:
        """As in "sm89"."""
        return "sm" + self.compute.replace(".", "")


@dataclass(frozen=True)
class Gpu:
    """One product. memory: GB, bandwidth: GB/s, fp32, fp16: TFLOP/s; fp16 on tensor cores with
    sums in FP32 where it has them."""

    name: str
    compute: str
    memory: int
    bandwidth: float
    fp32: float
    fp16: float


@dataclass(frozen=True)
class Target:
    """What a plan is for: a compute capability, and the product where one was named or found."""

    support: Support
    name: str
    gpu: Gpu | None = None


_PASCAL = ("8.4", "8.6.1"), False, "12.9", "580", "cu126"
SUPPORT = (
    Support("6.0", "Pascal", *_PASCAL, _NO_TENSOR_CORES),
    Support("6.1", "Pascal", *_PASCAL, _RATE_64),
    Support("6.2", "Pascal", *_PASCAL, _NO_TENSOR_CORES),
    Support("7.0", "Volta", ("8.4", "10.4"), False, "12.9", "580", "cu126"),
    Support("7.5", "Turing", ("8.4", ""), True),
    Support("8.0", "Ampere", ("8.4", ""), True),
    Support("8.6", "Ampere", ("8.4", ""), True),
    Support("8.9", "Ada Lovelace", ("8.6", ""), True),
    Support("9.0", "Hopper", ("8.6", ""), False),
    Support("10.0", "Blackwell (data centre)", ("10.8", ""), False, first=("12.8", 570)),
    Support("12.0", "Blackwell", ("10.8", ""), True, first=("12.8", 570)),
    Support("12.1", "Blackwell (GB10)", ("10.13", ""), True, first=("13.0", 580)),
)

GPUS = (
    Gpu("Tesla P100", "6.0", 16, 732, 10.6, 21.2),
    Gpu("GTX 1060 6GB", "6.1", 6, 192, 4.37, 0.068),
    Gpu("GTX 1070", "6.1", 8, 256, 6.46, 0.101),
    Gpu("GTX 1070 Ti", "6.1", 8, 256, 8.19, 0.128),
    Gpu("GTX 1080", "6.1", 8, 320, 8.87, 0.139),
    Gpu("GTX 1080 Ti", "6.1", 11, 484, 11.3, 0.177),
    Gpu("Tesla P40", "6.1", 24, 347, 11.8, 0.184),
    Gpu("Tesla V100 16GB", "7.0", 16, 900, 15.7, 125),
    Gpu("Tesla V100 32GB", "7.0", 32, 900, 15.7, 125),
    Gpu("GTX 1660", "7.5", 6, 192, 5.03, 10.1),
    Gpu("GTX 1660 Ti", "7.5", 6, 288, 5.44, 10.9),
    Gpu("RTX 2060", "7.5", 6, 336, 6.45, 25.8),
    Gpu("RTX 2080", "7.5", 8, 448, 10.1, 40.3),
    Gpu("RTX 2080 Ti", "7.5", 11, 616, 13.4, 53.8),
    Gpu("Tesla T4", "7.5", 16, 320, 8.1, 65),
    Gpu("A100 40GB", "8.0", 40, 1555, 19.5, 312),
    Gpu("A100 80GB", "8.0", 80, 2039, 19.5, 312),
    Gpu("RTX 3060", "8.6", 12, 360, 12.7, 25.5),
    Gpu("RTX 3070", "8.6", 8, 448, 20.3, 40.6),
    Gpu("RTX 3080", "8.6", 10, 760, 29.8, 59.5),
    Gpu("RTX 3090", "8.6", 24, 936, 35.6, 71),
    Gpu("A10", "8.6", 24, 600, 31.2, 125),
    Gpu("RTX 4060", "8.9", 8, 272, 15.1, 30.2),
    Gpu("RTX 4070", "8.9", 12, 504, 29.1, 58.3),
    Gpu("RTX 4080", "8.9", 16, 717, 48.7, 97.5),
    Gpu("RTX 4090", "8.9", 24, 1008, 82.6, 165),
    Gpu("L4", "8.9", 24, 300, 30.3, 121),
    Gpu("L40S", "8.9", 48, 864, 91.6, 362),
    Gpu("H100 PCIe", "9.0", 80, 2039, 51.2, 756),
    Gpu("H100", "9.0", 80, 3352, 66.9, 989),
    Gpu("H200", "9.0", 141, 4800, 66.9, 989),
    Gpu("RTX 5070", "12.0", 12, 672, 30.9, 61.7),
    Gpu("RTX 5080", "12.0", 16, 960, 56.3, 112.6),
    Gpu("RTX 5090", "12.0", 32, 1792, 104.8, 209.5),
)

PORTABLE = "portable"
_PORTABLE = ("8.0", "8.6", "8.9", "12.0", "12.1")  # TensorRT-RTX, of a plan without a capability

_MAKER = {"nvidia", "geforce", "tesla", "gpu", "graphics"}
_OTHER_PRODUCTS = {"ti", "super", "laptop", "mobile", "max", "d"}


def target_from_text(text: str, here: Machine) -> Target:
    """A GPU by its name: "local", a class as sm89 or 8.9, or a product as RTX 4090.

    UsageError where nothing is called so, with what is meant perhaps.
    """
    words = " ".join(text.lower().split())
    if words == "local":
        return local_target(here)
    if match := re.fullmatch(r"(?:sm_?)?(\d{1,2})[.]?(\d)", words.replace(" ", "")):
        compute = f"{match[1]}.{match[2]}"
        for support in SUPPORT:
            if support.compute == compute:
                return Target(support, support.sm)
        known = ", ".join(support.sm for support in SUPPORT)
        raise UsageError(
            f"{text}: no such class of GPU; expected one of {known}",
            parameter="gpu",
            found=text,
            expected=known,
        )
    if gpu := gpu_named(words):
        return Target(support_of(gpu.compute), gpu.name, gpu)
    names = [gpu.name for gpu in GPUS]
    folded = {_folded(name): name for name in names}
    near = difflib.get_close_matches(_folded(words), folded, 3, 0.5)
    meant = f"; did you mean {' or '.join(folded[name] for name in near)}?" if near else ";"
    raise UsageError(
        f"{text}: no such GPU in srtool's table{meant} its class does as well: "
        f"{', '.join(support.sm for support in SUPPORT)}",
        parameter="gpu",
        found=text,
    )


def targets_from_texts(texts: Sequence[str], here: Machine) -> tuple[Target, ...]:
    """Several GPUs by name. "portable" is every class for which TensorRT-RTX has one plan."""
    if PORTABLE in texts and len(texts) > 1:
        raise UsageError(
            f"{PORTABLE}: is a plan for all of them; name no other GPU beside it", parameter="gpu"
        )
    if PORTABLE in texts:
        return tuple(Target(support_of(compute), support_of(compute).sm) for compute in _PORTABLE)
    return tuple(target_from_text(text, here) for text in texts)


def local_target(here: Machine) -> Target:
    """The GPU of this machine. UsageError where it has none, or one that is too old."""
    if not here.gpu:
        raise UsageError(
            f'local: {here.no_gpu}; name the GPU that is meant: sm89, or "RTX 4090"',
            parameter="gpu",
            remedy={"gpu": "sm89"},
        )
    support = support_of(here.compute)
    if float(here.compute) < float(SUPPORT[0].compute):
        raise UsageError(
            f"local: the {here.gpu} has compute capability {here.compute}; expected "
            f"{SUPPORT[0].compute} or newer",
            parameter="gpu",
            found=here.compute,
        )
    return Target(support, here.gpu, gpu_of_device(here.gpu))


def support_of(compute: str) -> Support:
    """The software for a compute capability. One that the table does not know (Jetson's 7.2, 8.7
    and 11.0, the 10.3 of B300) is taken for one that the current TensorRT serves: the library on
    its machine knows better."""
    for support in SUPPORT:
        if support.compute == compute:
            return support
    return Support(compute, "unknown to srtool", ("8.4", ""), False)


def precision_for(targets: tuple[Target, ...]) -> tuple[Literal["fp32", "fp16"], str]:
    """The precision that suits GPUs best, and why."""
    for target in targets:
        if target.support.against_fp16:
            return "fp32", target.support.against_fp16
    return "fp16", "FP16 runs faster than FP32 there"


def serves(library: Library, support: Support) -> bool:
    """Whether a library builds for a class of GPUs."""
    if library.flavour == "tensorrt-rtx":
        return support.rtx
    version, (first, last) = numbers_of(library.version), support.tensorrt
    # 8.6.1.6 is an 8.6.1: compared are as many numbers as the table has.
    newest = numbers_of(last)
    return version >= numbers_of(first) and (not last or version[: len(newest)] <= newest)


def numbers_of(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def gpu_named(text: str) -> Gpu | None:
    """A product by the name that people use: maker and family may be left out, and the size of its
    memory (the smallest is meant then)."""
    wanted = _folded(text)
    found = (gpu for gpu in GPUS if wanted in _short_names(gpu))
    return min(found, key=lambda gpu: gpu.memory, default=None)


def gpu_of_device(name: str) -> Gpu | None:
    """The product of a device's own name, such as NVIDIA A100-SXM4-80GB, where the table has it."""
    device = set(re.split(r"[^a-z0-9]+", name.lower())) - _MAKER
    if "mig" in device:  # a slice of one
        return None
    found = []
    for gpu in GPUS:
        words = set(_unsized(gpu.name).lower().split()) - _MAKER
        size = re.search(r"\d+GB$", gpu.name)
        fits = words <= device and not (device - words) & _OTHER_PRODUCTS
        if fits and (size is None or size[0].lower() in device):
            found.append((len(words), gpu))
    return max(found, key=lambda item: item[0])[1] if found else None


def _folded(name: str) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in _MAKER]
    return "".join(words)


def _short_names(gpu: Gpu) -> set[str]:
    """Its folded name, without the size of its memory, and either of these without the family."""
    names = {_folded(gpu.name), _folded(_unsized(gpu.name))}
    return names | {re.sub(r"^(rtx|gtx)", "", name) for name in names}


def _unsized(name: str) -> str:
    return re.sub(r" \d+GB$", "", name)
