"""Certification: real images through PyTorch FP32 and through the written file, compared."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srtool.errors import DataError, ExportError
from srtool.export.compare import Compared, fidelity_from_images
from srtool.images.colour import to_levels
from srtool.images.datasets import dataset_from_folder
from srtool.images.imresize import make_lr, mod_crop
from srtool.images.reading import read_rgb
from srtool.networks.network import Network
from srtool.parity import EXPORTED, Fidelity
from srtool.runtime.engine import Engine

CROP = 256  # HR pixels of each shipped sample: seconds, not minutes, for the largest networks
MIN_SIDE = 32  # HR pixels of a certification image
HALOS = (4, 8, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True)
class Sample:
    """One certification image: LR and HR, and what the PyTorch network makes of the LR, all
    (H, W, 3) RGB uint8."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    name: str = ""


def samples_from_images(network: Network, folder: Path | None = None) -> list[Sample]:
    """Make LR images of the HR images in a folder and run the reference on them.

    Without a folder, the middles of the photographs that srtool ships are taken.
    """
    shipped = Path(str(resources.files("srtool") / "samples" / "HR"))
    samples = []
    for path in (sample.hr for sample in dataset_from_folder(folder or shipped).samples):
        image = read_rgb(path) if folder else _middle(read_rgb(path))
        hr = mod_crop(image, network.scale)
        if min(hr.shape[:2]) < MIN_SIDE:
            raise DataError(
                f"{folder}: an image of {image.shape[1]}x{image.shape[0]} pixels is too small to "
                f"certify with, expected at least {MIN_SIDE} a side"
            )
        lr = make_lr(hr, network.scale)
        samples.append(Sample(lr, hr, reference(network, lr), path.name))
    return samples


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = ((side - CROP) // 2 if side > CROP else 0 for side in image.shape[:2])
    return image[top : top + CROP, left : left + CROP]


def reference(network: Network, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """PyTorch FP32 eager: (H, W, 3) uint8 -> (scale * H, scale * W, 3) uint8."""
    x = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        out = network.upscale(x)[0].permute(1, 2, 0)
    if not out.isfinite().all():
        raise ExportError(
            f"{network.path}: the network makes NaN or infinite values of a photograph; "
            "its weights are damaged, or its training went wrong"
        )
    levels: NDArray[np.uint8] = to_levels(out.numpy(), np.uint8)
    return levels


def fidelity(engine: Engine, samples: list[Sample], dataset: str = "") -> Fidelity:
    """Compare an engine's output with the reference, over all values of all samples."""
    images = (
        Compared(sample.name, engine.upscale_batch(sample.lr[None])[0], sample.reference, sample.hr)
        for sample in samples
    )
    return fidelity_from_images(images, engine.facts.scale, dataset)


def check(precision: str, found: Fidelity, path: Path) -> None:
    """ExportError unless the file keeps what is asked of files of its precision."""
    if missed := found.misses(EXPORTED[precision]):
        raise ExportError(
            f"{path}: the {precision} file does not do what the network does: "
            f"{', '.join(missed)}; {_next_step(precision, path)}"
        )


def check_emulated(found: Fidelity, path: Path) -> None:
    """ExportError unless an fp16 file is faithful with each of its values in float16."""
    if not found.passed:
        raise ExportError(
            f"{path}: the fp16 file does not do what the network does where its values are "
            f"float16, as they are on a GPU: {', '.join(found.misses(found.gates))}; "
            f"{_next_step('fp16', path)}"
        )


def _next_step(precision: str, path: Path) -> str:
    if precision == "fp32":
        return "nothing was written (--force writes it all the same)"
    return (
        f"nothing was written (--force writes it all the same, and then `srtool verify MODEL "
        f"{path} --images DIR --bisect` finds what goes wrong and mends it)"
    )


def measured_halo(engine: Engine, lr: NDArray[Any]) -> int:
    """The smallest halo, in LR pixels, with which a cut through an image stays invisible: on
    99.9 % of the values within 16 pixels of the cut at most one level of difference."""
    scale, width = engine.facts.scale, lr.shape[1]
    cut, strip = width // 2, 16
    whole = engine.upscale_batch(lr[None])[0].astype(np.int16)
    for halo in HALOS:
        if cut + halo >= width:
            break
        piece = engine.upscale_batch(lr[None, :, : cut + halo])[0]
        near = slice(max(0, cut - strip) * scale, cut * scale)
        gap = np.abs(whole[:, near] - piece[:, near])
        if float((gap > 1).mean()) <= 1e-3:
            return halo
    return HALOS[-1]
