"""Wrappings of checkpoints, the networks of spandrel and of the user, and files that claim much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srtool.errors import CheckpointError, UsageError
from srtool.networks.generator import Generator, GeneratorConfig
from srtool.networks.loading import load_network
from srtool.networks.own import own_module_from_text

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A compact network's weights, as plain as they come."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    found: State = Compact(num_feat=4, num_conv=1, upscale=2).state_dict()
    return found


def prefixed(state: State, *prefixes: str) -> State:
    return {f"{prefix}{name}": value for prefix in prefixes for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


WRAPPINGS = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s},
    "net": lambda s: {"net": s},
    "params": lambda s: {"params": s},
    "params-ema": lambda s: {"params-ema": s, "params": other(s)},
    "params_ema": lambda s: {"params": other(s), "params_ema": s},
    "a single key": lambda s: {"my_own_key": s},
    "nested": lambda s: {"checkpoint": {"state_dict": {"module": s}}, "model": {"params": s}},
    "ema beside the model": lambda s: {"model": other(s), "ema": s, "step": 4},
    "module.": lambda s: prefixed(s, "module."),
    "_orig_mod.": lambda s: {"state_dict": prefixed(s, "_orig_mod.")},
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "Lightning": lambda s: {
        "state_dict": {
            **prefixed(s, "net_g."),
            **prefixed(other(s), "net_d."),
            "crit.w": s["body.0.weight"],
        },
        "epoch": 3,
        "pytorch-lightning_version": "2.1",
    },
    "Lightning model.": lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3},
    "generator.": lambda s: {"state_dict": prefixed(s, "generator.")},
    "mmagic": lambda s: {
        "meta": {"iter": 3},
        "state_dict": {**prefixed(other(s), "generator."), **prefixed(s, "generator_ema.")},
    },
    "averaged": lambda s: {"n_averaged": torch.tensor(7), **prefixed(s, "module.")},
    "stray numbers": lambda s: {**s, "iter": 4000, "best": 31.5, "name": "x", "extra": None},
}  # fmt: skip
AVERAGES = {"params-ema", "params_ema", "ema beside the model", "mmagic"}


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("suffix", [".pth"])
def test_wrappings(tmp_path: Path, state: State, name: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save(WRAPPINGS[name](state), path)
    network = load_network(path)
    assert (network.scale, network.architecture) == (2, "RealESRGAN Compact")
    x = torch.rand(1, 3, 5, 7)
    torch.save(state, tmp_path / "plain.pth")
    with torch.inference_mode():
        assert torch.equal(network.upscale(x), load_network(tmp_path / "plain.pth").upscale(x))
    assert bool(network.notes) == (name in AVERAGES)


@pytest.mark.parametrize("suffix", [".PTH", ".ckpt", ".bin", ".pkl", ".pt"])
def test_suffixes(tmp_path: Path, state: State, suffix: str) -> None:
    torch.save({"state_dict": state}, tmp_path / f"x{suffix}")
    assert load_network(tmp_path / f"x{suffix}").scale == 2


def test_a_gray_network_looks_at_each_colour_by_itself(tmp_path: Path) -> None:
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    gray = Compact(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=3).eval()
    torch.save(gray.state_dict(), tmp_path / "gray.pth")
    network = load_network(tmp_path / "gray.pth")
    x = torch.rand(2, 3, 6, 5)
    with torch.inference_mode():
        expected = torch.cat([gray(x[:, at : at + 1]) for at in range(3)], 1)
        assert torch.allclose(network.upscale(x), expected, atol=1e-6)
    assert network.scale == 3
    assert network.notes


def test_a_restoration_network_of_scale_1(tmp_path: Path) -> None:
    from spandrel.architectures.Compact import Compact

    net = Compact(num_feat=4, num_conv=1, upscale=1)
    torch.save(net.state_dict(), tmp_path / "d.pth")
    network = load_network(tmp_path / "d.pth")
    assert network.scale == 1
    with torch.inference_mode():
        assert network.upscale(torch.rand(1, 3, 9, 7)).shape == (1, 3, 9, 7)


def test_sizes_are_spandrels(tmp_path: Path) -> None:
    """A network that needs multiples of 8, on a size that is none."""
    from spandrel import ModelLoader
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    torch.save(SAFMN(dim=8, n_blocks=1, upscaling_factor=4).state_dict(), tmp_path / "x.pth")
    network = load_network(tmp_path / "x.pth")
    assert network.size.multiple_of == 8
    x = torch.rand(1, 3, 21, 13)
    expected = ModelLoader().load_from_file(tmp_path / "x.pth")(x)
    with torch.inference_mode():
        found = network.upscale(x).clamp(0, 1)
    assert found.shape == (1, 3, 84, 52)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_windows_that_a_network_keeps_to_itself_are_found(tmp_path: Path) -> None:
    """SwinIR makes every image a multiple of its window, and tiles must lie where windows do."""
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    net = SwinIR(
        img_size=16, embed_dim=12, depths=(2,), num_heads=(2,), window_size=8, mlp_ratio=2.0,
        upscale=2, upsampler="pixelshuffledirect",
    )  # fmt: skip
    torch.save(net.state_dict(), tmp_path / "x.pth")
    network = load_network(tmp_path / "x.pth")
    assert network.size.multiple_of == 8
    assert network.size.minimum == 16


# The user's own module

OWN = """
import torch
from torch import nn
class Plain(nn.Module):
    def __init__(self, features=4, scale=2, largest=1):
        super().__init__()
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.last = nn.Conv2d(features, 3 * scale**2, 3, padding=1)
        self.up, self.largest, self.scale = nn.PixelShuffle(scale), largest, scale
    def forward(self, x):
        if x.shape[2] % 2: raise ValueError("odd")
        skip = nn.functional.interpolate(x, scale_factor=self.scale)
        change = self.up(self.last(self.first(x) / self.largest)) * self.largest * 0.01
        return x, {"image": change + skip}
