"""Speeds of RRDB-23 (ESRGAN) at x4 that others published: what a roofline is to be held against."""

from __future__ import annotations

from dataclasses import dataclass

_VSGAN = "README of github.com/styler00dollar/VSGAN-tensorrt-docker (commit 43d4659)"
_COMFY = "README of github.com/yuvraj108c/ComfyUI-Upscaler-Tensorrt"


@dataclass(frozen=True)
class Published:
    """speed: LR megapixels/s. software, precision: empty where the source does not say."""

    gpu: str
    compute: str
    speed: float
    software: str
    precision: str
    source: str


PUBLISHED = (
    Published("GTX 1070 Ti", "6.1", 0.18, "TensorRT 8", "fp32", f"{_VSGAN}, rounded to one digit"),
    Published("RTX 3060 Ti", "8.6", 0.65, "TensorRT 8", "", f"{_VSGAN}, rounded to one digit"),
    Published("RTX 3090", "8.6", 1.4, "TensorRT", "", f"{_VSGAN}, of videos"),
    Published("RTX 4090", "8.9", 2.4, "TensorRT 9.1", "", f"{_VSGAN}, of videos"),
    Published("Tesla V100", "7.0", 1.05, "TensorRT 8.2", "", f"{_VSGAN}, of videos"),
    Published("A100", "8.0", 2.4, "TensorRT 8.2", "", f"{_VSGAN}, of videos"),
    Published(
        "L40S", "8.9", 1.31, "TensorRT 10.0", "fp16", f"{_COMFY} (2024), rounded to one digit"
    ),
    Published("H100", "9.0", 2.79, "TensorRT 10.8", "fp16", f"{_COMFY} (commit 04a88e4)"),
    Published(
        "Tesla P40", "6.1", 0.2, "PyTorch", "", "github.com/XPixelGroup/BasicSR, issue 48 (2019)"
    ),
)


def published_for(compute: str) -> list[Published]:
    """Of the GPUs with a compute capability, such as "6.1"."""
    return [item for item in PUBLISHED if item.compute == compute]
