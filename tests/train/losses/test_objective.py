"""Which terms make an objective, what they are given, and where their gradients flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srtool.networks.generator import GeneratorOutput
from srtool.networks.gradient import gradient_map
from srtool.train.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    GradientDiscriminator,
    GradientDiscriminatorConfig,
    Judgement,
)
from srtool.train.losses.objective import (
    PRETRAIN,
    Discriminators,
    discriminator_terms,
    generator_terms,
)
from srtool.train.recipe import LossWeights

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
        Observed(Discriminator(DiscriminatorConfig(kind, 2))),
        Observed(GradientDiscriminator(GradientDiscriminatorConfig(2), SIDE)),
    )


def perceptual() -> dict[str, nn.Module]:
    return {"lpips": Observed(Distance()), "vgg": Observed(Distance())}


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
    with both.frozen():
        terms = generator_terms(output, hr, only(**dict.fromkeys(NAMES, 1.0)), both, networks)
        backward(terms)
    assert set(terms) == set(NAMES)
    for tensor in output:
        assert tensor is not None
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    for module in (*both.modules().values(), *networks.values()):
        assert [name for name, p in module.named_parameters() if p.grad is not None] == []


def test_lpips_may_look_at_shifted_crops() -> None:
    output, hr = images()
    distance = Observed(lambda a, b: (a - 2 * b).mean())
    given = {"lpips": distance}
    found = generator_terms(output, hr, only(lpips=1), Discriminators(), given, shift=(1, 3))
    sr, hr = (image[:, :, 1:-3, 3:-1] for image in (output.image, hr))
    assert torch.equal(distance.inputs[0], sr)
    assert torch.equal(found["lpips"], (sr - 2 * hr).mean())


# How often D_U, D_GM, LPIPS and VGG are asked, for each weight on its own.
CALLS = {
    "adversarial": (1, 0, 0, 0),
    "lpips": (0, 0, 1, 0),
    "vgg": (0, 0, 0, 1),
    "feature_matching": (2, 0, 0, 0),
    "pixel": (0, 0, 0, 0),
    "gradient_adversarial": (0, 2, 0, 0),
    "gradient_pixel": (0, 0, 0, 0),
    "gradient_branch": (0, 0, 0, 0),
    "squared": (0, 0, 0, 0),
    "phase": (0, 0, 0, 0),
}


def test_every_weight_has_its_case() -> None:
    assert set(CALLS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_term_on_its_own(name: str) -> None:
    """One term, the networks it needs and no other, a gradient on one of the two outputs."""
    output, hr = images()
    both, networks = rivals(), perceptual()
    with both.frozen():
        terms = generator_terms(output, hr, only(**{name: 0.25}), both, networks)
        assert set(terms) == {name}
        backward(terms)
    of_branch = name == "gradient_branch"
    assert output.gradient is not None
    for tensor, expected in ((output.image, not of_branch), (output.gradient, of_branch)):
        assert (tensor.grad is not None and bool(tensor.grad.any())) is expected
    asked = (both.image, both.gradient, networks["lpips"], networks["vgg"])
    assert tuple(calls(network) for network in asked) == CALLS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_term_of_weight_0_is_absent(name: str) -> None:
    output, hr = images()
    weights = only(**{**dict.fromkeys(NAMES, 1.0), name: 0.0})
    both = rivals()
    with both.frozen():
        terms = generator_terms(output, hr, weights, both, perceptual())
    assert set(terms) == set(NAMES) - {name}


def test_terms_are_unweighted() -> None:
    output, hr = images()
    found = []
    for weight in (1.0, 0.005):
        both = rivals()
        weights = only(**dict.fromkeys(NAMES, weight))
        with both.frozen():
            found.append(generator_terms(output, hr, weights, both, perceptual()))
    assert all(torch.equal(found[0][name], found[1][name]) for name in NAMES)


def test_a_step_without_discriminators() -> None:
    output, hr = images()
    terms = generator_terms(output, hr, PRETRAIN, Discriminators(), {})
    assert set(terms) == {"pixel"}
    difference = np.abs(output.image.detach().numpy() - hr.numpy())
    assert terms["pixel"].item() == pytest.approx(difference.mean(), rel=1e-5)
    assert PRETRAIN.pixel == 1


def test_a_generator_without_gradient_branch() -> None:
    """The paper's ablation: gradient maps of images still count."""
    image, hr = images()[0].image, images()[1]
    weights = only(pixel=1, gradient_pixel=1, gradient_adversarial=1)
    both = rivals()
    with both.frozen():
        terms = generator_terms(GeneratorOutput(image, None), hr, weights, both, {})
    assert set(terms) == {"pixel", "gradient_pixel", "gradient_adversarial"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_generator_in_low_precision(dtype: torch.dtype) -> None:
    output, hr = images()
    narrow = GeneratorOutput(*(x.detach().to(dtype) for x in output if x is not None))
    wide = GeneratorOutput(*(x.float() for x in narrow if x is not None))
    weights = only(**dict.fromkeys(NAMES, 1.0))
    found = []
    for given in (narrow, wide):
        both = rivals()
        with both.frozen():
            found.append(generator_terms(given, hr, weights, both, perceptual()))
    for name in NAMES:
        assert found[0][name].dtype is torch.float32, name
        assert torch.equal(found[0][name], found[1][name]), name


def test_what_is_known_of_hr_carries_no_graph() -> None:
    """Neither features nor logits of HR, even where parameters are not frozen."""
    output, hr = images()
    both = rivals()
    generator_terms(output, hr, only(feature_matching=1, gradient_adversarial=1), both, {})
    assert isinstance(both.image, Observed)
    assert isinstance(both.gradient, Observed)
    of_hr = [torch.equal(x, hr) for x in both.image.inputs]
    assert sorted(of_hr) == [False, True]
    for judged, known in zip(both.image.outputs, of_hr, strict=True):
        assert {f.requires_grad for f in (*judged.features, *judged[:2])} == {not known}
    of_hr = [torch.equal(x, gradient_map(hr)) for x in both.gradient.inputs]
    assert sorted(of_hr) == [False, True]
    assert [x.requires_grad for x in both.gradient.outputs] == [not known for known in of_hr]


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
    found = generator_terms(GeneratorOutput(sr, branch), hr, weights, both, distance)
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
        "gradient_adversarial": 3.0803,  # of these logits, see test_terms.py
    }
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, abs=5e-5)


