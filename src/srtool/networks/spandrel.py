"""Networks of others through spandrel and its descriptor: its call, its sizes, its scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srtool.errors import CheckpointError, in_a_line
from srtool.networks.checkpoint import Checkpoint, described
from srtool.networks.network import SCALES, Called, Gray, Network, Size, continued, unwarned

# spandrel calls it patch by patch, in Python, and averages where they overlap.
_NO_FORWARD = {"IPT": "it is made of overlapping patches whose results are averaged"}


class UnknownNetworkError(CheckpointError):
    """Weights of a network that nothing here can build."""


def network_from_checkpoint(checkpoint: Checkpoint) -> Network:
    """Build the first reading of a file that spandrel knows.

    UnknownNetworkError where it knows none; CheckpointError where what it knows is nothing to
    upscale or restore images with.
    """
    from spandrel import ModelLoader, UnsupportedModelError

    reason = ""
    for candidate in checkpoint.candidates:
        try:
            with torch.random.fork_rng(devices=[]), unwarned():
                model = ModelLoader(device="cpu").load_from_state_dict(dict(candidate.state))
        except UnsupportedModelError:
            continue
        except Exception as error:  # whatever an architecture's code raises about its weights
            reason = reason or f"{type(error).__name__}: {in_a_line(error)}"
            continue
        notes = (candidate.note,) if candidate.note else ()
        return _network(model, checkpoint.path, notes)
    held = described(checkpoint.candidates[0].state)
    why = f" ({reason})" if reason else ""
    raise UnknownNetworkError(
        f"{checkpoint.path}: holds {held}, which is no network of srtool, SPSR or spandrel{why}; "
        "name the Python class that builds it, or export it to ONNX where it was trained and give "
        "that file"
    )


def _network(model: Any, path: Path, notes: tuple[str, ...]) -> Network:
    from spandrel import ImageModelDescriptor

    name = model.architecture.name
    channels, wrong = (model.input_channels, model.output_channels), ""
    if not isinstance(model, ImageModelDescriptor):
        wrong = ", which takes a mask beside the image"
    elif model.purpose == "FaceSR":
        wrong = ", which restores aligned faces of one size"
    elif channels not in ((3, 3), (1, 1)):
        wrong = (
            f" from {channels[0]} to {channels[1]} channels, expected RGB to RGB, or gray to gray"
        )
    elif model.scale not in SCALES:
        wrong = f" of scale {model.scale}, expected one of {', '.join(map(str, SCALES))}"
    elif name in _NO_FORWARD:
        wrong = f", which srtool does not run: {_NO_FORWARD[name]}"
    if wrong:
        raise CheckpointError(f"{path}: is a {name} network{wrong}")
    module: nn.Module = Called(model.model.eval(), model._call_fn).eval()
    if channels == (1, 1):
        module = Gray(module).eval()
        notes = (*notes, "it takes gray images; each colour goes through it by itself")
    needed = model.size_requirements
    size = Size(needed.multiple_of, needed.minimum, needed.square)
    facts = {"tags": list(model.tags), "tiling": model.tiling.name.lower()}
    network = Network(module, model.scale, name, path, facts, size, notes)
    network = _with_windows(network, model.model)
    for part in model.model.modules():
        if isinstance(getattr(part, "experts", None), nn.ModuleList):
            _ask_all(part)
    return network


def _ask_all(layer: nn.Module) -> None:
    """Of such a layer's experts an image chooses some, which cannot be traced. As in training, all
    of them are asked, and those that are not chosen count nothing."""
    inside = layer.forward

    def forward(*given: Any) -> Any:
        layer.training = True  # exporters put it back
        return inside(*given)

    layer.forward = forward


def _with_windows(network: Network, model: nn.Module) -> Network:
    """The same network with the size that it makes of every image by itself, where it does that
    by a mirror image: windows of attention, mostly. An exporter then has nothing to make, and
    tiles lie where its windows do."""
    sizes = {
        value
        for name, held in vars(model).items()
        for value in (held if isinstance(held, (tuple, list)) else [held])
        if name.endswith(("size", "pad")) and isinstance(value, int) and 1 < value <= 64
    }
    size = network.size
    larger = sorted(n for n in sizes if n > size.multiple_of and n % size.multiple_of == 0)
    if not larger or size.square:
        return network
    generator = torch.Generator().manual_seed(0)
    side = max(larger[-1], size.minimum)
    x = torch.rand(1, 3, side + 3, side + 5, generator=generator)
    with torch.inference_mode(), unwarned():
        whole = network.upscale(x)
        for number in larger:
            wider = Size(number, size.minimum)
            if _close(network.module(continued(x, wider)), whole):
                return Network(**{**vars(network), "size": wider})
    return network


def _close(found: Tensor, whole: Tensor) -> bool:
    cut = found[..., : whole.shape[2], : whole.shape[3]]
    return cut.shape == whole.shape and bool(torch.allclose(cut, whole, atol=1e-5))
