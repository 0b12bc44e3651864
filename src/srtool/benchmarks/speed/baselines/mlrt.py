"""vs-mlrt: the plugins of VapourSynth that people upscale videos with, on the plain ONNX file."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.speed.baselines.plain_onnx import write_plain_onnx
from srtool.benchmarks.speed.opened import (
    Opened,
    levels_from_planes,
    missing,
    planes_from_levels,
)
from srtool.errors import in_a_line

Plugin = Literal["ov", "ort"]

BF16 = {"avx512_bf16", "amx_bf16"}  # with these, OpenVINO takes bfloat16 by itself
_MODEL: dict[Plugin, dict[str, str]] = {"ov": {"device": "CPU"}, "ort": {"provider": "CPU"}}


def prepare_mlrt(plugin: Plugin, weights: Path, folder: Path) -> Path:
    """The ONNX file, once it is known that the plugin is installed; EngineError else."""
    if not find_spec("vapoursynth"):
        raise missing("VapourSynth (Python 3.12 or later)", "baselines")
    _model(plugin)
    return write_plain_onnx(weights, folder)


def open_mlrt(plugin: Plugin, weights: Path, folder: Path) -> Opened:
    """A clip of one frame through the network, as whole images; the plugin's own defaults."""
    from srtool.system import instructions

    path = prepare_mlrt(plugin, weights, folder)
    vapoursynth: Any = import_module("vapoursynth")
    model, standard = _model(plugin), vapoursynth.core.std
    clips: dict[tuple[int, int], Any] = {}
    shown: list[NDArray[np.float32]] = []  # the planes of the frame that is asked for

    def clip_of(height: int, width: int) -> Any:
        """The network on frames of a size, kept: opening it takes longer than a frame."""
        blank = standard.BlankClip(
            width=width, height=height, format=vapoursynth.RGBS, length=1 << 20
        )

        def filled(n: int, f: Any) -> Any:
            frame = f.copy()
            for channel, plane in enumerate(shown[0]):
                np.copyto(np.asarray(frame[channel]), plane)
            return frame

        source = standard.ModifyFrame(blank, blank, filled)
        return model(source, str(path), **_MODEL[plugin])

    asked = 0  # frames are cached by number: each image gets another

    def upscale(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        nonlocal asked
        height, width = pixels.shape[1:3]
        made = []
        try:
            if (height, width) not in clips:
                clips[height, width] = clip_of(height, width)
            for planes in planes_from_levels(pixels):
                shown[:] = [planes]
                asked += 1
                with clips[height, width].get_frame(asked) as frame:
                    made.append(np.stack([np.asarray(frame[channel]) for channel in range(3)]))
        except vapoursynth.Error as error:
            raise RuntimeError(in_a_line(error)) from None
        return levels_from_planes(np.stack(made))

    versions = [_version(f"vapoursynth-mlrt-{plugin}"), _version("vapoursynth")]
    precision = "bf16" if plugin == "ov" and BF16 & set(instructions()) else "fp32"
    return Opened(upscale, f"vs-mlrt {versions[0]}, VapourSynth {versions[1]}", precision)


def _model(plugin: Plugin) -> Any:
    """Its filter; EngineError where it is not installed."""
    vapoursynth: Any = import_module("vapoursynth")
    found = getattr(vapoursynth.core, plugin, None)
    if found is None:
        raise missing(f"vapoursynth-mlrt-{plugin}", "baselines")
    return found.Model


def _version(package: str) -> str:
    return metadata.version(package).removeprefix("v")
