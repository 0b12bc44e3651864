"""A network traced to ONNX, once: by the exporter that can, and compared with what it traced."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from srtool.errors import ExportError
from srtool.files import private_folder
from srtool.networks.deployed import example_size, plain_module, shape_dimensions
from srtool.networks.network import Network, unwarned

if TYPE_CHECKING:
    import onnx

OPSET = 18
CLOSE = 2e-3  # of 0..1, half a level: what a file may differ on a size that was not traced

Exporter = Literal["dynamo", "torchscript"]


@dataclass(frozen=True)
class Traced:
    """model: "image", (N, 3, H, W) float32 0..1 -> "upscaled", not clamped. exporter: of torch.
    batch: the only N, None for any: many networks of windows compute N as a plain number."""

    model: onnx.ModelProto
    exporter: Exporter
    batch: int | None = None


def traced_from_network(network: Network, say: Callable[[str], None] = lambda line: None) -> Traced:
    """Trace a network with free height and width, and a free batch where that can be.

    torch.export's exporter is tried first; where it cannot trace a network, or what comes out is
    another function on other sizes, the TorchScript one; last with one image at once. ExportError
    where none of these does.
    """
    module = plain_module(network)
    _check_repeatable(network, module)
    reasons: dict[str, str] = {}
    lacking: set[Exporter] = set()  # an operation, whatever the sizes
    attempts: tuple[tuple[Exporter, int | None, Any], ...] = (
        ("dynamo", None, partial(_by_dynamo, once=True)),
        ("torchscript", None, _by_torchscript),
        ("torchscript", 1, _by_torchscript),
        ("dynamo", None, _by_dynamo),
        ("dynamo", 1, _by_dynamo),
    )
    for exporter, batch, trace in attempts:
        if exporter in lacking:
            continue
        try:
            with _quiet():
                model = trace(network, module, batch)
            _tidy(model)
            reason = _wrong_on_other_sizes(network, module, model, batch)
        except Exception as error:  # either exporter has dozens of kinds
            reason = _reason(error)
            if _missing_operation(error):
                lacking.add(exporter)
        if not reason:
            return Traced(model, exporter, batch)
        reasons.setdefault(exporter, reason)
        say(f"{exporter} gives no file of it: {reason}")
    why = "; ".join(f"{exporter}: {reason}" for exporter, reason in reasons.items())
    raise ExportError(
        f"{network.path}: this {network.architecture} network has no ONNX form with free image "
        f"sizes ({why})"
    )


def _by_dynamo(
    network: Network, module: nn.Module, batch: int | None, once: bool = False
) -> onnx.ModelProto:
    """By all that torch.onnx.export tries: strictly too, and with numbers in place of free sides
    where a network asks for them, which takes its time. once: by torch.export, which fails soon
    where it fails."""
    number, height, width = example_size(network)
    images = (torch.rand(batch or number, 3, height, width),)
    free = shape_dimensions(network)
    if batch is not None:
        del free[0]
    model: Any = module
    given: dict[str, Any] = {"args": images, "dynamic_shapes": (free,)}
    if once:
        model = torch.export.export(module, images, dynamic_shapes=(free,), strict=False)
        given = {}
    program = torch.onnx.export(
        model,
        **given,
        dynamo=True,
        input_names=["image"],
        output_names=["upscaled"],
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _by_torchscript(network: Network, module: nn.Module, batch: int | None) -> onnx.ModelProto:
    import onnx

    number, height, width = example_size(network)
    if network.size.multiple_of == 1:  # so that what a network does with odd sizes is seen
        height, width = height + 3, width + 5
    free = {2: "height", 3: "width"} if batch else {0: "batch", 2: "height", 3: "width"}
    with private_folder() as folder:
        path = folder / "traced.onnx"
        torch.onnx.export(
            module,
            (torch.rand(batch or number, 3, height, width),),
            str(path),
            dynamo=False,
            dynamic_axes={"image": free, "upscaled": free},
            input_names=["image"],
            output_names=["upscaled"],
            opset_version=OPSET,
        )
        return onnx.load(path)


def _check_repeatable(network: Network, module: nn.Module) -> None:
    _, height, width = example_size(network)
    example = torch.rand(1, 3, height, width)
    with torch.inference_mode(), unwarned():
        first, second = module(example.clone()), module(example.clone())
    if not torch.equal(first, second):
        raise ExportError(
            f"{network.path}: this {network.architecture} network draws random numbers, two runs "
            "on one image differ; no file of it could be compared with it"
        )


def _wrong_on_other_sizes(
    network: Network, module: nn.Module, model: onnx.ModelProto, batch: int | None
) -> str:
    """Why a file is another function than the module, in words; empty where it is the same."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        return f"ONNX Runtime does not open it: {_reason(error)}"
    random = np.random.default_rng(0)
    step = network.size.multiple_of
    for number, height, width in ((1, 32, 20), (batch or 3, 20, 56 + 3 * step)):
        sides = network.size.of(height, width)
        image = random.random((number, 3, *sides), dtype=np.float32)
        with torch.inference_mode():
            expected = module(torch.from_numpy(image.copy())).numpy()
        try:
            found = session.run(None, {"image": image})[0]
        except Exception as error:
            return f"fails on {sides[1]}x{sides[0]} pixels: {_reason(error)}"
        if found.shape != expected.shape:
            return f"makes {found.shape} of {sides[1]}x{sides[0]} pixels"
        gap = float(np.abs(found - expected).max())
        if not gap <= CLOSE * max(1.0, float(np.abs(expected).max())):
            images = f"{number} images of " if number > 1 else ""
            return f"differs by {gap:.2g} on {images}{sides[1]}x{sides[0]} pixels"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk about themselves: on the log, as warnings, and on standard output."""
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    # Whole graphs, of what it cannot trace; its own switch does not work in torch 2.14.
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *words: None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        quiet.setLevel(level)
        torch._C._jit_onnx_log = log


# What the two exporters say of an operation that they do not know; one has no type of error for it.
_MISSING = re.compile(r"No ONNX function found for .*?op='([\w.]+)'|ONNX export of operator (\w+)")


def _missing_operation(error: Exception) -> str:
    """The operation that an exporter does not know; empty where that is not what is wrong."""
    missing = _MISSING.search(str(_cause(error)))
    return missing[1] or missing[2] if missing else ""


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: Exception) -> str:
    """What an exporter says, in a few words."""
    if operation := _missing_operation(error):
        return f"{operation} has no ONNX form"
    cause = _cause(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = " ".join((lines[0] if lines else type(cause).__name__).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _tidy(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces, which hold paths of this machine and double the file, and
    its shapes, which may be those of the example; turn constants into initialisers; see that every
    node has a name of its own."""
    from onnx import numpy_helper

    from srtool.export.graph import copied

    graph = model.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del graph.metadata_props[:], graph.value_info[:]
    del model.metadata_props[:]
    kept, seen = [], set()
    for number, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values = numpy_helper.to_array(node.attribute[0].t)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            continue
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{number}"
        seen.add(node.name)
        kept.append(copied(node))
    del graph.node[:]
    graph.node.extend(kept)