class Nothing(nn.Module):
    def forward(self, x): return x.mean()
class Offset(Plain):
    def forward(self, x):
        return super().forward(x)[1]["image"] - 100.0 * (x.max() <= 1)
def broken(): raise RuntimeError("no such luck")
"""


@pytest.fixture
def own(tmp_path: Path) -> Any:
    (tmp_path / "my_model.py").write_text(OWN)

    def load(name: str, arguments: str = "", state: Any = None) -> Any:
        module = own_module_from_text(f"{tmp_path / 'my_model.py'}:{name}", arguments)
        if state is None:
            scope: dict[str, Any] = {}
            exec(OWN, scope)
            torch.manual_seed(0)
            state = scope[name](**dict(module.arguments)).state_dict()
        torch.save({"params": state}, tmp_path / "w.pth")
        return load_network(tmp_path / "w.pth", module)

    return load


def test_the_users_module_is_tried_out(own: Any) -> None:
    network = own("Plain", "features=6, scale=4")
    assert (network.scale, network.architecture, network.size.multiple_of) == (4, "Plain", 2)
    assert any("my_model.py" in note for note in network.notes)
    with torch.inference_mode():
        assert network.upscale(torch.rand(1, 3, 7, 9)).shape == (1, 3, 28, 36)


def test_a_range_of_255_is_found(own: Any) -> None:
    network = own("Offset", "largest=255")
    assert any("255" in note for note in network.notes)
    x = torch.rand(1, 3, 8, 8)
    with torch.inference_mode():
        assert (
            network.upscale(x) - nn.functional.interpolate(x, scale_factor=2)
        ).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("name", "arguments", "state", "words"),
    [
        ("Missing", "", {"a": torch.zeros(2)}, "Missing"),
        ("broken", "", {"a": torch.zeros(2)}, "no such luck"),
        ("Plain", "width=3", {"a": torch.zeros(2)}, "width"),
        ("Plain", "", {"a": torch.zeros(2)}, "does not fit"),
        ("OWN", "", {"a": torch.zeros(2)}, "OWN"),
    ],
)
def test_modules_that_are_none(
    own: Any, complains: Any, name: str, arguments: str, state: Any, words: str
) -> None:
    with complains(CheckpointError, words):
        own(name, arguments, state)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [("model", ""), ("x.py:A B", ""), ("none.py:A", ""), ("my.py:A", "1"), ("my.py:A", "a=b()"),
     ("my.py:A", "a=1)("), ("my.py:A", "**x")],
)  # fmt: skip
def test_names_of_modules(
    tmp_path: Path, monkeypatch: Any, complains: Any, text: str, arguments: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text("")
    with complains(UsageError):
        own_module_from_text(text, arguments)


# Files that claim more than they hold


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 10_000_000},
        {"features": 10_000_000},
        {"growth": 2**40},
        {"hr_features": 1 << 30},
        {"blocks": -1},
        {"taps": list(range(1, 4000))},
    ],
)
def test_a_config_that_claims_a_huge_network(
    tmp_path: Path, complains: Any, tiny_config: GeneratorConfig, changes: dict[str, Any]
) -> None:
    about = {"format": 1, "config": {**tiny_config.as_dict(), **changes}, "facts": {}}
    save_file(
        Generator(tiny_config).state_dict(),
        tmp_path / "x.safetensors",
        metadata={"srtool": json.dumps(about)},
    )
    with complains(CheckpointError, tmp_path / "x.safetensors"):
        load_network(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"config":' * 200_000, '{"config": {}' + "," * 9])
def test_deeply_nested_metadata(
    tmp_path: Path, complains: Any, tiny_config: GeneratorConfig, text: str
) -> None:
    save_file(
        Generator(tiny_config).state_dict(), tmp_path / "x.safetensors", metadata={"srtool": text}
    )
    with complains(CheckpointError, tmp_path / "x.safetensors", "damaged"):
        load_network(tmp_path / "x.safetensors")


def test_tensors_that_claim_more_than_they_hold(
    tmp_path: Path, complains: Any, state: State
) -> None:
    path = tmp_path / "x.pth"
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    for damage in ({"body.0.weight": huge}, {"body.10000000.weight": torch.zeros(2)},
                   {"body.99999999999999999999.weight": torch.zeros(2)}):  # fmt: skip
        torch.save({**state, **damage}, path)
        with complains(CheckpointError, path, "claims"):
            load_network(path)


def test_an_spsr_network_of_another_scale_is_named(tmp_path: Path, complains: Any) -> None:
    state = {"model.0.weight": torch.zeros(4, 3, 3, 3), "b_block_1.x": torch.zeros(1),
             "model.1.sub.0.RDB1.conv1.0.weight": torch.zeros(3, 4, 3, 3)}  # fmt: skip
    for numbers, scale in (((1, 3, 5), "x2"), ((1, 4, 7, 9, 11), "x8")):
        both = {**state, **{f"b_module.{n}.weight": torch.zeros(4) for n in numbers}}
        torch.save(both, tmp_path / "x.pth")
        with complains(CheckpointError, "SPSR", scale):
            load_network(tmp_path / "x.pth")
