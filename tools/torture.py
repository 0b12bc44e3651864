"""What srtool bears: processes killed at any moment, damaged files, a full disk, large images.

    python tools/torture.py [--minutes 30] [--large] [--only kills,fuzz,zoo,disk,memory]

Prints its figures as Markdown; exits 1 where anything was lost. Kills are drawn at random, with a
seed. Nothing of it needs a GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyvips
import zoo
from kills import KILLS, RECIPE, Scene, command, compact, kills, scene

from srtool.images.reading import read_image

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

SIZES = ((500, 500), (1000, 1000), (2000, 2000), (4500, 4500), (12000, 9000))
MOST = 300  # MB above what the engine holds

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


def memory(here: Scene, size: tuple[int, int], suffix: str) -> tuple[float, float, float]:
    """Of `infer` on one image of that width and height: MB of the engine alone, MB above that,
    seconds. The figures are those of Linux; -1 for the second where it failed."""
    path, target = here.top / f"large{suffix}", here.top / f"made{suffix}"
    width, height = size
    noise = pyvips.Image.gaussnoise(width // 8 + 1, height // 8 + 1, mean=128, sigma=40)
    wide = noise.resize(8).crop(0, 0, width, height).cast("uchar")
    image = wide.bandjoin([wide.rot180(), wide.fliphor()]).copy(interpretation="srgb")
    image.write_to_file(str(path))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, here.engine, path, target],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - start
    own, above = map(float, done.stdout.split()) if done.returncode == 0 else (0, -1)
    target.unlink(missing_ok=True)
    path.unlink()
    return own, above, seconds


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--large", action="store_true", help="12000x9000 too: minutes each")
    parser.add_argument("--share", type=float, default=1.0, help="of the kills and fuzzed files")
    parser.add_argument(
        "--only",
        default="kills,fuzz,zoo,disk,memory",
        help=f"comma-separated; in place of kills also one of {', '.join(KILLS)}",
    )
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
            for size in SIZES if asked.large else SIZES[:-1]:
                for suffix in (".png", ".tif", ".jpg"):
                    own, above, seconds = memory(here, size, suffix)
                    bad += not 0 <= above <= MOST
                    name = f"{size[0]}x{size[1]}{suffix}"
                    say(f"| {name} | {own:.0f} MB | +{above:.0f} MB | {seconds:.0f} s |")
        for each in kills(here, asked.only.split(","), until, asked.share):
            bad += each.faults
            counts = f"{each.killed} killed, {each.completed} completed of {each.runs}"
            say(f"| kills of {each.name} | {counts} | {each.faults} faults {each.first} |")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
