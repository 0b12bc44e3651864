"""ncnn on the CPU, of which many programs for phones and desktops are made, and its converter."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.opened import (
    Opened,
    levels_from_planes,
    missing,
    planes_from_levels,
)
from srtool.errors import EngineError, in_a_line
from srtool.system import cores

if TYPE_CHECKING:
    from torch import nn

PARAM, WEIGHTS = "net.ncnn.param", "net.ncnn.bin"

# Two sizes: what differs between them is free in the converted network.
_SHAPES = ((1, 3, 24, 40), (1, 3, 40, 72))
_PATIENCE = 600.0  # seconds for the converter

# dB to PyTorch on a small image. Weights are stored in float16 by default, which costs little.
_FAITHFUL = 40.0


def convert(weights: Path, folder: Path) -> None:
    """Write the ncnn form of a network into the folder, unless it is there.

    EngineError where the converter fails, leaves an operation that ncnn lacks, or writes a network
    that makes another image than PyTorch does.
    """
    if not importlib.util.find_spec("ncnn"):
        raise missing("ncnn", "baselines")
    if (folder / WEIGHTS).is_file():
        return
    program = _converter()
    try:
        import torch

        from srtool.networks.deployed import plain_module
        from srtool.networks.loading import load_network
    except ImportError:
        raise missing("PyTorch, which the converter takes,", "export") from None
    module = plain_module(load_network(weights))
    torch.manual_seed(0)
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather not have it traced
        trace: Any = torch.jit.trace
        traced = trace(_traceable(module), torch.rand(_SHAPES[0]), check_trace=False)
        traced.save(str(folder / "net.pt"))
    shapes = ["[" + ",".join(map(str, shape)) + "]" for shape in _SHAPES]
    command = [str(program), "net.pt", f"inputshape={shapes[0]}", f"inputshape2={shapes[1]}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise EngineError(f"pnnx was not done after {_PATIENCE:.0f} s") from None
    if done.returncode:
        how = f"crashes (signal {-done.returncode})" if done.returncode < 0 else "fails"
        if done.returncode == -signal.SIGKILL:
            how = "was ended by the system, most likely for want of memory,"
        raise EngineError(f"pnnx {how} with this network")
    image = torch.rand(1, 3, 21, 34)
    with torch.inference_mode():
        expected = module(image).numpy()
    try:
        _compare(expected, _session(folder)(image.numpy()))
    except (EngineError, RuntimeError) as error:
        (folder / WEIGHTS).unlink(missing_ok=True)
        raise EngineError(in_a_line(error)) from None


def open_ncnn(weights: Path, folder: Path) -> Opened:
    """The converted network with ncnn's own settings, and a thread for each core."""
    convert(weights, folder)
    import ncnn

    session = _session(folder)

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        images = [session(planes_from_levels(image[None])) for image in pixels]
        return levels_from_planes(np.concatenate(images))

    # On other CPUs ncnn computes in float32 whatever its settings for float16 say.
    half = hasattr(ncnn, "cpu_support_arm_asimdhp") and ncnn.cpu_support_arm_asimdhp()
    return Opened(upscale, f"ncnn {ncnn.__version__}", "fp16" if half else "fp32")


def _session(folder: Path) -> Any:
    """A function from (1, 3, H, W) float32 0..1 to (1, 3, sH, sW) float32."""
    import ncnn

    _check_operations(folder / PARAM)
    net = ncnn.Net()
    net.opt.num_threads = cores()
    if net.load_param(str(folder / PARAM)) or net.load_model(str(folder / WEIGHTS)):
        raise EngineError("ncnn does not load what pnnx made of this network")

    def run(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(planes[0]).clone())
            failed, out = extractor.extract("out0")
            if failed:
                raise RuntimeError(f"ncnn fails on an image of {planes.shape[3]}x{planes.shape[2]}")
            return np.array(out)[None]  # a copy: the extractor's memory goes with it

    return run


def _check_operations(path: Path) -> None:
    """EngineError where a layer is none of ncnn's: the converter keeps those that it does not know
    by their names in PyTorch."""
    import ncnn

    kinds = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines()[2:]]
    unknown = sorted({kind for kind in kinds if ncnn.layer_to_index(kind) < 0})
    if unknown:
        raise EngineError(f"pnnx does not convert {', '.join(unknown)[:120]}")


def _compare(expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    if expected.shape != found.shape:
        raise EngineError(
            f"pnnx converts it to a network that makes {found.shape[3]}x{found.shape[2]} pixels, "
            f"not {expected.shape[3]}x{expected.shape[2]}"
        )
    error = float(np.mean((expected - found) ** 2))
    between = -10 * np.log10(error) if error else np.inf
    if not between > _FAITHFUL:
        raise EngineError(
            f"pnnx converts it to another network ({between:.1f} dB to PyTorch's output)"
        )


def _converter() -> Path:
    """pnnx's program. Its Python module would run it through a shell, and print."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise missing("pnnx, ncnn's converter,", "baselines")
    for name in ("pnnx", "pnnx.exe"):
        program = Path(spec.origin).with_name(name)
        if program.is_file():
            return program
    raise EngineError("pnnx has no converter for this platform")


def _traceable(module: nn.Module) -> nn.Module:
    """A generator with a gradient branch, as pnnx takes it: without the second output, on which it
    crashes, and the gradient map as two convolutions, as its slices are dropped where the image's
    size is free. Others as they are."""
    import torch
    from torch import fx, nn

    from srtool.networks.deployed import ImageOnly
    from srtool.networks.generator import gradient_map

    if not isinstance(module, ImageOnly):
        return module

    class GradientMap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            difference = torch.tensor([-1.0, 0.0, 1.0]).expand(3, 1, 3)
            self.across, self.down = (
                nn.Conv2d(3, 3, kernel, padding=padding, groups=3, bias=False)
                for kernel, padding in (((1, 3), (0, 1)), ((3, 1), (1, 0)))
            )
            self.across.weight.data = difference[:, :, None, :].clone()
            self.down.weight.data = difference[:, :, :, None].clone()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            down, across = self.down(x), self.across(x)
            return torch.sqrt(down * down + across * across + 1e-6)

    graph = fx.Tracer(autowrap_functions=(gradient_map,)).trace(module)
    traced = fx.GraphModule(module, graph)
    for node in graph.nodes:
        if node.op == "call_function" and node.target is gradient_map:
            traced.add_submodule("gradient_map", GradientMap())
            node.op, node.target = "call_module", "gradient_map"
    graph.eliminate_dead_code()
    traced.recompile()
    return traced.eval()
