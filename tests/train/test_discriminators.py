"""The discriminators: documented sizes, what feeds what, spectral normalisation, seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from srtool.train.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    GradientDiscriminator,
    GradientDiscriminatorConfig,
    iterate_powers,
    normalised_once,
)

FREE = {"first", "image_logits", "pixel_logits", "logits"}


def small(
    kind: Any = "unet", spectral_norm: bool = True, seed: int = 0, image_output: Any = "one"
) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(
        DiscriminatorConfig(
            kind=kind, features=2, spectral_norm=spectral_norm, image_output=image_output
        )
    )


def small_of_gradients(spectral_norm: bool = True, seed: int = 0) -> GradientDiscriminator:
    torch.manual_seed(seed)
    return GradientDiscriminator(
        GradientDiscriminatorConfig(features=2, spectral_norm=spectral_norm), 32
    )


def small_encoder(spectral_norm: bool = True, seed: int = 0) -> Discriminator:
    return small("encoder", spectral_norm, seed)


MAKERS = [small, small_encoder, small_of_gradients]


def layers(module: nn.Module) -> dict[str, Any]:
    """All convolutions and linear layers, by name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def every_logit(judged: Any) -> Tensor:
    """All that was said, in one row."""
    if isinstance(judged, Tensor):
        return judged.flatten()
    return torch.cat([x.flatten() for x in (judged.image, judged.pixels) if x is not None])


# Sizes

# Channels in units of `features` and the side of each block's output.
ENCODER = [(1, 128), (2, 64), (4, 32), (8, 16), (8, 8)]
DECODER = [(8, 16), (4, 32), (2, 64), (1, 128)]


@pytest.mark.parametrize(("kind", "features"), [("unet", ENCODER + DECODER), ("encoder", ENCODER)])
def test_sizes_of_a_128_patch(kind: Any, features: list[tuple[int, int]]) -> None:
    judged = small(kind)(torch.rand(3, 3, 128, 128))
    assert judged.image.shape == (3, 1, 1, 1)
    if kind == "unet":
        assert judged.pixels.shape == (3, 1, 128, 128)
    else:
        assert judged.pixels is None
    assert [f.shape for f in judged.features] == [(3, 2 * width, s, s) for width, s in features]


def test_sizes_of_the_gradient_discriminator_at_128() -> None:
    discriminator = GradientDiscriminator(GradientDiscriminatorConfig(features=2), 128)
    assert discriminator(torch.rand(3, 3, 128, 128)).shape == (3, 1)
    assert discriminator.hidden.in_features == 8 * 2 * 4 * 4


@pytest.mark.parametrize("size", [(16, 16), (48, 32)])
def test_other_sizes(size: tuple[int, int]) -> None:
    height, width = size
    assert small()(torch.rand(1, 3, *size)).image.shape == (1, 1, 1, 1)
    judged = small(image_output="patches")(torch.rand(1, 3, *size))
    assert judged.image.shape == (1, 1, height // 16, width // 16)
    assert judged.pixels is not None
    assert judged.pixels.shape == (1, 1, height, width)


@pytest.mark.parametrize("patch", [-32, 0, 16, 48, 100, 127])
def test_a_patch_that_does_not_halve_evenly_is_refused(patch: int) -> None:
    with pytest.raises(ValueError, match=f"patch is {patch}, expected a multiple of 32"):
        GradientDiscriminator(GradientDiscriminatorConfig(features=2), patch)


@pytest.mark.parametrize("patch", [32, 96])
def test_patches_are_multiples_of_32(patch: int) -> None:
    discriminator = GradientDiscriminator(GradientDiscriminatorConfig(features=2), patch)
    assert discriminator(torch.rand(2, 3, patch, patch)).shape == (2, 1)


@pytest.mark.parametrize("config", [DiscriminatorConfig, GradientDiscriminatorConfig])
def test_features_below_one_are_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"features\n.* greater than or equal to 1"):
        config(features=0)


# What feeds what


def test_each_decoder_block_joins_the_encoder_feature_of_its_size() -> None:
    discriminator = small()
    joined: list[tuple[Tensor, ...]] = []
    for block in discriminator.decoder:
        block.register_forward_pre_hook(lambda module, inputs: joined.append(inputs))
    features = discriminator(torch.rand(1, 3, 32, 32)).features
    assert len(joined) == 4
    for number, (below, skip) in enumerate(joined):
        assert below is features[4 + number]
        assert skip is features[3 - number]


def test_features_are_those_that_the_logits_are_made_of() -> None:
    discriminator = small()
    judged = discriminator(torch.rand(1, 3, 32, 32))
    mean = judged.features[4].mean((2, 3), keepdim=True)
    assert torch.equal(judged.image, discriminator.image_logits(mean))
    patches = small(image_output="patches")
    judged = patches(torch.rand(1, 3, 32, 32))
    assert torch.equal(judged.image, patches.image_logits(judged.features[4]))
    assert judged.pixels is not None
    assert torch.equal(judged.pixels, patches.pixel_logits(judged.features[8]))


