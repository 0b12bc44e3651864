"""Fixtures for all tests: shared material, tiny networks, small photographs, error lines, and a
browser."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import SrtoolError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from srtool.networks.generator import GeneratorConfig
    from srtool.train.recipe import Recipe

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A shell has what runs in its background ignore Ctrl-C, and so would every program started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

Complains = Callable[..., AbstractContextManager[None]]
WritePng = Callable[[Path, NDArray[Any]], Path]


@dataclass(frozen=True)
class Result:
    """What a command ended with, and printed."""

    code: Any
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line]

    @property
    def complaint(self) -> str:
        """The one line of the error that ends the command."""
        lines = [line for line in self.err.splitlines() if line.startswith("srtool: ")]
        assert len(lines) == 1, self.err
        assert self.err.endswith(f"{lines[0]}\n")
        return lines[0]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Result]:
    """Run a command of srtool in this process, in an empty folder, with no assets."""
    from srtool.cli import main as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "assets"))

    def command(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["srtool", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        result = Result(caught.value.code or 0, *capsys.readouterr())
        assert "Traceback" not in result.out + result.err
        return result

    return command


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party images and weights beside the checkout; the project ships none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder} is not here: this test needs its images or weights")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> GeneratorConfig:
    """A generator of a few thousand parameters; the block after the last tap feeds no tap."""
    from srtool.networks.generator import GeneratorConfig

    return GeneratorConfig(
        features=6,
        growth=3,
        blocks=3,
        taps=(1, 2),
        gradient_features=4,
        gradient_growth=2,
        hr_features=4,
        fusion_growth=2,
    )


@pytest.fixture
def tiny_recipe(tiny_config: GeneratorConfig) -> Recipe:
    """Six steps with `tiny_config`, the average of the weights included."""
    from srtool.train.recipe import PretrainStage, Recipe

    stage = PretrainStage(
        steps=6,
        batch=2,
        patch=16,
        learning_rate=1e-3,
        decay="halving",
        halve_every=2,
        ema=0.9,
        augment=None,
    )
    return Recipe(generator=tiny_config, stage1=stage)


@pytest.fixture
def tiny_gan_recipe(tiny_recipe: Recipe) -> Recipe:
    """`tiny_recipe`, and six steps of stage 2 with every term that needs no download."""
    from srtool.train.discriminators import DiscriminatorConfig, GradientDiscriminatorConfig
    from srtool.train.recipe import AdversarialStage, CutMix, LossWeights

    stage = AdversarialStage(
        steps=6,
        batch=2,
        patch=32,
        learning_rate=1e-3,
        halve_at=(2, 4),
        ema=0.9,
        weights=LossWeights(lpips=0),
        cutmix=CutMix(ramp=1),
        discriminator=DiscriminatorConfig(features=2),
        gradient_discriminator=GradientDiscriminatorConfig(features=2),
    )
    return tiny_recipe.model_copy(update={"stage2": stage})


@pytest.fixture
def write_png() -> WritePng:
    """Write an array as an image file, named by suffix: uint8 or uint16; (H, W) or (H, W, C)."""
    import pyvips

    def write(path: Path, pixels: NDArray[Any]) -> Path:
        gray = pixels.ndim == 2 or pixels.shape[2] < 3
        space = ("b-w" if gray else "srgb") if pixels.dtype == np.uint8 else None
        space = space or ("grey16" if gray else "rgb16")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
        image.copy(interpretation=space).write_to_file(str(path))
        return path

    return write


def photograph(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Smooth shading, sharp edges and a little grain, (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = 128 + random.normal(0, 3, (height, width, 3))
    for _ in range(6):
        wave = np.sin(random.uniform(-0.3, 0.3) * y + random.uniform(-0.3, 0.3) * x + seed)
        image += random.uniform(-25, 25, 3) * wave[..., None]
    for _ in range(4):
        distance = np.hypot(y - random.uniform(0, height), x - random.uniform(0, width))
        image[distance < random.uniform(4, 16)] += random.uniform(-60, 60, 3)
    return image.round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def photographs(tmp_path: Path, write_png: WritePng) -> Path:
    """A folder with three small photographs; the sides of one are no multiples of 4."""
    folder = tmp_path / "photographs"
    for seed, (height, width) in enumerate([(48, 64), (61, 47), (64, 40)]):
        write_png(folder / f"{seed}.png", photograph(height, width, seed))
    return folder


@pytest.fixture(scope="session")
def compact_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny x4 network of the kind spandrel calls Compact: convolutions, PReLU, image skip."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(8), nn.Conv2d(8, 48, 3)]
    path = tmp_path_factory.mktemp("compact") / "compact.pth"
    state = nn.ModuleDict({"body": nn.Sequential(*layers)}).state_dict()
    torch.save({"params": {name: value / 2 for name, value in state.items()}}, path)
    return path


@pytest.fixture(scope="session")
def overflowing_weights(compact_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same function as `compact_weights`, but the values between its first convolution and
    the second are far beyond what float16 holds."""
    import torch

    state = torch.load(compact_weights, weights_only=True)["params"]
    for name, factor in (("body.0.weight", 5e5), ("body.0.bias", 5e5), ("body.2.weight", 2e-6)):
        state[name] = state[name] * factor
    path = tmp_path_factory.mktemp("overflowing") / "overflowing.pth"
    torch.save({"params": state}, path)
    return path


@pytest.fixture(scope="session")
def hr_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two HR images to certify with: small, so that it takes no time."""
    import pyvips

    folder = tmp_path_factory.mktemp("HR")
    for seed, (height, width) in enumerate([(64, 96), (77, 63)]):
        image = pyvips.Image.new_from_array(photograph(height, width, seed))
        image.copy(interpretation="srgb").write_to_file(str(folder / f"{seed}.png"))
    return folder


@pytest.fixture(scope="session")
def compact_export(
    compact_weights: Path, hr_images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of `compact_weights` exported: x4.onnx, its float32 companion, manifests.
    Not to be changed by tests."""
    from srtool.export import onnx
    from srtool.networks.loading import load_network

    folder = tmp_path_factory.mktemp("export")
    config = onnx.ExportConfig(images=hr_images)
    onnx.export(load_network(compact_weights), folder / "x4.onnx", config)
    return folder


@pytest.fixture
def compact_engine(compact_export: Path, tmp_path: Path) -> Path:
    """A copy of the exported x4.onnx and all that belongs to it."""
    return shutil.copytree(compact_export, tmp_path / "engine") / "x4.onnx"


@pytest.fixture
def complains() -> Complains:
    """`with complains(DataError, path, "word"):` the block must raise that error, in one line that
    holds all the words."""

    @contextmanager
    def check(kind: type[Exception], *words: object) -> Iterator[None]:
        with pytest.raises(kind) as caught:
            yield
        from srtool.cli.console import line_of

        error = caught.value
        line = line_of(error) if isinstance(error, SrtoolError) else str(error)
        assert "\n" not in line
        assert [word for word in words if str(word) not in line] == [], line

    return check


def _lacking(what: str) -> None:
    if os.environ.get("SRTOOL_NEEDS_BROWSER"):
        pytest.fail(f"{what}, and SRTOOL_NEEDS_BROWSER is set")
    pytest.skip(f"{what}: this test looks at a page in a browser")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser. Skips where playwright or a browser is missing, unless SRTOOL_NEEDS_BROWSER
    says that there must be one."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _lacking("playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        _lacking(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        launched = playwright.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()
