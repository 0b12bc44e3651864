"""Which terms make an objective, what they are given, and where their gradients flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srtool.networks.generator import GeneratorOutput, gradient_map
from srtool.train.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    GradientDiscriminator,
    GradientDiscriminatorConfig,
    Judgement,
)
from srtool.train.losses import (
    Discriminators,
    Objective,
    Terms,
    Verdict,
    discriminator_terms,
    generator_terms,
    mixed_from_mask,
)
from srtool.train.recipe import LossWeights, PretrainStage

NAMES = list(LossWeights.model_fields)
SIDE = 32


class Observed(nn.Module):
    """Passes everything through to a network and keeps what went in and came out."""

    def __init__(self, network: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs = network, [], []

    def forward(self, *images: Tensor) -> Any:
        self.inputs.append(images[0])
        self.outputs.append(self.network(*images))
        return self.outputs[-1]


class Distance(nn.Module):
    """A perceptual loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.weight * ((sr - hr) ** 2).mean()


def only(**weights: float) -> LossWeights:
    return LossWeights(**{**dict.fromkeys(NAMES, 0.0), **weights})


def images(seed: int = 0) -> tuple[GeneratorOutput, Tensor]:
    """A generator's output, as if it were its parameters, and HR: two images of SIDE pixels."""
    torch.manual_seed(seed)
    image, gradient, hr = torch.rand(3, 2, 3, SIDE, SIDE)
    return GeneratorOutput(image.requires_grad_(), gradient.requires_grad_()), hr


def rivals(kind: Any = "unet") -> Discriminators:
    torch.manual_seed(1)
    return Discriminators(
        Observed(Discriminator(DiscriminatorConfig(kind=kind, features=2))),
        Observed(GradientDiscriminator(GradientDiscriminatorConfig(features=2), SIDE)),
    )


def perceptual() -> dict[str, nn.Module]:
    return {"lpips": Observed(Distance()), "vgg": Observed(Distance())}


def of_generator(
    weights: LossWeights,
    output: GeneratorOutput,
    hr: Tensor,
    both: Discriminators,
    networks: dict[str, nn.Module] | None = None,
    **more: Any,
) -> Terms:
    """The generator's terms, after HR and SR were judged."""
    real, fake = both.judge(hr), both.judge(output.image.float())
    return generator_terms(Objective(weights, networks or {}), output, hr, real, fake, **more)


def of_discriminators(
    sr: Tensor, hr: Tensor, mask: Tensor | None, both: Discriminators, **more: Any
) -> Terms:
    """The discriminators' terms, after HR, SR and perhaps their CutMix were judged."""
    mixed = None
    if mask is not None and both.image is not None:
        mixed = mixed_from_mask(both.image, mask, hr, sr)
    return discriminator_terms(both.judge(hr), both.judge(sr.detach()), mixed, **more)


def half_masks() -> Tensor:
    """HR on the left half."""
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    return mask


def backward(terms: dict[str, Tensor]) -> None:
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]