# The discriminators' step


def test_the_discriminators_step_teaches_the_discriminators_alone() -> None:
    output, hr = images()
    both = rivals()
    terms = discriminator_terms(output.image, hr, half_masks(), both)
    assert set(terms) == {"encoder", "decoder", "consistency", "gradient_relativistic"}
    backward(terms)
    assert output.image.grad is None
    for module in both.modules().values():
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
    discriminator_terms(output.image, hr, half_masks(), both)[name].backward()
    assert touched(both.image) == of_image
    assert touched(both.gradient) == of_gradient


@pytest.mark.parametrize(
    ("kind", "mixed", "expected"),
    [
        ("unet", True, {"encoder", "decoder", "consistency"}),
        ("unet", False, {"encoder", "decoder"}),
        ("encoder", True, {"encoder"}),
        ("encoder", False, {"encoder"}),
    ],
)
def test_terms_of_each_kind_with_and_without_cutmix(
    kind: str, mixed: bool, expected: set[str]
) -> None:
    output, hr = images()
    both = rivals(kind)
    terms = discriminator_terms(output.image, hr, half_masks() if mixed else None, both)
    assert set(terms) == expected | {"gradient_relativistic"}
    # one pass through each network, of HR, SR and, with a mask, the CutMix of both
    assert isinstance(both.image, Observed)
    assert isinstance(both.gradient, Observed)
    assert [len(x) for x in both.image.inputs] == [6 if mixed else 4]
    assert [len(x) for x in both.gradient.inputs] == [4]


def test_without_a_network_its_terms_are_absent() -> None:
    output, hr = images()
    both = rivals()
    found = [
        set(discriminator_terms(output.image, hr, None, given))
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

    maps = Observed(lambda x: torch.tensor([2.0, 5.0, 0.0, 1.0]).view(4, 1))
    image = Observed(judge)
    found = discriminator_terms(sr, hr, mask, Discriminators(image, maps))
    expected = {
        "encoder": (1 - 0.5) + (1 - 0.25),
        "decoder": (1 - 1) + (1 + 0),
        # the CutMix is 0.25 on average: off by 0.75 where HR shows and by 0.25 elsewhere
        "consistency": 0.25 * 0.75**2 + 0.75 * 0.25**2,
        "gradient_relativistic": 0.0803,  # of these logits, see test_terms.py
    }
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, abs=5e-5)
    assert torch.equal(image.inputs[0], torch.cat((hr, sr, mask.expand_as(hr))))
    assert torch.equal(maps.inputs[0], torch.cat((gradient_map(hr), gradient_map(sr))))


# Both


def test_the_mean_over_the_batch_is_the_one_that_is_given() -> None:
    output, hr = images()
    weights = only(gradient_adversarial=1)
    logits = torch.tensor([[2.0], [5.0], [0.0], [1.0]])

    def verdict(x: Tensor) -> Tensor:
        return logits[: len(x)]

    both = Discriminators(gradient=Observed(verdict))
    seen: list[int] = []

    def mean(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.mean() + 1

    of_generator, of_discriminator = (
        [
            generator_terms(output, hr, weights, both, {}, *given)["gradient_adversarial"],
            discriminator_terms(output.image, hr, None, both, *given)["gradient_relativistic"],
        ]
        for given in ((), (mean,))
    )
    assert seen == [2] * 4
    assert all(a != b for a, b in zip(of_generator, of_discriminator, strict=True))


def test_frozen_is_for_the_time_being() -> None:
    both = rivals()
    parameters = [p for module in both.modules().values() for p in module.parameters()]

    def frozen() -> set[bool]:
        return {not p.requires_grad for p in parameters}

    assert frozen() == {False}
    with both.frozen():
        assert frozen() == {True}
    assert frozen() == {False}

    class Diverged(Exception):
        pass

    def diverge() -> None:
        with both.frozen():
            raise Diverged

    with pytest.raises(Diverged):
        diverge()
    assert frozen() == {False}


def test_modules_are_named_and_only_those_that_exist() -> None:
    both = rivals()
    assert both.modules() == {
        "discriminator": both.image,
        "gradient_discriminator": both.gradient,
    }
    assert Discriminators(gradient=both.gradient).modules() == {
        "gradient_discriminator": both.gradient
    }
    assert Discriminators().modules() == {}


def test_a_perfect_generator_leaves_nothing_to_match() -> None:
    """With frozen singular vectors, so that both passes have the same weights."""
    _, hr = images()
    both = rivals()
    for module in both.modules().values():
        module.eval()
    weights = only(pixel=1, feature_matching=1, gradient_pixel=1, gradient_branch=1, lpips=1)
    output = GeneratorOutput(hr.clone(), gradient_map(hr))
    terms = generator_terms(output, hr, weights, both, perceptual())
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(terms, 0.0)
    assert len(terms) == 5
