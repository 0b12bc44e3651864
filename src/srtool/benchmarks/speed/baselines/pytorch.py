"""PyTorch as scripts use it: eager, in half precision, compiled, and tile by tile."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.opened import Opened, missing
from srtool.errors import EngineError, in_a_line
from srtool.system import cores

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]

TILE, OVERLAP = 256, 16  # LR pixels: of a tile without its margins, of each margin

# Of PyTorch's names for what a CPU has; without any of them bfloat16 is emulated.
_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")


def has_half(device: Device) -> bool:
    """Whether there are instructions for it: of bfloat16 on a CPU, of float16 on a GPU."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return device == "cuda" or any(capabilities.get(name) for name in _BF16)


def open_eager(device: Device, weights: Path, folder: Path) -> Opened:
    """The network in float32 as it was trained: the reference of every other candidate."""
    torch = _torch(device)
    from srtool.networks.loading import load_network

    network = load_network(weights)
    network.module.to(device)
    if device == "cuda":  # TensorFloat-32 has 10 bits of mantissa: no reference
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            image = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
            return _levels(network.upscale(image.float() / 255))

    return Opened(upscale, f"torch {torch.__version__}", "fp32")


def open_half(device: Device, compiled: bool, weights: Path, folder: Path) -> Opened:
    """bfloat16 on a CPU, float16 on a GPU, channels_last, the head folded; eager or compiled.

    On a GPU the network is compiled and tuned for each shape, on a CPU for two shapes and then for
    all, as torch.compile does by itself.
    EngineError where the CPU has no bfloat16 instructions, or there is no compiler.
    """
    torch = _torch(device)
    from srtool.benchmarks.speed.baselines.half import half_module
    from srtool.networks.deployed import plain_module
    from srtool.networks.loading import load_network

    precision = "fp16" if device == "cuda" else "bf16"
    if not has_half(device):
        raise EngineError("this CPU has no bfloat16 instructions")
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    network = load_network(weights)
    module: Any = half_module(network) if precision == "fp16" else plain_module(network).to(dtype)
    module = module.to(device, memory_format=torch.channels_last)
    if compiled:
        module = _compiled(module, device, folder)

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.inference_mode():
            image = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
            image = (image.float() / 255).to(dtype, memory_format=torch.channels_last)
            return _levels(module(image))

    return Opened(upscale, f"torch {torch.__version__}", precision)


def open_tiles(device: Device, weights: Path, folder: Path) -> Opened:
    """Tile by tile through PyTorch, as programs with a window do: float16 on a GPU, float32 on a
    CPU. spandrel opens the file; where it does not know the architecture, srtool does."""
    torch = _torch(device)
    try:
        import spandrel
    except ImportError:
        raise missing("spandrel", "export") from None
    half = device == "cuda"
    software = f"torch {torch.__version__}"
    module: Any
    try:
        found = spandrel.ModelLoader(device="cpu").load_from_file(weights)
    except spandrel.UnsupportedModelError:
        from srtool.benchmarks.speed.baselines.half import half_module
        from srtool.networks.deployed import plain_module
        from srtool.networks.loading import load_network

        network = load_network(weights)
        module, scale = half_module(network) if half else plain_module(network), network.scale
        software += " (spandrel does not know the architecture)"
    else:
        if not isinstance(found, spandrel.ImageModelDescriptor):
            raise EngineError(f"spandrel: {found.architecture.name} makes no image of an image")
        half = half and found.supports_half
        module, scale = found.half() if half else found, found.scale
        software += f", spandrel {spandrel.__version__}"
    dtype = torch.float16 if half else torch.float32
    module.to(device)

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([_upscale_tiles(image, module, scale, device, dtype) for image in pixels])

    return Opened(upscale, software, "fp16" if half else "fp32")


def _upscale_tiles(
    image: NDArray[np.uint8], module: Any, scale: int, device: Device, dtype: torch.dtype
) -> NDArray[np.uint8]:
    """(H, W, 3) -> (scale * H, scale * W, 3): each tile is read with a margin on all four sides
    where the image goes on, and what was made of the margin is thrown away."""
    import torch

    height, width = image.shape[:2]
    made = np.empty((height * scale, width * scale, 3), np.uint8)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            bottom, right = min(top + TILE, height), min(left + TILE, width)
            above, before = min(OVERLAP, top), min(OVERLAP, left)
            tile = image[top - above : bottom + OVERLAP, left - before : right + OVERLAP]
            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)))[None]
                large = _levels(module(x.to(device, dtype) / 255))[0]
            made[top * scale : bottom * scale, left * scale : right * scale] = large[
                above * scale : (above + bottom - top) * scale,
                before * scale : (before + right - left) * scale,
            ]
    return made


def _levels(x: torch.Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) 0..1 on any device -> (N, H, W, 3) on the host."""
    import torch

    levels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    result: NDArray[np.uint8] = levels.contiguous().cpu().numpy()
    return result


def _compiled(module: Any, device: Device, folder: Path) -> Any:
    """torch.compile, with nothing taken from the caches of earlier runs."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    import torch
    import torch._dynamo

    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise EngineError("torch.compile takes a C++ compiler (g++)")
    torch._dynamo.config.recompile_limit = 64  # beyond it a shape would run eagerly
    options: Any = {"mode": "max-autotune", "dynamic": False} if device == "cuda" else {}
    compiled: Any = torch.compile(module, **options)

    def run(x: torch.Tensor) -> torch.Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, at the first run of a shape
                out: torch.Tensor = compiled(x)
                return out
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise RuntimeError(f"torch.compile: {in_a_line(error)}") from None

    return run


def _torch(device: Device) -> Any:
    """PyTorch with as many threads as this process has cores."""
    try:
        import torch
    except ImportError:
        raise missing("PyTorch", "export") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("takes an NVIDIA GPU and a PyTorch that was built for it")
    torch.set_num_threads(cores())
    return torch
