"""Weights on disk: ours, SPSR's against an independent network of that layout, and bad files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from srtool.errors import CheckpointError
from srtool.networks.generator import Generator, GeneratorConfig
from srtool.networks.loading import interpolated, load_network, save_generator
from srtool.train.states import load_state, save_state, states_below


def test_generator_survives_safetensors(tiny_config: GeneratorConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(tiny_config).to(memory_format=torch.channels_last)
    path = tmp_path / "new" / "x.safetensors"
    save_generator(path, generator, {"steps": 3, "recipe": {"seed": 1}})
    network = load_network(path)
    assert (network.scale, network.architecture, network.path) == (4, "srtool", path)
    assert network.facts == {"steps": 3, "recipe": {"seed": 1}}
    assert isinstance(network.module, Generator)
    assert network.module.config == tiny_config
    assert not network.module.training
    for name, value in generator.state_dict().items():
        assert torch.equal(network.module.state_dict()[name], value)


def test_safetensors_describe_themselves(tiny_config: GeneratorConfig, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_generator(path, Generator(tiny_config), {})
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["srtool"])
        assert set(file.keys()) == set(Generator(tiny_config).state_dict())
    assert about["format"] == 1
    assert about["config"]["taps"] == [1, 2]


def state_of(generator: Generator, ema: dict[str, Tensor] | None) -> dict[str, Any]:
    return {
        "recipe": "{}",
        "config": generator.config.as_dict(),
        "stage": "stage1",
        "step": 5,
        "generator": generator.state_dict(),
        "ema": ema,
        "optimizers": {"generator": {"param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}},
    }


def test_training_state_survives_and_opens_as_network(
    tiny_config: GeneratorConfig, tmp_path: Path
) -> None:
    generator = Generator(tiny_config)
    average = {k: v + 1 for k, v in generator.state_dict().items()}
    for ema, shipped in ((None, generator.state_dict()), (average, average)):
        state = state_of(generator, ema)
        path = save_state(tmp_path, state, keep=2)
        assert path.name == "stage1-00000005.pth"
        loaded = load_state(path)
        assert loaded.pop("srtool") == 2
        assert loaded.keys() == state.keys()
        assert loaded["optimizers"] == state["optimizers"]
        assert loaded["step"] == 5
        network = load_network(path)
        assert network.architecture == "srtool"
        for name, value in shipped.items():
            assert torch.equal(network.module.state_dict()[name], value)


# The layout of the public SPSR code: a network written anew after its parameter names.


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2))


class SpsrDense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for n in range(1, 6):
            outputs = width if n == 5 else growth
            self.add_module(f"conv{n}", conv(width + (n - 1) * growth, outputs))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for n in range(1, 5):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{n}")(torch.cat(seen, 1)), 0.2))
        last: Tensor = self.get_submodule("conv5")(torch.cat(seen, 1))
        return x + 0.2 * last


class SpsrRRDB(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for n in (1, 2, 3):
            self.add_module(f"RDB{n}", SpsrDense(width, growth))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.children():
            y = block(y)
        return x + 0.2 * y


class SpsrKernels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[0.0, 0, 0], [-1, 0, 1], [0, 0, 0]])
        self.weight_h = nn.Parameter(across[None, None], requires_grad=False)
        self.weight_v = nn.Parameter(across.T[None, None].clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        planes = x.flatten(0, 1)[:, None]
        squares = [F.conv2d(planes, w, padding=1) ** 2 for w in (self.weight_h, self.weight_v)]
        total: Tensor = squares[0] + squares[1] + 1e-6
        magnitude: Tensor = total.sqrt().view_as(x)
        return magnitude


class Spsr(nn.Module):
    def __init__(self, nf: int, gc: int, blocks: int) -> None:
        super().__init__()
        act, up = nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2)

        def c() -> nn.Module:
            return conv(nf, nf)[0]

        shortcut = nn.Module()
        shortcut.sub = nn.Sequential(*(SpsrRRDB(nf, gc) for _ in range(blocks)), c())
        self.HR_conv0_new = nn.Sequential(c(), act)
        self.HR_conv1_new = conv(nf, nf)
        self.model = nn.Sequential(
            conv(3, nf)[0], shortcut, up, c(), act, up, c(), act, self.HR_conv0_new[0], act
        )
        self.get_g_nopadding = SpsrKernels()
        self.b_fea_conv = conv(3, nf)
        for n in (1, 2, 3, 4):
            self.add_module(f"b_concat_{n}", conv(2 * nf, nf))
            self.add_module(f"b_block_{n}", SpsrRRDB(2 * nf, gc))
        self.b_LR_conv = conv(nf, nf)
        self.b_module = nn.Sequential(up, c(), act, up, c(), act, c(), act, c())
        self.conv_w = conv(nf, 3, 1)
        self.f_concat = conv(2 * nf, nf)
        self.f_block = SpsrRRDB(2 * nf, gc)
        self.f_HR_conv0 = nn.Sequential(c(), act)
        self.f_HR_conv1 = conv(nf, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = self.b_fea_conv(self.get_g_nopadding(x))
        shallow = self.model[0](x)
        edges, y = start, shallow
        for number, layer in enumerate(self.model[1].get_submodule("sub").children(), 1):
            y = layer(y)
            if number in (5, 10, 15, 20):
                n = number // 5
                edges = self.get_submodule(f"b_block_{n}")(torch.cat((edges, y), 1))
                edges = self.get_submodule(f"b_concat_{n}")(edges)
        y = self.HR_conv1_new(self.model[2:](shallow + y))
        edges = self.b_module(start + self.b_LR_conv(edges))
        image = self.f_concat(self.f_block(torch.cat((edges, y), 1)))
        return self.f_HR_conv1(self.f_HR_conv0(image)), self.conv_w(edges)


@pytest.mark.parametrize("blocks", [20, 22])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}])
def test_spsr_checkpoints_give_the_same_function(
    tmp_path: Path, blocks: int, wrap: Callable[[Any], Any]
) -> None:
    torch.manual_seed(blocks)
    reference = Spsr(nf=4, gc=3, blocks=blocks)
    for parameter in reference.parameters():
        if parameter.requires_grad and parameter.ndim == 4:
            parameter.data *= 2  # strong enough for every layer to matter
    path = tmp_path / "spsr.pth"
    torch.save(wrap(reference.state_dict()), path)
    network = load_network(path)
    assert (network.scale, network.architecture) == (4, "SPSR")
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    with torch.no_grad():
        expected, found = reference.double()(x), network.module.double()(x)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == (2, 3, 28, 20)
        assert a.std() > 1e-3
        assert (a - b).abs().max() <= 1e-10 * a.abs().max()


def test_full_generator_is_as_large_as_spsr() -> None:
    with torch.device("meta"):
        reference, ours = Spsr(64, 32, 23), Generator(GeneratorConfig(head="plain"))
    kernels = 2 * 9
    count = sum(p.numel() for p in reference.parameters()) - kernels
    assert sum(p.numel() for p in ours.parameters()) == count


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.1.sub.7.RDB2.conv3.0.bias", "trunk.7.dense.1.convs.2.bias is missing"),
        ("model.1.sub.0.RDB1.conv1.0.weight", "model.1.sub.0.RDB1.conv1.0.weight is missing"),
        ("conv_w.0.weight", "gradient_out.weight is missing"),
    ],
)
def test_an_incomplete_spsr_file_is_refused(
    tmp_path: Path, complains: Any, name: str, words: str
) -> None:
    state = Spsr(4, 3, 20).state_dict()
    path = tmp_path / "spsr.pth"
    torch.save({k: v for k, v in state.items() if k != name}, path)
    with complains(CheckpointError, path, words):
        load_network(path)
    torch.save({**state, "epoch": torch.zeros(1)}, path)
    with complains(CheckpointError, path, "epoch does not belong"):
        load_network(path)


def test_real_esrgan_weights_open_through_spandrel(shared: Path) -> None:
    network = load_network(shared / "weights" / "realesr-animevideov3.pth")
    assert network.scale == 4
    assert network.architecture == "RealESRGAN Compact"
    with torch.inference_mode():
        assert network.module(torch.rand(1, 3, 8, 6)).shape == (1, 3, 32, 24)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("load", [load_network, load_state])
def test_nothing_is_executed(tmp_path: Path, complains: Any, load: Callable[[Path], Any]) -> None:
    executed, path = tmp_path / "executed", tmp_path / "trap.pth"
    trap = Trap(executed)
    pickle.loads(pickle.dumps(trap))  # the trap does work ...
    executed.unlink()
    torch.save({"head.weight": trap}, path)
    with complains(CheckpointError, path, "more than tensors and plain values"):
        load(path)
    path.write_bytes(pickle.dumps({"head.weight": trap}, protocol=2))
    with complains(CheckpointError, path):
        load(path)
    assert not executed.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1, "b": "x"}, "a dict of 2 entries ('a', 'b'), expected a dict of tensors only"),
        ({"params": {"a": 1}}, "tensors only"),
        ({}, "a dict of 0 entries"),
        ([torch.zeros(2)], "a list, expected a dict of tensors"),
        (torch.zeros(2), "a Tensor, expected a dict of tensors"),
        ({"a.weight": torch.zeros(3, 3), "b": torch.zeros(2)}, "no network of srtool, SPSR or spa"),
        ({0: torch.zeros(2)}, "no network of srtool, SPSR or spandrel"),
        ({"srtool": 1}, "a NoneType"),
        ({"srtool": 1, "config": {}, "generator": {"head.weight": 5}}, "tensors only"),
        ({"srtool": 1, "config": None, "generator": {"a": torch.zeros(1)}}, "mapping"),
        ({"srtool": 1, "config": {"x": 1}, "generator": {"a": torch.zeros(1)}}, "'x'"),
        ({"model.0.weight": torch.zeros(()), "b_block_1.x": torch.zeros(2)}, "looks like SPSR"),
    ],
)
def test_other_pickles_are_described(
    tmp_path: Path, complains: Any, content: Any, words: str
) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with complains(CheckpointError, path, words):
        load_network(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("content", [b"hello world, this is text", b"", b"<!DOCTYPE html>\n<html>"])
def test_files_that_are_no_weights(
    tmp_path: Path, complains: Any, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with complains(CheckpointError, path):
        load_network(path)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_truncated_files(
    tiny_config: GeneratorConfig, tmp_path: Path, complains: Any, kept: float
) -> None:
    generator = Generator(tiny_config)
    tensors = tmp_path / "x.safetensors"
    save_generator(tensors, generator, {})
    state = save_state(tmp_path, state_of(generator, None), keep=1)
    for path in (tensors, state):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        with complains(CheckpointError, path):
            load_network(path)
    with complains(CheckpointError, state):
        load_state(state)


def test_a_missing_file_or_a_folder(tmp_path: Path, complains: Any) -> None:
    for path in (tmp_path, tmp_path / "x.pth", tmp_path / "x.safetensors"):
        with complains(CheckpointError, path, "no such file"):
            load_network(path)


def test_weights_are_no_training_state(
    tiny_config: GeneratorConfig, tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "x.pth"
    state = state_of(Generator(tiny_config), None)
    for content in (state["generator"], {"srtool": 2, "step": 5}):
        torch.save(content, path)
        with complains(CheckpointError, path, "not a training checkpoint"):
            load_state(path)


def about(config: Any) -> dict[str, str]:
    return {"srtool": json.dumps({"format": 1, "config": config, "facts": {}})}


def test_weights_that_do_not_fit_their_config(
    tiny_config: GeneratorConfig, tmp_path: Path, complains: Any
) -> None:
    path, config = tmp_path / "x.safetensors", tiny_config.as_dict()
    state = Generator(tiny_config).state_dict()
    missing = {k: v for k, v in state.items() if k != "fusion.conv.bias"}
    wider = replace(tiny_config, hr_features=5).as_dict()
    for tensors, metadata, words in (
        (missing, about(config), "fusion.conv.bias is missing"),
        ({**state, "extra": torch.zeros(1)}, about(config), "extra does not belong"),
        ({**state, "head.bias": torch.zeros(7)}, about(config), "head.bias has shape (7,)"),
        (state, about(wider), "has shape"),
        (state, about({**config, "taps": [1, 9]}), "taps (1, 9)"),
        (state, about({**config, "taps": 5}), "not iterable"),
        (state, about([1]), "metadata is damaged"),
        (state, {"srtool": "{bad"}, "metadata is damaged"),
    ):
        save_file(tensors, path, metadata=metadata)
        with complains(CheckpointError, path, words):
            load_network(path)


def test_weights_between_two_networks(tiny_config: GeneratorConfig, tmp_path: Path) -> None:
    networks = []
    for value in (1.0, 3.0):
        generator = Generator(tiny_config)
        for parameter in generator.parameters():
            parameter.data.fill_(value)
        save_generator(tmp_path / f"{value}.safetensors", generator, {})
        networks.append(load_network(tmp_path / f"{value}.safetensors"))
    for share, expected in ((0.0, 1.0), (0.25, 1.5), (1.0, 3.0)):
        made = interpolated(networks[0], networks[1], share)
        assert {p.min().item() for p in made.state_dict().values()} == {expected}
        assert {p.max().item() for p in made.state_dict().values()} == {expected}


def test_only_one_architecture_is_interpolated(
    tiny_config: GeneratorConfig, tmp_path: Path, compact_weights: Path, complains: Any
) -> None:
    save_generator(tmp_path / "a.safetensors", Generator(tiny_config), {})
    larger = replace(tiny_config, features=8)
    save_generator(tmp_path / "b.safetensors", Generator(larger), {})
    first = load_network(tmp_path / "a.safetensors")
    for path in (tmp_path / "b.safetensors", compact_weights):
        with complains(CheckpointError, path, first.path, "same config"):
            interpolated(first, load_network(path), 0.5)


def test_states_of_another_format_say_how_to_go_on(
    tiny_config: GeneratorConfig, tmp_path: Path, complains: Any
) -> None:
    path = tmp_path / "stage1-00000005.pth"
    torch.save({**state_of(Generator(tiny_config), None), "srtool": 1}, path)
    with complains(CheckpointError, path, "format 1", "format 2", "--start-from"):
        load_state(path)


def test_only_the_last_states_are_kept(tiny_config: GeneratorConfig, tmp_path: Path) -> None:
    state = state_of(Generator(tiny_config), None)
    for stage, step in (("stage1", 9), ("stage1", 10), ("stage2", 3), ("stage2", 20)):
        save_state(tmp_path, {**state, "stage": stage, "step": step}, keep=3)
    (tmp_path / "checkpoints" / "mine.pth").write_text("a user's own file is not touched")
    save_state(tmp_path, {**state, "stage": "stage2", "step": 100}, keep=2)
    names = [path.name for path in states_below(tmp_path)]
    assert names == ["stage2-00000020.pth", "stage2-00000100.pth"]
    assert (tmp_path / "checkpoints" / "mine.pth").is_file()
