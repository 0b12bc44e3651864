"""Processes killed at any moment: what is left must be whole, and the same command goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from srtool.errors import SrtoolError
from srtool.images.picture import Picture
from srtool.images.reading import read_image
from srtool.images.writing import write_image

MARK = "SRTOOL_TORTURE"  # in the environment of every process that is started here
LIMIT = 120.0  # seconds that any command may take
CODE = "from srtool.cli.main import main; main()"


@dataclass
class Ended:
    """How a command ended. code: negative for a signal."""

    code: int
    err: str
    seconds: float

    @property
    def is_clean(self) -> bool:
        return self.code in (0, 1, 2) and "Traceback" not in self.err


def command(
    *arguments: object,
    kill_after: float | None = None,
    with_signal: int = signal.SIGKILL,
    file_size: int | None = None,
) -> Ended:
    """Run srtool; kill it after so many seconds; let it write no file beyond a size."""

    def limit() -> None:
        import resource

        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, MARK: str(os.getpid())},
        preexec_fn=limit,
    )
    try:
        _, err = process.communicate(timeout=LIMIT if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(with_signal)
        try:
            # Workers hold the pipe open as long as they live
            _, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            err = "hangs"
    return Ended(process.returncode or 0, err, time.monotonic() - start)


def orphans() -> list[int]:
    """Processes of ours whose parent is gone, five seconds later."""
    mark = f"{MARK}={os.getpid()}".encode()
    for _ in range(10):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark in environment and state != "Z" and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        if not found:
            break
        time.sleep(0.5)
    return found


@dataclass
class Scene:
    """A folder with what the commands need."""

    top: Path
    engine: Path
    images: Path

    def rest(self, folder: Path) -> list[str]:
        """Temporary files that lie there; what locks are taken on stays."""
        names = [path.name for path in folder.rglob(".srtool-*") if path.suffix != ".lock"]
        return [name for name in names if not name.startswith(".srtool-index")]


def photograph(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    waves = np.sin(0.1 * x + seed) + np.cos(0.07 * y)
    return np.asarray((128 + 40 * waves[..., None] + noise).clip(0, 255), np.uint8)


def scene(top: Path) -> Scene:
    images = top / "images"
    images.mkdir(parents=True)
    for number in range(24):
        write_image(images / f"{number:02}.png", Picture(photograph(96, 128, number)))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "4h", "4w"])
    scales = helper.make_tensor("s", TensorProto.FLOAT, [4], [1.0, 1.0, 4.0, 4.0])
    options = {"mode": "nearest", "nearest_mode": "floor"}
    node = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", **options
    )
    graph = helper.make_graph([node], "nearest", [given], [made], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, top / "nearest.onnx")
    return Scene(top, top / "nearest.onnx", images)


# Kills


@dataclass
class Kills:
    """killed: of how many runs. faults: what was wrong afterwards, in words."""

    name: str
    runs: int = 0
    killed: int = 0
    completed: int = 0
    faults: int = 0
    first: str = ""

    def fault(self, text: str) -> None:
        self.faults += 1
        self.first = self.first or text


def kill(
    name: str,
    count: int,
    arguments: list[object],
    check: Callable[[], str],
    reset: Callable[[], None],
    until: float,
) -> Kills:
    """Kill a command at random moments; after each, `check` says what is wrong with what lies
    there, "" for nothing. The same command then goes on from there until it is through."""
    result = Kills(name)
    for _ in range(2):  # the second one finds everything in the system's cache
        reset()
        whole = command(*arguments)
    if whole.code != 0:
        result.fault(f"does not even run: {whole.err.strip()[-300:]}")
        return result
    dice = random.Random(name)
    reset()
    while result.killed < count and time.monotonic() < until:
        by = signal.SIGKILL if dice.random() < 0.7 else signal.SIGTERM
        after = whole.seconds * dice.uniform(0.15, 1.05)
        ended = command(*arguments, kill_after=after, with_signal=by)
        result.runs += 1
        if ended.code in (-signal.SIGKILL, -signal.SIGTERM, 143):
            result.killed += 1
        elif ended.code == 0:
            result.completed += 1
        if "Traceback" in ended.err or ended.code not in (0, -9, -15, 143):
            result.fault(f"ended with {ended.code}: {ended.err.strip()[-200:]}")
        if wrong := check():
            result.fault(wrong)
        if left := orphans():
            result.fault(f"{len(left)} processes were left")
            for process in left:
                os.kill(process, signal.SIGKILL)
        if ended.code == 0:
            reset()
    ended = command(*arguments)
    if ended.code != 0:
        result.fault(f"cannot be completed: {ended.err.strip()[-300:]}")
    elif wrong := check():
        result.fault(f"completed, and {wrong}")
    return result


def kills(here: Scene, names: list[str], until: float, share: float) -> Iterator[Kills]:
    for name, (kill_it, count) in KILLS.items():
        if "kills" in names or name in names:
            yield kill_it(here, max(1, round(count * share)), until)


def emptied(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def kill_infer(here: Scene, count: int, until: float) -> Kills:
    out = here.top / "upscaled"

    def check() -> str:
        for path in out.glob("[0-9]*"):
            made = read_image(path).pixels
            if not np.array_equal(made[::4, ::4], read_image(here.images / path.name).pixels):
                return f"{path.name} is not what it should be"
        return ""

    arguments = ["infer", here.images, "-o", out, "--engine", here.engine]
    arguments += ["--backend", "onnxruntime"]
    found = kill("infer", count, arguments, check, lambda: emptied(out), until)
    if rest := here.rest(out):
        found.fault(f"{len(rest)} temporary files are left")
    return found


def compact(path: Path, seed: int) -> None:
    """A tiny network of the kind spandrel calls Compact."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Conv2d(8, 48, 3)]
    state = nn.ModuleDict({"body": nn.Sequential(*layers)}).state_dict()
    torch.save({"params": {name: value / 2 for name, value in state.items()}}, path)


