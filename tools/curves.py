"""Training curves as one small picture, from TensorBoard's files.

python tools/curves.py docs/training.png runs/lite/tensorboard/stage1 ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMOOTHED = 50  # steps

Curves = dict[str, tuple[list[int], list[float]]]


def curves(folder: Path) -> Curves:
    """Every scalar of a run, by name: its steps and values. Steps that a continued run has done
    again count once, the last time."""
    found: Curves = {}
    for file in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            points = events.Scalars(name)
            steps, values = found.get(name, ([], []))
            kept = [n for n, step in enumerate(steps) if step < points[0].step]
            found[name] = (
                [*(steps[n] for n in kept), *(point.step for point in points)],
                [*(values[n] for n in kept), *(point.value for point in points)],
            )
    return found


def draw(runs: dict[str, Curves], out: Path) -> None:
    """One row a run: the losses, smoothed and relative to their first value, and validation."""
    mpl.rcParams.update({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3})
    figure, axes = plt.subplots(len(runs), 2, figsize=(9, 2.6 * len(runs)), squeeze=False)
    for (name, found), (left, right) in zip(runs.items(), axes, strict=True):
        for tag, (steps, values) in found.items():
            if tag.startswith("loss/") and tag != "loss/total":
                windows = [values[max(0, n - SMOOTHED) : n + 1] for n in range(0, len(values), 10)]
                means = [sum(window) / len(window) for window in windows]
                left.plot(steps[::10], means, label=tag.removeprefix("loss/"), linewidth=1)
        left.set(title=f"{name}: losses (mean of {SMOOTHED} steps)", xlabel="step", yscale="symlog")
        left.legend(fontsize=6, ncols=2)
        right.plot(*found["validation/psnr_y"], color="tab:blue", marker=".", linewidth=1)
        right.set_ylabel("PSNR-Y, dB", color="tab:blue")
        if "validation/niqe" in found:
            other = right.twinx()
            other.plot(*found["validation/niqe"], color="tab:red", marker=".", linewidth=1)
            other.set_ylabel("NIQE", color="tab:red")
        right.set(title=f"{name}: validation", xlabel="step")
    figure.tight_layout()
    figure.savefig(out, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    draw({Path(folder).name: curves(Path(folder)) for folder in sys.argv[2:]}, Path(sys.argv[1]))