def touched(module: nn.Module | None) -> set[str]:
    """The parts of an observed discriminator with a gradient that is not 0."""
    assert isinstance(module, Observed)
    return {
        name.split(".")[1]
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


def calls(module: nn.Module | None) -> int:
    assert isinstance(module, Observed)
    return len(module.inputs)


# The generator's step


def test_the_generator_step_teaches_the_generator_alone() -> None:
    output, hr = images()
    both, networks = rivals(), perceptual()
    terms = of_generator(only(**dict.fromkeys(NAMES, 1.0)), output, hr, both, networks)
    total = torch.stack(list(terms.values())).sum()
    total.backward(inputs=[output.image, output.gradient])  # type: ignore[no-untyped-call]
    assert set(terms) == set(NAMES)
    for tensor in output:
        assert tensor is not None
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    for module in (both.image, both.gradient, *networks.values()):
        assert [name for name, p in module.named_parameters() if p.grad is not None] == []


def test_lpips_may_look_at_shifted_crops() -> None:
    output, hr = images()
    distance = Observed(lambda a, b: (a - 2 * b).mean())
    given = {"lpips": distance}
    found = of_generator(only(lpips=1), output, hr, Discriminators(), given, shift=(1, 3))
    sr, hr = (image[:, :, 1:-3, 3:-1] for image in (output.image, hr))
    assert torch.equal(distance.inputs[0], sr)
    assert torch.equal(found["lpips"], (sr - 2 * hr).mean())


@pytest.mark.parametrize("name", NAMES)
def test_each_term_on_its_own(name: str) -> None:
    """One term, its perceptual network and no other, a gradient on one of the two outputs."""
    output, hr = images()
    networks = perceptual()
    terms = of_generator(only(**{name: 0.25}), output, hr, rivals(), networks)
    assert set(terms) == {name}
    backward(terms)
    of_branch = name == "gradient_branch"
    assert output.gradient is not None
    for tensor, expected in ((output.image, not of_branch), (output.gradient, of_branch)):
        assert (tensor.grad is not None and bool(tensor.grad.any())) is expected
    assert {n for n, network in networks.items() if calls(network)} == {name} & {"lpips", "vgg"}


@pytest.mark.parametrize("name", NAMES)
def test_a_term_of_weight_0_is_absent(name: str) -> None:
    output, hr = images()
    weights = only(**{**dict.fromkeys(NAMES, 1.0), name: 0.0})
    terms = of_generator(weights, output, hr, rivals(), perceptual())
    assert set(terms) == set(NAMES) - {name}


def test_terms_are_unweighted() -> None:
    output, hr = images()
    found = []
    for weight in (1.0, 0.005):
        weights = only(**dict.fromkeys(NAMES, weight))
        found.append(of_generator(weights, output, hr, rivals(), perceptual()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in NAMES)


def test_a_step_without_discriminators() -> None:
    output, hr = images()
    weights = PretrainStage().weights
    terms = of_generator(weights, output, hr, Discriminators())
    assert set(terms) == {"pixel"}
    difference = np.abs(output.image.detach().numpy() - hr.numpy())
    assert terms["pixel"].item() == pytest.approx(difference.mean(), rel=1e-5)
    assert weights.pixel == 1


def test_a_generator_without_gradient_branch() -> None:
    """The paper's ablation: gradient maps of images still count."""
    image, hr = images()[0].image, images()[1]
    weights = only(pixel=1, gradient_pixel=1, gradient_adversarial=1)
    terms = of_generator(weights, GeneratorOutput(image, None), hr, rivals())
    assert set(terms) == {"pixel", "gradient_pixel", "gradient_adversarial"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_generator_in_low_precision(dtype: torch.dtype) -> None:
    output, hr = images()
    narrow = GeneratorOutput(*(x.detach().to(dtype) for x in output if x is not None))
    wide = GeneratorOutput(*(x.float() for x in narrow if x is not None))
    weights = only(**dict.fromkeys(NAMES, 1.0))
    found = [of_generator(weights, given, hr, rivals(), perceptual()) for given in (narrow, wide)]
    for name in NAMES:
        assert found[0][name].dtype is torch.float32, name
        assert torch.equal(found[0][name], found[1][name]), name


def test_what_is_known_of_hr_is_taken_as_given() -> None:
    """The terms lead to SR alone, though what is said of HR has a graph, for the other side."""
    output, hr = images()
    both = rivals()
    real, fake = both.judge(hr), both.judge(output.image)
    for gone in (real.detached(), Verdict()):
        objective = Objective(only(feature_matching=1, gradient_adversarial=1))
        terms = generator_terms(objective, output, hr, gone, fake)
        assert len(terms) == (0 if gone == Verdict() else 2)
    logits = real.gradient
    assert logits is not None
    assert logits.requires_grad
    backward(generator_terms(Objective(only(gradient_adversarial=1)), output, hr, real, fake))
    assert isinstance(both.gradient, Observed)
    expected = rivals()
    verdict = Verdict(None, logits.detach()), expected.judge(output.image)
    backward(generator_terms(Objective(only(gradient_adversarial=1)), output, hr, *verdict))
    assert isinstance(expected.gradient, Observed)
    for a, b in zip(both.gradient.parameters(), expected.gradient.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_the_generators_terms_by_hand() -> None:
    """SR is 0.5 and HR 0.25 everywhere; discriminators whose verdicts are known."""
    sr = torch.full((2, 3, 8, 8), 0.5)
    hr = torch.full((2, 3, 8, 8), 0.25)
    branch = gradient_map(hr) + torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    image = Observed(lambda x: Judgement(3 * x[:, :1], 8 * x[:, :1], (x, 10 * x)))

    def of_maps(x: Tensor) -> Tensor:
        """0 and 1 for M(SR), 2 and 5 for M(HR)."""
        known = [gradient_map(y)[0, 0, 0, 0].item() for y in (sr, hr)]
        logits = {known[0]: [0.0, 1.0], known[1]: [2.0, 5.0]}
        return torch.tensor(logits[x[0, 0, 0, 0].item()]).view(2, 1)

    both = Discriminators(image, Observed(of_maps))
    distance = {"lpips": Observed(lambda a, b: (a - 2 * b).mean() + a.mean())}
    weights = only(**{**dict.fromkeys(NAMES, 1.0), "vgg": 0.0})
    found = of_generator(weights, GeneratorOutput(sr, branch), hr, both, distance)
    # M of a constant c is 0.001 inside, c along 24 edge pixels and c sqrt(2) at 4 corners: M(SR)
    # and M(HR) differ by about 0.25 at the 24 and by 0.25 sqrt(2) at the 4, out of 64.
    expected = {
        "pixel": 0.25,
        "squared": 0.0625,
        "phase": 0.0,  # nothing repeats
        "gradient_branch": 2.0,  # (1 + 3) / 2
        "gradient_pixel": (24 * 0.25 + 4 * 0.25 * 2**0.5) / 64,
        "lpips": 0.5,  # 0.5 - 2 x 0.25 + 0.5
        "adversarial": -(1.5 + 4.0),
        "feature_matching": (0.25 + 2.5) / 2,
        "gradient_adversarial": 3.0803,  # of these logits, see test_losses.py
    }
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, abs=5e-5)


# The discriminators' step


def test_the_discriminators_step_teaches_the_discriminators_alone() -> None:
    output, hr = images()
    both = rivals()
    terms = of_discriminators(output.image, hr, half_masks(), both)
    assert set(terms) == {"encoder", "decoder", "consistency", "gradient_relativistic"}
    backward(terms)
    assert output.image.grad is None
    for module in (both.image, both.gradient):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # while all logits are within the hinges, HR and SR pull at their bias alike
            assert parameter.grad.any() or name == "network.image_logits.bias", name


@pytest.mark.parametrize(
    ("name", "of_image", "of_gradient"),
    [
        ("encoder", {"first", "encoder", "image_logits"}, set()),
        ("decoder", {"first", "encoder", "decoder", "pixel_logits"}, set()),
        ("consistency", {"first", "encoder", "decoder", "pixel_logits"}, set()),
        ("gradient_relativistic", set(), {"first", "blocks", "hidden", "logits"}),
    ],
)
def test_what_each_term_teaches(name: str, of_image: set[str], of_gradient: set[str]) -> None:
    output, hr = images()
    both = rivals()
    of_discriminators(output.image, hr, half_masks(), both)[name].backward()
    assert touched(both.image) == of_image
    assert touched(both.gradient) == of_gradient


@pytest.mark.parametrize(
    ("kind", "mixed", "expected"),
    [
        ("unet", True, {"encoder", "decoder", "consistency"}),
        ("unet", False, {"encoder", "decoder"}),
        ("encoder", False, {"encoder"}),
    ],
)
def test_terms_of_each_kind_with_and_without_cutmix(
    kind: str, mixed: bool, expected: set[str]
) -> None:
    output, hr = images()
    terms = of_discriminators(output.image, hr, half_masks() if mixed else None, rivals(kind))
    assert set(terms) == expected | {"gradient_relativistic"}


def test_without_a_network_its_terms_are_absent() -> None:
    output, hr = images()
    both = rivals()
    found = [
        set(of_discriminators(output.image, hr, None, given))
        for given in (
            Discriminators(image=both.image),
            Discriminators(gradient=both.gradient),
            Discriminators(),
        )
    ]
    assert found == [{"encoder", "decoder"}, {"gradient_relativistic"}, set()]


def test_the_discriminators_terms_by_hand() -> None:
    """HR is 1 and SR 0 everywhere; a quarter of the CutMix shows HR."""
    hr, sr = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4, :4] = 1

    def judge(x: Tensor) -> Judgement:
        """Image logits 0.5 for HR and -0.25 for SR; pixel logits: the mean of the whole image."""
        mean = x.mean((1, 2, 3)).view(-1, 1, 1, 1)
        return Judgement(0.75 * mean - 0.25, mean.expand(-1, 1, 8, 8), ())

    image = Observed(judge)
    real, fake = (
        Verdict(image(x), torch.tensor(logits).view(2, 1))
        for x, logits in ((hr, [2.0, 5.0]), (sr, [0.0, 1.0]))
    )
    mixed = mixed_from_mask(image, mask, hr, sr)
    found = discriminator_terms(real, fake, mixed)
    expected = {
        "encoder": (1 - 0.5) + (1 - 0.25),
        "decoder": (1 - 1) + (1 + 0),
        # the CutMix is 0.25 on average: off by 0.75 where HR shows and by 0.25 elsewhere
        "consistency": 0.25 * 0.75**2 + 0.75 * 0.25**2,
        "gradient_relativistic": 0.0803,  # of these logits, see test_losses.py
    }
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, abs=5e-5)
    assert torch.equal(image.inputs[2], mask.expand_as(hr))
    assert torch.equal(mixed.mask, mask)


# Both


def test_the_mean_over_the_batch_is_the_one_that_is_given() -> None:
    output, hr = images()
    real, fake = Verdict(None, torch.tensor([[2.0], [5.0]])), Verdict(None, torch.rand(2, 1))
    seen: list[int] = []

    def mean(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.mean() + 1

    weights = only(gradient_adversarial=1)
    of_both = [
        (
            generator_terms(Objective(weights, {}, *given), output, hr, real, fake),
            discriminator_terms(real, fake, None, *given),
        )
        for given in ((), (mean,))
    ]
    assert seen == [2] * 4
    for plain, shifted in zip(*of_both, strict=True):
        assert list(plain.values()) != list(shifted.values())


def test_gradient_maps_are_judged_for_the_gradients() -> None:
    _, hr = images()
    both = rivals()
    both.judge(hr)
    assert isinstance(both.image, Observed)
    assert isinstance(both.gradient, Observed)
    assert torch.equal(both.image.inputs[0], hr)
    assert torch.equal(both.gradient.inputs[0], gradient_map(hr))


def test_a_perfect_generator_leaves_nothing_to_match() -> None:
    _, hr = images()
    weights = only(pixel=1, feature_matching=1, gradient_pixel=1, gradient_branch=1, lpips=1)
    output = GeneratorOutput(hr.clone(), gradient_map(hr))
    terms = of_generator(weights, output, hr, rivals(), perceptual())
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(terms, 0.0)
    assert len(terms) == 5
