"""What srtool bears: processes killed at any moment, damaged files, a full disk, large images.

    python tools/torture.py [--minutes 30] [--large] [--only kills,fuzz,zoo,disk,memory]

Prints its figures as Markdown; exits 1 where anything was lost. Kills are drawn at random, with a
seed. Nothing of it needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyvips
import zoo
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
        """Temporary files that lie there."""
        names = [path.name for path in folder.rglob(".srtool-*")]
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


def kills(here: Scene, until: float, share: float) -> list[Kills]:
    def count(number: int) -> int:
        return max(1, round(number * share))

    return [
        kill_infer(here, count(120), until),
        kill_export(here, count(20), until),
        kill_prepare(here, count(20), until),
        kill_train(here, count(20), until),
        kill_evaluate(here, count(20), until),
    ]


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


# Files


def fuzzed(count: int) -> list[tuple[str, bytes]]:
    """Sound files with bytes changed, taken out, doubled or cut off, of every format."""
    dice = np.random.default_rng(0)
    sources = {suffix: zoo.whole(suffix) for suffix in zoo.FORMATS}
    made = []
    for number in range(count):
        suffix = zoo.FORMATS[number % len(zoo.FORMATS)]
        content = bytearray(sources[suffix])
        for _ in range(int(dice.integers(1, 12))):
            # Half of the changes in the head, where files say what they are
            end = len(content) if dice.random() < 0.5 else min(200, len(content))
            at, many = int(dice.integers(0, max(1, end))), int(dice.integers(1, 40))
            kind = dice.integers(0, 5)
            if kind == 0:
                content[at : at + 1] = bytes([int(dice.integers(0, 256))])
            elif kind == 1:
                content[at : at + many] = dice.integers(0, 256, many, np.uint8).tobytes()
            elif kind == 2:
                del content[at : at + many]
            elif kind == 3:
                content[at:at] = content[at : at + many]
            else:
                content[at : at + 4] = b"\xff\xff\xff\xff"
        if dice.random() < 0.2:
            del content[int(dice.integers(1, len(content) + 1)) :]
        made.append((f"{number:05}{suffix}", bytes(content)))
    return made


def fuzz(here: Scene, count: int, until: float) -> tuple[Counter[str], str]:
    """How many became what, and the first thing that went wrong."""
    found: Counter[str] = Counter()
    wrong = ""
    files = fuzzed(count)
    for start in range(0, count, 250):
        if time.monotonic() > until:
            break
        folder, out = here.top / f"fuzz{start}", here.top / f"fuzz{start}-out"
        folder.mkdir()
        for name, content in files[start : start + 250]:
            (folder / name).write_bytes(content)
        ended = command("infer", folder, "-o", out, "--suffix", "_4x", "--engine", here.engine)
        listed = len(list(folder.iterdir()))
        done = [path for path in out.glob("*") if not path.name.startswith(".")]
        found.update(files=listed, upscaled=len(done), refused=listed - len(done))
        if not ended.is_clean:
            wrong = wrong or f"files {start}: ended with {ended.code}: {ended.err.strip()[-300:]}"
        index = (out / ".srtool-index.jsonl").read_text(encoding="utf-8").splitlines()
        if len(index) != listed:
            wrong = wrong or f"files {start}: {listed - len(index)} were never reported"
        for path in done:
            read_image(path)
    return found, wrong


def menagerie(here: Scene) -> tuple[Counter[str], str]:
    """The zoo through the command itself."""
    folder, out = here.top / "zoo", here.top / "zoo-out"
    animals = zoo.fill(folder)
    ended = command("infer", folder, "-o", out, "--suffix", "_4x", "--engine", here.engine)
    made = [path for path in out.iterdir() if not path.name.startswith(".srtool-")]
    found = Counter(kinds=len(animals), upscaled=len(made), refused=len(animals) - len(made))
    wrong = "" if ended.is_clean else ended.err.strip()[-300:]
    if any(ord(letter) < 32 and letter != "\n" for letter in ended.err):
        wrong = wrong or "control characters came through"
    return found, wrong


def full_disk(here: Scene) -> dict[str, str]:
    """Each command with a disk that holds no file beyond 2000 bytes: one line, nothing half."""
    out = here.top / "full"
    weights = here.top / "old.pth"
    compact(weights, 0)
    (here.top / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    commands: dict[str, list[object]] = {
        "infer": ["infer", here.images, "-o", out / "i", "--engine", here.engine],
        "export": ["export", weights, "-o", out / "e" / "x4.onnx", "--images", here.images],
        "train prepare": ["train", "prepare", here.images, "-o", out / "p" / "x.h5"],
        "train": ["train", here.top / "tiny.yaml", "--data", here.images, "-o", out / "t"],
        "evaluate": ["evaluate", here.images, "--engine", "bicubic", "--out", out / "v"],
    }
    found = {}
    for name, arguments in commands.items():
        ended = command(*arguments, file_size=2000)
        lines = [line for line in ended.err.splitlines() if line]
        rest = here.rest(out) if out.exists() else []
        state = f"exit {ended.code}, {lines[-1][:90] if lines else 'no line'}"
        if "Traceback" in ended.err or ended.code <= 0 or rest:
            state = f"FAULT: {state}; {len(rest)} temporary files"
        found[name] = re.sub(r"/\S*/", "", state)
    return found


# Memory

MEASURE = """
import sys, numpy as np
from pathlib import Path
from srtool.runtime.folder import upscale_images
from srtool.runtime.inputs import Job
from srtool.runtime.opening import open_engine
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000
engine = open_engine(sys.argv[1], "onnxruntime")
for _ in range(3):
    engine.upscale_batch(np.zeros((1, 256, 256, 3), np.uint8))