def test_the_plain_encoder_is_the_encoder_of_the_unet() -> None:
    unet, encoder = small().eval(), small("encoder", seed=1).eval()
    left_over = encoder.load_state_dict(unet.state_dict(), strict=False)
    assert left_over.missing_keys == []
    assert {key.partition(".")[0] for key in left_over.unexpected_keys} == {
        "decoder",
        "pixel_logits",
    }
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(encoder(x).image, unet(x).image)


@pytest.mark.parametrize("make", MAKERS)
def test_every_weight_takes_part(make: Any) -> None:
    discriminator = make()
    judged = discriminator(torch.rand(2, 3, 32, 32))
    logits = [judged] if isinstance(judged, Tensor) else [judged.image, judged.pixels]
    sum(x.sum() for x in logits if x is not None).backward()
    idle = [
        name
        for name, parameter in discriminator.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize("make", MAKERS)
def test_an_image_is_judged_alone_as_in_a_batch(make: Any) -> None:
    discriminator = make(spectral_norm=False).train()
    images = torch.rand(3, 3, 32, 32)
    together, alone = discriminator(images), discriminator(images[1:2])
    if not isinstance(together, Tensor):
        together, alone = together.image, alone.image
    assert torch.allclose(together[1:2], alone, atol=1e-6)
    assert not torch.allclose(together[0:1], alone, atol=1e-5)


# Spectral normalisation


def largest_singular_value(weight: Tensor) -> float:
    return float(np.linalg.svd(weight.detach().flatten(1).numpy(), compute_uv=False)[0])


@pytest.mark.parametrize("make", MAKERS)
def test_spectral_normalisation_of_all_but_the_ends(make: Any) -> None:
    discriminator = make()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(3)  # whatever training made of them
        for _ in range(60):
            iterate_powers([discriminator])
    for name, layer in layers(discriminator).items():
        free = name in FREE
        assert is_parametrized(layer) is not free, name
        value = largest_singular_value(layer.weight)
        assert (abs(value - 1) < 1e-3) is not free, (name, value)


@pytest.mark.parametrize("make", MAKERS)
def test_weights_are_normalised_once_for_all_passes(make: Any) -> None:
    """The same verdicts and gradients as when every pass does it; no pass moves the vectors."""
    plain, once = make(), make()
    seen: list[nn.Module] = []
    for layer in layers(once).values():
        if is_parametrized(layer):
            layer.parametrizations.weight.register_forward_hook(lambda m, *_: seen.append(m))
    count = sum(is_parametrized(layer) for layer in layers(once).values())
    before = {name: value.clone() for name, value in once.state_dict().items()}
    images = [torch.rand(2, 3, 32, 32) for _ in range(2)]
    with normalised_once([once]), torch.autocast("cpu", torch.bfloat16):
        weights = [layer.weight for layer in layers(once).values()]
        assert {weight.dtype for weight in weights} == {torch.float32}
        for image in images:
            once(image)
    assert len(seen) == count
    with normalised_once([once]):
        found = [every_logit(once(image)) for image in images]
    expected = [every_logit(plain(image)) for image in images]
    for verdicts in (found, expected):
        sum(verdict.sum() for verdict in verdicts).backward()
        assert torch.equal(verdicts[1], expected[1])
    for a, b in zip(once.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in once.state_dict().items())
    iterate_powers([once])
    moved = {name for name, value in once.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.endswith(("_u", "_v")) for name in moved)


@pytest.mark.parametrize("make", MAKERS)
def test_spectral_normalisation_off(make: Any) -> None:
    discriminator = make(spectral_norm=False)
    for name, layer in layers(discriminator).items():
        assert not is_parametrized(layer), name
        assert isinstance(layer.weight, nn.Parameter), name
    assert list(discriminator.buffers()) == []


@pytest.mark.parametrize("features", [1, 3])
def test_widths_like_those_of_images_and_logits_are_normalised_too(features: int) -> None:
    """3 channels in or 1 out do not make a layer the first or the last."""
    found = layers(Discriminator(DiscriminatorConfig(features=features)))
    assert {name for name, layer in found.items() if not is_parametrized(layer)} == {
        "first",
        "image_logits",
        "pixel_logits",
    }
    gradient = GradientDiscriminator(GradientDiscriminatorConfig(features=features), 32)
    free = {name for name, layer in layers(gradient).items() if not is_parametrized(layer)}
    assert free == {"first", "logits"}


# Start


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize("make", MAKERS)
def test_weights_and_verdicts_follow_the_seed(make: Any, spectral_norm: bool) -> None:
    first, same, other = (make(spectral_norm=spectral_norm, seed=s) for s in (5, 5, 6))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), same.state_dict().values(), strict=True)
    )
    x = torch.rand(1, 3, 32, 32)
    a, b, c = (
        judged if isinstance(judged, Tensor) else judged.image
        for judged in (first(x), same(x), other(x))
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("make", MAKERS)
def test_biases_start_at_0(make: Any) -> None:
    for name, layer in layers(make()).items():
        if name == "logits":  # relativistic losses see differences only
            assert layer.bias is None
        else:
            assert not layer.bias.any(), name
