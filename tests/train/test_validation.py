"""Validation: figures of the deployed form, float16 rounding, overflow found and named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from srtool.images.colour import psnr, psnr_y
from srtool.images.datasets import Pair, load_dataset
from srtool.networks.generator import DenseBlock, Generator, GeneratorConfig, deployed, fold_head
from srtool.train.validation import (
    PICTURES,
    Validation,
    in_float16,
    upscale_uint8,
    validate,
    warnings_of,
)


@pytest.fixture
def pairs(photographs: Path) -> list[Pair]:
    return load_dataset(photographs)


def made(config: GeneratorConfig, **changes: Any) -> Generator:
    """A seeded generator with biases."""
    torch.manual_seed(0)
    generator = Generator(replace(config, **changes))
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    return generator


def silent(config: GeneratorConfig, **changes: Any) -> Generator:
    """All weights and biases are 0."""
    generator = Generator(replace(config, **changes))
    for parameter in generator.parameters():
        nn.init.zeros_(parameter)
    return generator


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3)).astype(np.uint8)


def levels_of(generator: Generator, lr: NDArray[np.uint8]) -> torch.Tensor:
    """What the deployed form makes of an image, before it is rounded to whole levels."""
    with torch.no_grad():
        low = torch.from_numpy(lr).permute(2, 0, 1)[None] / 255
        return in_float16(deployed(generator), low) * 255


# Figures


@pytest.mark.parametrize("head", ["plain", "unshuffle"])
def test_with_a_silent_last_layer_the_image_skip_alone_is_left(
    tiny_config: GeneratorConfig, pairs: list[Pair], head: str
) -> None:
    """Nearest-upsampling, and the skip is exact in the deployed form too."""
    generator = made(tiny_config, image_skip=True, head=head)
    nn.init.zeros_(generator.fusion.image.weight)
    nn.init.zeros_(generator.get_parameter("fusion.image.bias"))
    upscaled = [p.lr.repeat(4, axis=0).repeat(4, axis=1) for p in pairs]
    expected = np.mean([psnr_y(u, p.hr) for u, p in zip(upscaled, pairs, strict=True)])
    found = validate(generator, pairs)
    assert found.psnr_y == pytest.approx(expected, abs=1e-9)
    assert found.deployed_psnr_y == pytest.approx(expected, abs=1e-9)
    assert all((a == b).all() for a, b in zip(found.pictures, upscaled, strict=True))
    assert warnings_of(found) == []


def test_metrics_and_pictures_are_of_the_deployed_form(tiny_config: GeneratorConfig) -> None:
    """218.48 levels are 218 in float32; of 1/255, float16 holds 218.35 and 218.52 there: 219."""
    generator = silent(tiny_config)
    generator.get_parameter("fusion.image.bias").data.fill_(218.48 / 255)
    hr = np.full((32, 32, 3), 200, np.uint8)
    pairs = [Pair(Path(), hr, hr[::4, ::4])] * (PICTURES + 1)
    seen = []

    def darkest(sr: NDArray[np.uint8]) -> float:
        assert sr.shape == (32, 32, 3)
        assert sr.dtype == np.uint8
        seen.append(sr)
        return float(sr.min()) + len(seen)

    found = validate(generator, pairs, {"darkest": darkest})
    assert found.psnr_y == pytest.approx(psnr_y(np.full_like(hr, 218), hr))
    assert found.deployed_psnr_y == pytest.approx(psnr_y(np.full_like(hr, 219), hr))
    assert found.scores == {"darkest": 219 + (PICTURES + 2) / 2}
    assert len(seen) == PICTURES + 1
    assert len(found.pictures) == PICTURES
    assert all((picture == 219).all() for picture in found.pictures)


def test_upscaling_rounds_and_clips(tiny_config: GeneratorConfig) -> None:
    generator = silent(tiny_config, head="plain")
    levels = torch.tensor([99.4, 99.6, 300.0])
    for bias, expected in ((levels / 255, [99, 100, 255]), (-levels, [0, 0, 0])):
        generator.get_parameter("fusion.image.bias").data = bias
        image = upscale_uint8(generator, np.zeros((2, 3, 3), np.uint8))
        assert image.shape == (8, 12, 3)
        assert image.dtype == np.uint8
        assert (image == expected).all()


def test_a_generator_without_gradient_branch(
    tiny_config: GeneratorConfig, pairs: list[Pair]
) -> None:
    found = validate(made(tiny_config, taps=()), pairs)
    assert math.isfinite(found.psnr_y)
    assert found.deployed_psnr_y == pytest.approx(found.psnr_y, abs=0.02)
    assert not found.overflowed


@pytest.mark.parametrize("head", ["plain", "unshuffle"])
def test_nothing_is_changed(tiny_config: GeneratorConfig, pairs: list[Pair], head: str) -> None:
    generator = made(tiny_config, head=head)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    random = torch.random.get_rng_state()
    first = validate(generator, pairs)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert generator.training
    assert generator.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in generator.modules())
    second = validate(generator, pairs)
    assert (first.psnr_y, first.deployed_psnr_y) == (second.psnr_y, second.deployed_psnr_y)


def test_autocast_around_it_does_not_reach_it(
    tiny_config: GeneratorConfig, pairs: list[Pair]
) -> None:
    generator = made(tiny_config)
    expected = validate(generator, pairs)
    with torch.autocast("cpu", torch.bfloat16):
        found = validate(generator, pairs)
    assert (found.psnr_y, found.deployed_psnr_y) == (expected.psnr_y, expected.deployed_psnr_y)


# Rounding to float16


def test_weights_are_rounded_to_float16(tiny_config: GeneratorConfig) -> None:
    lr, name = noise(10, 12), "upsampler.hr1.weight"
    generator = made(tiny_config)
    weight = generator.get_parameter(name).data
    weight.copy_(weight.half())
    expected = levels_of(generator, lr)
    weight *= 1 + 2**-13  # float16 has 11 bits: this is none of its values
    before, after = weight.clone(), weight.half().float()
    assert not torch.equal(before, after)
    assert torch.equal(levels_of(generator, lr), expected)
    weight *= 1 + 2**-9
    assert not torch.equal(levels_of(generator, lr), expected)


def test_what_passes_between_layers_is_rounded_to_float16(tiny_config: GeneratorConfig) -> None:
    """Two convolutions in a row, all by hand: 1 + 2^-12 does not survive the first."""
    generator = silent(tiny_config, taps=())
    generator.get_parameter("upsampler.hr2.bias").data.fill_(1.0)
    generator.upsampler.hr2.weight.data[:, :, 1, 1] = 2**-14
    generator.get_parameter("upsampler.hr1.bias").data.fill_(1.0)
    for name in ("conv", "image"):
        layer = generator.get_submodule(f"fusion.{name}")
        layer.get_parameter("weight").data[:, 0, 1, 1] = 1.0
    lr = noise(4, 4)
    plain = generator(torch.zeros(1, 3, 16, 16)).image * 255
    assert plain.mean().item() == pytest.approx(255 * (1 + 2**-12), rel=1e-7)
    assert (levels_of(generator, lr) == 255).all()


def test_computes_what_the_exported_float16_graph_computes(
    tiny_config: GeneratorConfig, tmp_path: Path
) -> None:
    """An exporter carries colours in other units, so that values round elsewhere; by as much."""
    import onnx

    from srtool.export.mixed import emulated_session
    from srtool.export.onnx import onnx_from_network
    from srtool.manifest import ModelFacts
    from srtool.networks.loading import load_network, save_generator

    generator = made(tiny_config, blocks=1, taps=(1,))
    save_generator(tmp_path / "tiny.safetensors", generator, {})
    model = onnx_from_network(load_network(tmp_path / "tiny.safetensors"), "uint8", "fp16")
    facts = ModelFacts(scale=4, io="uint8", precision="fp16", architecture="test", halo=8)
    lr = noise(40, 52)
    exported = emulated_session(onnx.shape_inference.infer_shapes(model), facts).run(lr[None])[0]
    plain = upscale_uint8(fold_head(generator), lr)
    image = upscale_uint8(deployed(generator), lr, float16=True)
    assert (plain != exported).mean() > 0.05
    assert (plain != image).mean() == pytest.approx((plain != exported).mean(), rel=0.3)
    assert psnr(image, plain) == pytest.approx(psnr(exported, plain), abs=2)


# Overflow


def planted(config: GeneratorConfig) -> Generator:
    """An ordinary function with one convolution whose result is beyond 65504."""
    generator = made(config, blocks=1, taps=(1,), image_skip=True)
    dense = generator.get_submodule("trunk.0.dense.1")
    assert isinstance(dense, DenseBlock)
    growth = config.growth
    first, *others = (conv for conv in dense.convs if isinstance(conv, nn.Conv2d))
    scale = 6e4 / first.weight.abs().max().item()
    inner = slice(config.features, config.features + growth)
    with torch.no_grad():
        first.weight *= scale
        assert first.bias is not None
        first.bias *= scale
        for reader in (*others, dense.last):
            reader.weight[:, inner] /= scale
    return generator


def test_an_overflow_is_found_named_and_warned_of(
    tiny_config: GeneratorConfig, pairs: list[Pair]
) -> None:
    generator, name = planted(tiny_config), "trunk.0.dense.1.convs.0"
    seen = [0.0]
    plain = fold_head(generator)
    plain.get_submodule(name).register_forward_hook(
        lambda module, given, out: seen.append(out.abs().max().item())
    )
    for pair in pairs:
        upscale_uint8(plain, pair.lr)
    assert max(seen) > 65504
    found = validate(generator, pairs)
    assert found.overflowed == (name,)
    assert found.largest_activation == pytest.approx(max(seen), rel=1e-6)
    assert found.deployed_psnr_y < found.psnr_y - 1
    overflow, fall = warnings_of(found)
    for words in (name, f"{found.largest_activation:.6g}", "65504", "srtool verify"):
        assert words in overflow
    for words in ("PSNR-Y", f"{found.psnr_y:.3f}", f"{found.deployed_psnr_y:.3f}", "0.02"):
        assert words in fall
    assert "\n" not in overflow + fall


DENSE = tuple(f"trunk.0.dense.{name}" for name in ("0.last", "0", "1", "2"))


@pytest.mark.parametrize(
    ("biases", "taps", "overflowed", "largest"),
    [
        # An engine holds a fifth of what the last convolution of a dense block gives.
        ({"trunk.0.dense.2.last": 3e5}, (), (), 6e4),
        ({"trunk.0.dense.0.last": 3.5e5}, (), DENSE, 7e4),
        ({"head": 4e4, "trunk.0.dense.2.last": 2e5}, (), ("trunk.0.dense.2",), 8e4),
        ({"head": 6e4, "trunk.0.dense.2.last": 2e4}, (), ("trunk.0",), 7.28e4),
        ({"head": 4e4, "trunk_conv": 4e4}, (), ("upsampler",), 8e4),
        ({"gradient_head": 4e4, "gradient_conv": 4e4}, (1,), ("gradient_upsampler",), 8e4),
        ({"fusion.image": 1e5}, (), ("fusion.image",), 1e5),
        ({"gradient_out": 1e5}, (1,), (), 0.0),  # no engine holds it
    ],
)
def test_all_that_an_engine_holds_is_looked_at(
    tiny_config: GeneratorConfig,
    biases: dict[str, float],
    taps: tuple[int, ...],
    overflowed: tuple[str, ...],
    largest: float,
) -> None:
    generator = silent(tiny_config, blocks=1, taps=taps)
    for name, value in biases.items():
        generator.get_parameter(f"{name}.bias").data[0] = value
    hr = noise(32, 32)
    found = validate(generator, [Pair(Path(), hr, hr[::4, ::4])])
    assert found.largest_activation == pytest.approx(largest, rel=1e-5)
    assert found.overflowed == overflowed


def test_activations_that_are_no_number_count_as_an_overflow(
    tiny_config: GeneratorConfig, pairs: list[Pair]
) -> None:
    generator = made(tiny_config)
    generator.get_parameter("fusion.image.bias").data[0] = math.nan
    found = validate(generator, pairs)
    assert found.overflowed == ("fusion.image",)
    assert found.largest_activation == math.inf
    assert all((picture[..., 0] == 0).all() for picture in found.pictures)


def test_when_there_is_a_warning() -> None:
    assert warnings_of(Validation(30.0, 29.981, 100.0)) == []
    assert warnings_of(Validation(30.0, 31.0, 65504.0)) == []
    assert warnings_of(Validation(math.inf, math.inf, 1.0)) == []
    (line,) = warnings_of(Validation(30.0, 29.979, 100.0))
    assert "falls by 0.021 dB" in line
    (line,) = warnings_of(Validation(30.0, 30.0, 7e4, ("trunk.3", "trunk.4", "head")))
    assert "trunk.3 reach 70000" in line
    assert "2 more modules" in line


@pytest.mark.gpu
def test_a_gpu_finds_the_same(tiny_config: GeneratorConfig, pairs: list[Pair]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    generator = made(tiny_config)
    here = validate(generator, pairs)
    there = validate(generator.cuda(), pairs)
    assert there.psnr_y == pytest.approx(here.psnr_y, abs=1e-3)
    assert there.deployed_psnr_y == pytest.approx(here.deployed_psnr_y, abs=5e-3)
    assert there.largest_activation == pytest.approx(here.largest_activation, rel=1e-4)
