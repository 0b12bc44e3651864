"""The gradient map, against figures worked out by hand."""

from __future__ import annotations

import pytest
import torch

from srtool.networks.gradient import gradient_map


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
