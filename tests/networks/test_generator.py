"""The generator: sizes, shapes, what feeds what, and the exact folding of its head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from srtool.errors import CheckpointError
from srtool.networks.generator import (
    PRESETS,
    Generator,
    GeneratorConfig,
    fold_head,
    gradient_map,
)
from srtool.networks.loading import generator_from_state


def random_generator(config: GeneratorConfig) -> Generator:
    """float64, with biases that are not zero."""
    torch.manual_seed(7)
    generator = Generator(config).double().eval()
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return generator


@pytest.mark.parametrize(
    ("preset", "head", "count"),
    [
        ("full", "plain", 24_796_230),  # as SPSR's generator, see test_checkpoint.py
        ("full", "unshuffle", 24_796_230 + 2 * 45 * 9 * 64),
        ("lite", "unshuffle", 1_379_526),
        ("fast", "plain", 1_512_128),
    ],
)
def test_parameter_count_of_the_presets(preset: str, head: Any, count: int) -> None:
    with torch.device("meta"):
        generator = Generator(replace(PRESETS[preset], head=head))
    assert sum(p.numel() for p in generator.parameters()) == count


@pytest.mark.parametrize("layout", ["paper", "fast"])
@pytest.mark.parametrize(("head", "size"), [("unshuffle", (20, 28)), ("plain", (5, 7))])
def test_image_and_gradient_map_are_of_hr_size(
    tiny_config: GeneratorConfig, layout: Any, head: Any, size: tuple[int, int]
) -> None:
    config = replace(tiny_config, head=head, layout=layout)
    output = Generator(config)(torch.rand(2, 3, *size))
    assert output.image.shape == output.gradient.shape == (2, 3, 20, 28)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 3), (8, 9)])
@pytest.mark.parametrize("image_skip", [False, True])
def test_plain_head_takes_any_size(
    tiny_config: GeneratorConfig, height: int, width: int, image_skip: bool
) -> None:
    generator = random_generator(replace(tiny_config, head="plain", image_skip=image_skip))
    output = generator(torch.rand(1, 3, height, width, dtype=torch.float64))
    for tensor in output:
        assert tensor.shape == (1, 3, 4 * height, 4 * width)
        assert tensor.isfinite().all()


@pytest.mark.parametrize("layout", ["paper", "fast"])
@pytest.mark.parametrize("image_skip", [False, True])
@pytest.mark.parametrize("size", [(6, 9), (1, 1)])
def test_folding_the_head_is_exact(
    tiny_config: GeneratorConfig, layout: Any, image_skip: bool, size: tuple[int, int]
) -> None:
    trained = random_generator(replace(tiny_config, image_skip=image_skip, layout=layout))
    deployed = fold_head(trained)
    assert deployed.config == replace(trained.config, head="plain")
    assert not deployed.training
    lr = torch.rand(2, 3, *size, dtype=torch.float64)
    before = trained(lr.repeat_interleave(4, 2).repeat_interleave(4, 3))
    after = deployed(lr)
    for a, b in zip(before, after, strict=True):
        assert (a - b).abs().max() / a.abs().max() < 1e-12


def test_fold_keeps_type_mode_and_leaves_the_original_alone(tiny_config: GeneratorConfig) -> None:
    generator = Generator(tiny_config).to(torch.bfloat16).train()
    weight = generator.head.weight.clone()
    folded = fold_head(generator)
    assert folded.training
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
    assert torch.equal(generator.head.weight, weight)
    assert fold_head(folded) is folded


def test_image_skip_adds_the_nearest_upsampled_input(tiny_config: GeneratorConfig) -> None:
    lr = torch.rand(1, 3, 4, 5)
    hr = F.interpolate(lr, scale_factor=4.0, mode="nearest")
    plain, unshuffle = replace(tiny_config, head="plain"), tiny_config
    for config, x in ((plain, lr), (unshuffle, hr)):
        generator = Generator(replace(config, image_skip=True))
        torch.nn.init.zeros_(generator.fusion.image.weight)
        assert torch.equal(generator(x).image, hr)


def test_the_gradient_branch_reads_the_taps_and_nothing_after_them(
    tiny_config: GeneratorConfig,
) -> None:
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    for block, reaches_gradient in ((0, True), (1, True), (2, False)):
        generator = random_generator(replace(tiny_config, head="plain"))
        before = generator(x)
        generator.get_parameter(f"trunk.{block}.dense.2.last.bias").data += 1.0
        after = generator(x)
        assert torch.equal(before.gradient, after.gradient) is not reaches_gradient
        assert not torch.equal(before.image, after.image)


def test_a_tap_is_taken_after_its_block(tiny_config: GeneratorConfig) -> None:
    """With the only tap after block 1, block 2 does not reach the gradient map."""
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    generator = random_generator(replace(tiny_config, head="plain", taps=(1,)))
    assert len(generator.gradient_blocks) == 1
    before = generator(x).gradient
    torch.nn.init.zeros_(generator.get_parameter("trunk.1.dense.2.last.bias"))
    assert torch.equal(before, generator(x).gradient)
    torch.nn.init.zeros_(generator.get_parameter("trunk.0.dense.2.last.bias"))
    assert not torch.equal(before, generator(x).gradient)


def test_in_the_fast_layout_too_the_gradient_branch_reads_the_taps(
    tiny_config: GeneratorConfig,
) -> None:
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    for block, reaches_gradient in ((0, True), (1, True), (2, False)):
        generator = random_generator(replace(tiny_config, head="plain", layout="fast"))
        before = generator(x)
        generator.get_parameter(f"trunk.{block}.conv2.bias").data += 1.0
        after = generator(x)
        assert torch.equal(before.gradient, after.gradient) is not reaches_gradient
        assert not torch.equal(before.image, after.image)


@pytest.mark.parametrize("layout", ["paper", "fast"])
def test_the_image_reads_the_gradient_branch(tiny_config: GeneratorConfig, layout: Any) -> None:
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    generator = random_generator(replace(tiny_config, head="plain", layout=layout))
    before = generator(x)
    torch.nn.init.zeros_(generator.gradient_head.weight)
    assert not torch.equal(before.image, generator(x).image)


# Without a gradient branch


@pytest.fixture
def branchless_config(tiny_config: GeneratorConfig) -> GeneratorConfig:
    return replace(tiny_config, taps=())


@pytest.mark.parametrize("layout", ["paper", "fast"])
@pytest.mark.parametrize(("head", "size"), [("unshuffle", (20, 28)), ("plain", (5, 7))])
def test_without_taps_there_is_no_gradient_map(
    branchless_config: GeneratorConfig, layout: Any, head: Any, size: tuple[int, int]
) -> None:
    generator = Generator(replace(branchless_config, head=head, layout=layout))
    output = generator(torch.rand(2, 3, *size))
    assert output.image.shape == (2, 3, 20, 28)
    assert output.gradient is None
    output.image.sum().backward()
    assert [name for name, p in generator.named_parameters() if p.grad is None] == []


def test_without_taps_nothing_of_the_branch_or_its_fusion_is_left(
    tiny_config: GeneratorConfig, branchless_config: GeneratorConfig
) -> None:
    whole = Generator(tiny_config).state_dict().keys()
    left = Generator(branchless_config).state_dict().keys()
    assert left < whole
    of_branch = ("gradient_", "fusion.rrdb.", "fusion.reduce.")
    assert {name for name in whole if name.startswith(of_branch)} == whole - left


def test_the_sr_branch_is_the_same_with_and_without_taps(
    tiny_config: GeneratorConfig, branchless_config: GeneratorConfig
) -> None:
    """Where the fusion hands the SR branch's feature on, the gradient branch makes no difference:
    its RRDB adds nothing, and its convolution picks the second half of the channels."""
    whole = random_generator(replace(tiny_config, head="plain"))
    for dense in whole.fusion.rrdb.dense:
        torch.nn.init.zeros_(dense.last.weight)
        torch.nn.init.zeros_(dense.last.bias)
    # An RRDB that adds nothing: x + 0.2 x
    kernels = torch.zeros_like(whole.fusion.reduce.weight)
    width = tiny_config.hr_features
    for channel in range(width):
        kernels[channel, width + channel, 1, 1] = 1 / 1.2
    whole.fusion.reduce.weight.data.copy_(kernels)
    torch.nn.init.zeros_(whole.fusion.reduce.bias)
    state = whole.state_dict()
    branchless = Generator(replace(branchless_config, head="plain")).double()
    branchless.load_state_dict({name: state[name] for name in branchless.state_dict()})
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    assert torch.allclose(branchless(x).image, whole(x).image, rtol=1e-12, atol=0)


@pytest.mark.parametrize("image_skip", [False, True])
def test_folding_the_head_without_taps_is_exact(
    branchless_config: GeneratorConfig, image_skip: bool
) -> None:
    trained = random_generator(replace(branchless_config, image_skip=image_skip))
    deployed = fold_head(trained)
    assert deployed.config == replace(trained.config, head="plain")
    lr = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    before = trained(lr.repeat_interleave(4, 2).repeat_interleave(4, 3))
    after = deployed(lr)
    assert before.gradient is after.gradient is None
    assert (before.image - after.image).abs().max() / before.image.abs().max() < 1e-12


def test_image_skip_without_taps(branchless_config: GeneratorConfig) -> None:
    lr = torch.rand(1, 3, 4, 5)
    hr = F.interpolate(lr, scale_factor=4.0, mode="nearest")
    for head, x in (("plain", lr), ("unshuffle", hr)):
        generator = Generator(replace(branchless_config, head=head, image_skip=True))  # type: ignore[arg-type]
        assert not torch.equal(generator(x).image, hr)
        torch.nn.init.zeros_(generator.fusion.image.weight)
        assert torch.equal(generator(x).image, hr)


# Bad input


@pytest.mark.parametrize("taps", [(0, 2), (2, 1), (1, 1), (1, 4)])
def test_bad_taps_are_refused(tiny_config: GeneratorConfig, taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"taps .* between 1 and 3"):
        replace(tiny_config, taps=taps)


@pytest.mark.parametrize("size", ["features", "gradient_growth", "fusion_growth"])
def test_sizes_below_one_are_refused(tiny_config: GeneratorConfig, size: str) -> None:
    with pytest.raises(ValueError, match=f"{size} is 0"):
        replace(tiny_config, **{size: 0})  # type: ignore[arg-type]


def test_config_survives_plain_values(tiny_config: GeneratorConfig) -> None:
    plain = {**tiny_config.as_dict(), "taps": list(tiny_config.taps)}  # as JSON gives it back
    assert GeneratorConfig(**plain) == tiny_config


def test_weights_that_do_not_fit_are_named(tiny_config: GeneratorConfig) -> None:
    state = Generator(tiny_config).state_dict()
    cases = (
        ({k: v for k, v in state.items() if k != "fusion.image.bias"}, "fusion.image.bias is miss"),
        ({**state, "extra.weight": torch.zeros(1)}, "extra.weight does not belong"),
        ({**state, "head.bias": torch.zeros(7)}, r"head.bias has shape \(7,\).* asks for \(6,\)"),
    )
    for weights, words in cases:
        with pytest.raises(CheckpointError, match=words):
            generator_from_state(tiny_config, weights)


# The gradient map, against figures worked out by hand


def test_small_example_with_zero_padding() -> None:
    image = torch.tensor([[1.0, 2.0, 4.0], [0.0, 3.0, 8.0]], dtype=torch.float64)
    # Below minus above, right minus left; outside the image is 0.
    vertical = torch.tensor([[0, 3, 8], [-1, -2, -4]], dtype=torch.float64)
    horizontal = torch.tensor([[2, 3, -2], [3, 8, -3]], dtype=torch.float64)
    expected = (vertical**2 + horizontal**2 + 1e-6).sqrt()
    found = gradient_map(image[None, None])[0, 0]
    assert torch.allclose(found, expected, rtol=1e-14, atol=0)


def test_each_image_and_channel_stands_alone() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    together = gradient_map(images)
    assert together.shape == images.shape
    for n in range(2):
        for c in range(3):
            alone = gradient_map(images[n : n + 1, c : c + 1])
            assert torch.equal(together[n : n + 1, c : c + 1], alone)


def test_derivative_is_finite_on_flat_areas() -> None:
    image = torch.full((1, 1, 5, 5), 0.5, requires_grad=True)
    out = gradient_map(image)
    assert torch.allclose(out[..., 1:-1, 1:-1], torch.tensor(1e-3))
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_type_is_kept(dtype: torch.dtype) -> None:
    assert gradient_map(torch.rand(1, 3, 4, 4).to(dtype)).dtype is dtype


def test_half_precision_is_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        gradient_map(torch.zeros(1, 1, 3, 3, dtype=torch.float16))