own = peak()
events = list(upscale_images([Job(Path(sys.argv[2]), Path(sys.argv[3]))], engine))
assert [event.kind for event in events] == ["done"], events
print(own, peak() - own)
"""


def memory(here: Scene, large: bool, until: float) -> list[tuple[str, float, float, float]]:
    """(image, MB of the engine alone, MB above that, seconds)."""
    sizes = [(500, 500), (1000, 1000), (2000, 2000), (4500, 4500)]
    sizes += [(12000, 9000)] if large else []
    found: list[tuple[str, float, float, float]] = []
    for width, height in sizes:
        for suffix in (".png", ".tif", ".jpg"):
            if time.monotonic() > until:
                return found
            path = here.top / f"large{suffix}"
            noise = pyvips.Image.gaussnoise(width // 8 + 1, height // 8 + 1, mean=128, sigma=40)
            wide = noise.resize(8).crop(0, 0, width, height).cast("uchar")
            image = wide.bandjoin([wide.rot180(), wide.fliphor()]).copy(interpretation="srgb")
            image.write_to_file(str(path))
            target = here.top / f"made{suffix}"
            target.unlink(missing_ok=True)
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", MEASURE, here.engine, path, target],
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - start
            own, above = map(float, done.stdout.split()) if done.returncode == 0 else (0, -1)
            found.append((f"{width}x{height}{suffix}", own, above, seconds))
            target.unlink(missing_ok=True)
    return found


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--large", action="store_true", help="12000x9000 too: minutes each")
    parser.add_argument("--share", type=float, default=1.0, help="of the kills and fuzzed files")
    parser.add_argument("--only", default="kills,fuzz,zoo,disk,memory")
    asked = parser.parse_args()
    until = time.monotonic() + 60 * asked.minutes
    bad = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        here = scene(Path(folder))
        if "zoo" in asked.only:
            found, wrong = menagerie(here)
            bad += bool(wrong)
            say(f"| zoo | {dict(found)} | {wrong or 'nothing lost'} |")
        if "fuzz" in asked.only:
            found, wrong = fuzz(here, round(2250 * asked.share), until)
            bad += bool(wrong)
            say(f"| fuzzed | {dict(found)} | {wrong or 'nothing lost'} |")
        if "disk" in asked.only:
            for name, state in full_disk(here).items():
                bad += state.startswith("FAULT")
                say(f"| full disk, {name} | {state} | |")
        if "memory" in asked.only:
            for name, own, above, seconds in memory(here, asked.large, until):
                bad += not 0 <= above <= 300
                say(f"| {name} | {own:.0f} MB | +{above:.0f} MB | {seconds:.0f} s |")
        if "kills" in asked.only:
            for each in kills(here, until, asked.share):
                bad += each.faults
                counts = f"{each.killed} killed, {each.completed} completed of {each.runs}"
                say(f"| kills of {each.name} | {counts} | {each.faults} faults {each.first} |")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
