"""Fidelity figures against hand-computed values, grades, gates and the measured halo."""

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

from srtool.errors import DataError, ExportError
from srtool.export import certify
from srtool.export.certify import Sample, fidelity, measured_cut
from srtool.images.colour import psnr_y
from srtool.manifest import ModelFacts
from srtool.networks.network import Network
from srtool.parity import EXPORTED
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.session import DirectSession

FACTS = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="test", halo=0)


def engine_of(session: Any, **facts: Any) -> Engine:
    model = FACTS.model_copy(update=facts)
    info = EngineInfo(Path("x4.onnx"), model, OnnxRuntime())
    return Engine(info, DirectSession(model, session))


def gray(level: int, height: int = 40, width: int = 40) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def answering(*outputs: NDArray[np.uint8]) -> Engine:
    """An engine that gives these images, one after the other."""
    rest = iter(outputs)
    return engine_of(lambda batch: next(rest)[None])


def sample(reference: NDArray[np.uint8], hr: NDArray[np.uint8] | None = None) -> Sample:
    lr = gray(0, reference.shape[0] // 4, reference.shape[1] // 4)
    return Sample(lr, gray(100) if hr is None else hr, reference)


def test_nothing_differs() -> None:
    found = fidelity(answering(gray(90)), [sample(gray(90))])
    assert (found.images, found.max_difference, found.mean_difference) == (1, 0, 0.0)
    assert (found.share_different, found.share_over_1, found.psnr_between) == (0.0, 0.0, None)
    assert (found.delta_psnr, found.worst_delta_psnr) == (0.0, 0.0)
    assert found.grade == "exact"


def test_figures_are_over_all_values_of_all_images() -> None:
    reference, other = gray(90), gray(200, 20, 40)
    first, second = reference.copy(), other.copy()
    first[0, 0] = (91, 89, 95)  # one up, one down, five up
    second[3, 4, 0] = 0  # 200 down: no wrap-around of uint8
    found = fidelity(answering(first, second), [sample(reference), sample(other, gray(0, 20, 40))])
    values = 3 * (40 * 40 + 20 * 40)
    assert (found.images, found.max_difference) == (2, 200)
    assert found.mean_difference == pytest.approx(207 / values)
    assert found.share_different == pytest.approx(4 / values)
    assert found.share_over_1 == pytest.approx(2 / values)
    squares = 1 + 1 + 25 + 40000
    assert found.psnr_between == pytest.approx(10 * math.log10(255**2 * values / squares))


def test_delta_psnr_is_the_mean_and_the_worst_over_images() -> None:
    hr, reference = gray(100), gray(90)
    outputs = [gray(91), gray(87), gray(90)]
    found = fidelity(answering(*outputs), [sample(reference, hr)] * 3)
    deltas = [psnr_y(out, hr) - psnr_y(reference, hr) for out in outputs]
    assert deltas[0] > 0 > deltas[1]
    assert found.delta_psnr == pytest.approx(sum(deltas) / 3)
    assert found.worst_delta_psnr == pytest.approx(deltas[1])


def test_an_image_that_is_met_exactly_has_no_delta() -> None:
    found = fidelity(answering(gray(100)), [sample(gray(100), gray(100))])
    assert (found.delta_psnr, found.worst_delta_psnr) == (0.0, 0.0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_keeps_the_gates_of_its_precision(complains: Any, precision: str) -> None:
    same, other = (fidelity(answering(gray(level)), [sample(gray(90))]) for level in (90, 93))
    gates, path = EXPORTED[precision], Path("x4.onnx")
    certify.check(same, gates, path, f"{precision} file")
    with complains(ExportError, path, precision, *other.misses(gates)):
        certify.check(other, gates, path, f"{precision} file")


# The halo


def box(radius: int, width: float = 1.0) -> Any:
    """A session of a network that sees `radius` pixels to each side, zeros beyond the image."""

    def run(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (radius, radius), (0, 0)))
        size = 2 * radius + 1
        shifted = [padded[:, :, i : i + batch.shape[2]] for i in range(size)]
        weights = width ** np.abs(np.arange(size) - radius)
        mean = sum(w * s for w, s in zip(weights, shifted, strict=True)) / weights.sum()
        return np.rint(mean).astype(np.uint8).repeat(4, 1).repeat(4, 2)

    return run


def noise(height: int, width: int) -> NDArray[np.uint8]:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return levels.astype(np.uint8)


@pytest.mark.parametrize(
    ("radius", "halo"), [(0, 4), (3, 4), (4, 4), (5, 8), (9, 12), (30, 32), (64, 64)]
)
def test_the_halo_is_the_first_that_covers_the_receptive_field(radius: int, halo: int) -> None:
    assert measured_cut(engine_of(box(radius)), [noise(24, 200)]).halo == halo


def test_the_halo_is_what_matters_not_what_is_reached() -> None:
    # 40 pixels of reach, whose weights fall off by half per pixel
    assert measured_cut(engine_of(box(40, 0.5)), [noise(24, 200)]).halo == 8


def test_where_no_halo_is_enough_there_is_a_tile() -> None:
    for radius, image in ((20, noise(24, 40)), (90, noise(24, 200)), (0, noise(4, 4))):
        cut = measured_cut(engine_of(box(radius)), [image])
        assert (cut.halo, cut.tile) == (certify.GLOBAL_HALO, certify.GLOBAL_TILE)


# Samples


def nearest_network(**changes: Any) -> Network:
    module = nn.Upsample(scale_factor=4.0, mode="nearest")
    return replace(Network(module, 4, "test", Path("x.pth")), **changes)


def test_shipped_samples_are_photographs_of_many_sizes() -> None:
    samples = certify.samples_from_images(nearest_network())
    assert len(samples) >= 4
    for item in samples:
        assert item.hr.shape == item.reference.shape
        assert item.hr.shape == (4 * item.lr.shape[0], 4 * item.lr.shape[1], 3)
        assert np.array_equal(item.reference, item.lr.repeat(4, 0).repeat(4, 1))
    assert [item.lr.shape[:2] for item in samples] == list(certify.SIZES)


def test_samples_of_a_folder_are_cropped_to_whole_pixels(photographs: Path) -> None:
    samples = certify.samples_from_images(nearest_network(), photographs)
    assert [item.hr.shape for item in samples] == [(48, 64, 3), (60, 44, 3), (64, 40, 3)]


def test_a_sample_too_small_is_refused(tmp_path: Path, write_png: Any, complains: Any) -> None:
    write_png(tmp_path / "a.png", gray(3, 64, 31))
    with complains(DataError, tmp_path, "31x64"):
        certify.samples_from_images(nearest_network(), tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path, complains: Any) -> None:
    with complains(DataError, tmp_path):
        certify.samples_from_images(nearest_network(), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_without_finite_output_is_refused(
    photographs: Path, complains: Any, value: float
) -> None:
    module = nn.Sequential(nn.Upsample(scale_factor=4.0), nn.Threshold(2.0, value))
    with complains(ExportError, "x.pth", "NaN"):
        certify.samples_from_images(nearest_network(module=module), photographs)


def test_the_reference_rounds_and_clamps() -> None:
    lr = np.array([[[0, 128, 255]]], np.uint8)
    bright = nearest_network(module=nn.Sequential(nn.Upsample(scale_factor=4.0), Add(0.4 / 255)))
    assert np.unique(certify.reference(bright, lr)).tolist() == [0, 128, 255]
    brighter = nearest_network(module=nn.Sequential(nn.Upsample(scale_factor=4.0), Add(0.6 / 255)))
    assert np.unique(certify.reference(brighter, lr)).tolist() == [1, 129, 255]


class Add(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value
