"""A network that the user's own Python module builds: its code is run, its habits are tried out."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srtool.errors import CheckpointError, UsageError, in_a_line
from srtool.images.folders import SAMPLES
from srtool.images.reading import read_rgb
from srtool.networks.checkpoint import Checkpoint
from srtool.networks.network import SCALES, Gray, Network, Size

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class OwnModule:
    """A class or function in a .py file that gives a network, and its arguments."""

    file: Path
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def own_module_from_text(text: str, arguments: str = "") -> OwnModule:
    """`my_model.py:IMDN` and `num_modules=6, upscale=4` -> OwnModule. UsageError where it is not
    so, or there is no such file."""
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"{text}: expected FILE.py:CLASS, such as my_model.py:IMDN")
    if not Path(file).is_file():
        raise UsageError(f"{file}: no such file; expected the Python module with {name}")
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call)
        if (
            not isinstance(call.func, ast.Name)
            or call.args
            or any(word.arg is None for word in call.keywords)
        ):
            raise ValueError
        given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise UsageError(
            f"{arguments}: expected names with plain values, such as num_modules=6, upscale=4"
        ) from None
    return OwnModule(Path(file), name, given)


def network_from_module(own: OwnModule, checkpoint: Checkpoint) -> Network:
    """Build the user's network with a file's weights, and find out by trial which images it takes.

    CheckpointError where the code fails, the weights do not fit, or it gives no image.
    """
    module = _built(own)
    missed = ""
    for candidate in checkpoint.candidates:
        try:
            module.load_state_dict(candidate.state)
        except RuntimeError as error:
            missed = missed or in_a_line(error, 200)
            continue
        notes = [f"{own.file.name} was run to build it", candidate.note]
        return _tried(module.eval().float(), own, checkpoint.path, tuple(filter(None, notes)))
    raise CheckpointError(
        f"{checkpoint.path}: does not fit {own.name} of {own.file} ({missed}); is it of other "
        "arguments?"
    )


def _built(own: OwnModule) -> nn.Module:
    spec = importlib.util.spec_from_file_location(f"srtool_own_{own.file.stem}", own.file)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code  # dataclasses and pickles look it up
    sys.path.insert(0, str(own.file.parent))  # where its own imports are
    try:
        spec.loader.exec_module(code)
        made = getattr(code, own.name)(**own.arguments)
    except Exception as error:
        raise CheckpointError(
            f"{own.file}: {own.name} cannot be built ({type(error).__name__}: {in_a_line(error)})"
        ) from None
    finally:
        sys.path.remove(str(own.file.parent))
    if not isinstance(made, nn.Module):
        raise CheckpointError(
            f"{own.file}: {own.name} gives a {type(made).__name__}, expected a torch module"
        )
    return made


class _Image(nn.Module):
    """The image among what a module gives, in 0..1."""

    def __init__(self, module: nn.Module, largest: float) -> None:
        super().__init__()
        self.model, self.largest = module, largest

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x * self.largest if self.largest != 1 else x)
        largest = max(_images(out), key=lambda image: image.shape[-1])
        return largest / self.largest if self.largest != 1 else largest


def _images(out: Any) -> list[Tensor]:
    """All of what a module gives that has the shape of images."""
    if isinstance(out, Tensor):
        return [out] if out.ndim == 4 else []
    if isinstance(out, dict):
        out = list(out.values())
    if not isinstance(out, (list, tuple)):
        return []
    return [image for value in out for image in _images(value)]


def _tried(module: nn.Module, own: OwnModule, path: Path, notes: tuple[str, ...]) -> Network:
    photograph, failed = _photograph(), ""
    for gray, multiple in itertools.product((False, True), _MULTIPLES):
        height, width = (max(2, -(-side // multiple)) * multiple for side in (41, 51))
        image = photograph[..., :height, :width]
        try:
            with torch.inference_mode():
                out = _wrapped(module, 1, gray)(image)
            scale = out.shape[2] // height
            if out.shape != (1, 3, scale * height, scale * width) or scale not in SCALES:
                raise ValueError(f"{tuple(out.shape)} of an image of {height}x{width}")
        except Exception as error:  # of the user's own code
            failed = failed or in_a_line(error)
            continue
        largest = _range(module, gray, image, scale)
        if largest != 1:
            notes = (*notes, "its colours are 0..255, as a trial on a photograph shows")
        whole = _wrapped(module, largest, gray).eval()
        facts = {"own": f"{own.file.name}:{own.name}", "arguments": dict(own.arguments)}
        return Network(whole, scale, own.name, path, facts, Size(multiple_of=multiple), notes)
    raise CheckpointError(
        f"{path}: {own.name} makes no image a whole number of times as large ({failed})"
    )


def _wrapped(module: nn.Module, largest: float, gray: bool) -> nn.Module:
    return Gray(_Image(module, largest)) if gray else _Image(module, largest)


def _range(module: nn.Module, gray: bool, image: Tensor, scale: int) -> float:
    """1 or 255: with which range a network's picture is more like the photograph."""
    expected = F.interpolate(image, scale_factor=scale, mode="bicubic")
    errors = {}
    for largest in (1.0, 255.0):
        with torch.inference_mode():
            out = _wrapped(module, largest, gray)(image)
        errors[largest] = float((out - expected).square().mean())
    return 255.0 if errors[255.0] < errors[1.0] / 4 else 1.0


def _photograph() -> Tensor:
    """A piece of a shipped photograph: (1, 3, 128, 192), 0..1."""
    pixels = read_rgb(min((SAMPLES / "HR").glob("*.png")))[:512:4, :768:4]
    side = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(side, (128, 192), mode="bilinear")
