"""The PyTorch reference: the checkpoint as it was trained, eager, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.manifest import ModelFacts
from srtool.runtime.backends import DEFAULT_HALO, Session


def open_session(path: Path) -> tuple[Session, ModelFacts]:
    """Load a .pth or .safetensors file; it takes float32 batches. Uses the GPU where torch has
    one. CheckpointError where the file is no network, EngineError where torch is missing."""
    try:
        import torch

        from srtool.networks.loading import load_network
    except ImportError:
        raise EngineError(
            f"{path}: running weights takes PyTorch; pip install 'srtool[export]', "
            "or name an .onnx file"
        ) from None
    network = load_network(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.module.to(device)

    def run(batch: NDArray[Any], /) -> NDArray[Any]:
        with torch.inference_mode():
            result: NDArray[Any] = network.upscale(torch.from_numpy(batch).to(device)).cpu().numpy()
        return result

    facts = ModelFacts(
        scale=network.scale,
        io="float32",
        precision="fp32",
        architecture=network.architecture,
        halo=DEFAULT_HALO,
    )
    return run, facts
