"""Exported networks that several tests look at, and one thread: networks this small lose more to
waiting for a second one than it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from srtool.export.onnx import Written
    from srtool.networks.network import Network

torch.set_num_threads(1)


@dataclass(frozen=True)
class Exported:
    """A network and the files that were made of it."""

    network: Network
    written: list[Written]

    @property
    def folder(self) -> Path:
        return self.written[0].path.parent


@pytest.fixture(scope="session")
def generator_export(hr_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Our generator, as small as it gets, in fp32 and fp16 with uint8 pixels."""
    from srtool.export import onnx
    from srtool.networks.generator import Generator, GeneratorConfig
    from srtool.networks.loading import load_network, save_generator

    config = GeneratorConfig(
        features=4,
        growth=2,
        blocks=1,
        taps=(1,),
        gradient_features=4,
        gradient_growth=2,
        hr_features=4,
        fusion_growth=2,
        image_skip=True,
    )
    torch.manual_seed(0)
    generator = Generator(config)
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("generator")
    save_generator(folder / "tiny.safetensors", generator, {"steps": 7})
    network = load_network(folder / "tiny.safetensors")
    return Exported(
        network,
        onnx.export(network, folder / "x4.onnx", onnx.ExportConfig("both", images=hr_images)),
    )


@pytest.fixture(scope="session")
def esrgan_network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """An ESRGAN with one block, by the parameter names of Real-ESRGAN."""
    from srtool.networks.loading import load_network

    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(name: str, inputs: int, outputs: int) -> None:
        layer = nn.Conv2d(inputs, outputs, 3)
        state.update({f"{name}.{kind}": value for kind, value in layer.state_dict().items()})

    width, growth = 4, 32  # spandrel takes only this growth
    add("conv_first", 3, width)
    for block in ("rdb1", "rdb2", "rdb3"):
        for n in range(1, 6):
            outputs = width if n == 5 else growth
            add(f"body.0.{block}.conv{n}", width + (n - 1) * growth, outputs)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        add(name, width, width)
    add("conv_last", width, 3)
    path = tmp_path_factory.mktemp("esrgan") / "esrgan.pth"
    torch.save({"params_ema": state}, path)
    return load_network(path)