def kill_export(here: Scene, count: int, until: float) -> Kills:
    """Over a set of files of other weights: what lies there must be the old set or the new one."""
    from srtool.manifest import read_manifest

    old, new, out = here.top / "old.pth", here.top / "new.pth", here.top / "export" / "x4.onnx"
    compact(old, 0)
    compact(new, 1)
    hr = here.top / "HR"
    hr.mkdir()
    write_image(hr / "a.png", Picture(photograph(96, 96, 0)))

    def weights() -> set[str]:
        files = out.parent.glob("*.onnx")
        manifests = (read_manifest(path) for path in files if not path.name.startswith("."))
        return {found.model.weights_sha256 if found else "none" for found in manifests}

    def reset() -> None:
        ended = command("export", old, "-o", out, "--images", hr)
        if ended.code:
            raise SystemExit(f"export: {ended.err}")

    def check() -> str:
        try:
            found = weights()
        except SrtoolError as error:
            return f"file and manifest do not belong together: {error}"
        return "" if len(found) == 1 else f"files of {len(found)} networks lie side by side"

    arguments = ["export", new, "-o", out, "--images", hr]
    found = kill("export", count, arguments, check, reset, until)
    if rest := here.rest(out.parent):
        found.fault(f"{len(rest)} temporary files are left")
    return found


def kill_prepare(here: Scene, count: int, until: float) -> Kills:
    from srtool.train.data.packed import open_packed

    out = here.top / "packed" / "train.h5"

    def check() -> str:
        if not out.exists():
            return ""
        try:
            return "" if len(open_packed(out).photographs) == 24 else "photographs are missing"
        except SrtoolError as error:
            return str(error)

    arguments = ["train", "prepare", here.images, "-o", out, "--overwrite"]
    return kill("train prepare", count, arguments, check, lambda: emptied(out.parent), until)


RECIPE = """
generator: {features: 6, growth: 3, blocks: 3, taps: [1, 2], gradient_features: 4,
  gradient_growth: 2, hr_features: 4, fusion_growth: 2}
stage1: {steps: 40, batch: 2, patch: 16, learning_rate: 1.0e-3, halve_every: 20}
save_every: 5
"""


def kill_train(here: Scene, count: int, until: float) -> Kills:
    recipe, out = here.top / "tiny.yaml", here.top / "run"
    recipe.write_text(RECIPE, encoding="utf-8")

    def check() -> str:
        from srtool.networks.loading import load_network

        for path in out.rglob("*.safetensors"):
            if path.name.startswith("."):
                continue
            try:
                load_network(path)
            except SrtoolError as error:
                return str(error)
        return ""

    arguments = ["train", recipe, "--data", here.images, "-o", out]
    return kill("train", count, arguments, check, lambda: emptied(out), until)


def kill_evaluate(here: Scene, count: int, until: float) -> Kills:
    out = here.top / "evaluation"

    def check() -> str:
        path = out / "evaluation.json"
        if path.exists():
            json.loads(path.read_text(encoding="utf-8"))
        return ""

    arguments = ["evaluate", here.images, "--engine", "bicubic", "--metrics", "psnr,ssim"]
    arguments += ["--out", out]
    return kill("evaluate", count, arguments, check, lambda: emptied(out), until)


KILLS = {
    "infer": (kill_infer, 120),
    "export": (kill_export, 20),
    "prepare": (kill_prepare, 20),
    "train": (kill_train, 20),
    "evaluate": (kill_evaluate, 20),
}
