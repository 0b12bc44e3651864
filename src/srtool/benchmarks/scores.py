"""All metrics of one image. Runs in worker processes, so only what scoring needs is imported."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.assets import asset_path
from srtool.benchmarks.metrics.full_reference import grid, lpips, ssim, ssim_wang, weave
from srtool.benchmarks.metrics.ma import load_ma, ma
from srtool.benchmarks.metrics.niqe import load_niqe, niqe
from srtool.errors import AssetError, SrtoolError, UsageError, in_a_line
from srtool.images.colour import luma, psnr

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Metric:
    """A column of results. `asset`: the file it needs. `of`: the metrics it is made from. lower:
    whether lower is better."""

    name: str
    title: str
    digits: int
    asset: str | None = None
    of: tuple[str, ...] = ()
    lower: bool = False


# In the order of the paper's Table 1; its SSIM is ssim_wang.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("pi", "PI", 4, of=("niqe", "ma"), lower=True),
        Metric("psnr", "PSNR", 3),
        Metric("ssim_wang", "SSIM-Wang", 4),
        Metric("ssim", "SSIM", 4),
        Metric("niqe", "NIQE", 4, asset="niqe", lower=True),
        Metric("ma", "Ma", 4, asset="ma"),
        Metric("lpips", "LPIPS", 4, asset="alexnet", lower=True),
        Metric("lpips_vgg", "LPIPS-VGG", 4, asset="vgg16", lower=True),
        Metric("grid", "Grid", 3, lower=True),
        Metric("weave", "Weave", 3, lower=True),
    )
}
ARTEFACTS = ("grid", "weave")
DEFAULT_METRICS = ("pi", "psnr", "ssim_wang", "ssim", "niqe")


def metrics_from_text(text: str) -> tuple[str, ...]:
    """ "psnr,ma/pi" -> ("psnr", "ma", "pi"); UsageError lists the names there are. "artefacts" is
    short for ARTEFACTS."""
    text = text.replace("/", ",").replace(" ", "").strip(",")
    asked = [ARTEFACTS if name == "artefacts" else (name,) for name in text.split(",")]
    names = tuple(dict.fromkeys(name for part in asked for name in part))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UsageError(
            f"{text}: {unknown[0] or 'an empty name'} is no metric; "
            f"expected some of {','.join(METRICS)}",
            parameter="metrics",
        )
    return names


def with_parts(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics to compute: ("pi",) -> ("niqe", "ma")."""
    return tuple(dict.fromkeys(part for name in metrics for part in METRICS[name].of or (name,)))


def assets_of(metrics: tuple[str, ...]) -> tuple[dict[str, Path], dict[str, str]]:
    """The installed files that metrics need, by asset; and of each metric that lacks something,
    what it lacks and which command installs it."""
    paths: dict[str, Path] = {}
    unavailable: dict[str, str] = {}
    for name in with_parts(metrics):
        asset = METRICS[name].asset
        if asset is None:
            continue
        try:
            paths[asset] = asset_path(asset)
        except AssetError as error:
            unavailable[name] = str(error)
            continue
        if name.startswith("lpips") and not importlib.util.find_spec("lpips"):
            unavailable[name] = "lpips is not installed; run `pip install 'srtool[train]'`"
    for name in metrics:
        reasons = [unavailable[part] for part in METRICS[name].of if part in unavailable]
        if reasons:
            unavailable[name] = "; ".join(reasons)
    return paths, unavailable


def score(
    sr: Image,
    hr: Image,
    border: int,
    metrics: tuple[str, ...],
    y_rounded: bool,
    assets: Mapping[str, Path],
) -> dict[str, float | str]:
    """Score one image: the figure of each metric, or a line that says why there is none.

    sr, hr: (H, W, 3) RGB uint8; `border` pixels are shaved off each side. metrics: any of METRICS
    that is not made of others. y_rounded: whether PSNR and SSIM take Y as whole levels; NIQE and
    Ma always do. assets: the file of each asset that these metrics need.
    """
    inner = slice(border, -border or None)
    sr, hr = sr[inner, inner], hr[inner, inner]
    y_sr, y_hr = luma(sr, y_rounded), luma(hr, y_rounded)
    levels = luma(sr)
    found: dict[str, float | str] = {}
    for metric in metrics:
        asset = METRICS[metric].asset
        try:
            model: Any = _model(metric, assets[asset]) if asset else None
            if metric == "psnr":
                value = psnr(y_sr, y_hr)
            elif metric == "ssim":
                value = ssim(y_sr, y_hr)
            elif metric == "ssim_wang":
                value = ssim_wang(y_sr, y_hr)
            elif metric == "niqe":
                value = niqe(levels, model)
            elif metric == "ma":
                value = ma(levels, model)
            elif metric == "grid":
                value = grid(levels, luma(hr))
            elif metric == "weave":
                value = weave(levels, luma(hr))
            else:
                value = lpips(sr, hr, model)
            found[metric] = f"{metric} is not a number" if math.isnan(value) else value
        except (SrtoolError, MemoryError, RuntimeError) as error:
            found[metric] = in_a_line(error, None)
    return found


@cache
def _model(metric: str, path: Path) -> Any:
    """The trained part of a metric, read once in each process."""
    if metric == "niqe":
        return load_niqe(path)
    if metric == "ma":
        return load_ma(path)
    from srtool.train.perceptual import load_lpips

    return load_lpips(path, "vgg" if metric == "lpips_vgg" else "alex")
