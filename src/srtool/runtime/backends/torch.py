"""The PyTorch reference: the checkpoint as it was trained, eager, float32."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.manifest import ModelFacts
from srtool.runtime.session import DEFAULT_HALO, DirectSession
from srtool.system import share


@dataclass(frozen=True)
class Torch:
    """Weights as they are, .pth or .safetensors, on the GPU where torch has one. device: its
    number among those that are visible, None for the first."""

    device: int | None = None
    library: ClassVar = "torch"
    precision: ClassVar = "fp32"
    on_gpu: ClassVar = False

    def __str__(self) -> str:
        return "torch fp32"

    def open(
        self, path: Path, facts: ModelFacts | None = None, threads: int | None = None
    ) -> DirectSession:
        """The facts are those that the file itself tells. threads: of the whole process, torch
        knows no other. CheckpointError where the file is no network. One thread after the other
        computes: each would bring its own pool for all the cores."""
        try:
            import torch

            from srtool.networks.loading import load_network
        except ImportError:
            raise EngineError(
                f"{path}: running weights takes PyTorch; pip install 'srtool[export]', "
                "or name an .onnx file",
                path=path,
            ) from None
        if threads := threads or share():
            torch.set_num_threads(threads)
        network = load_network(path)
        facts = ModelFacts(
            scale=network.scale,
            io="float32",
            precision="fp32",
            architecture=network.architecture,
            halo=DEFAULT_HALO,
            multiple_of=network.size.multiple_of,
            minimum=network.size.minimum,
            square=network.size.square,
        )
        device = torch.device(f"cuda:{self.device or 0}" if torch.cuda.is_available() else "cpu")
        network.module.to(device)
        lock = threading.Lock()

        def compute(batch: NDArray[Any]) -> NDArray[Any]:
            with lock, torch.inference_mode():
                made = network.upscale(torch.from_numpy(batch).to(device))
                return np.asarray(made.cpu())

        session = DirectSession(facts, compute)
        session.notes.extend(network.notes)
        return session
