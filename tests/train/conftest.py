"""One thread: networks this small lose more to waiting for a second one than it computes. And two
blocks where three show nothing more: steps of training are many here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from srtool.networks.generator import GeneratorConfig

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_config(tiny_config: GeneratorConfig) -> GeneratorConfig:
    """The one of all tests, with a block less."""
    return replace(tiny_config, blocks=2, taps=(1,))
