"""`srtool export` of what others made: .onnx files, weights outside of them, one's own classes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from srtool.images.reading import read_rgb
from srtool.manifest import read_manifest
from srtool.runtime.opening import open_engine

Run = Callable[..., Any]
SAMPLES = Path(__file__).resolve().parents[2] / "src" / "srtool" / "samples"
PLAN = ("--flavour", "tensorrt-rtx", "--gpu", "sm89")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An upscaler x2 of another tool: nearest neighbour and a little more, in a batch of one, with
    names of its own and its weights in a file beside it."""
    (tmp_path / "elsewhere").mkdir()
    return save(tmp_path / "elsewhere" / "foreign.onnx", 0.02)


def save(path: Path, strength: float) -> Path:
    """Write it, and weights.bin beside."""
    (path.parent / "weights.bin").unlink(missing_ok=True)  # onnx would add to it
    model = upscaler(strength)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=99)
    assert (path.parent / "weights.bin").is_file()
    return path


def upscaler(strength: float) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    first = random.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)
    last = random.normal(0, strength, (12, 8, 3, 3)).astype(np.float32)
    constants = {"w1": first, "w2": last, "scales": np.asarray([1, 1, 2, 2], np.float32)}
    nodes = [
        helper.make_node("Conv", ["lq", "w1"], ["features"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["features"], ["active"], "relu"),
        helper.make_node("Conv", ["active", "w2"], ["planes"], "last", pads=[1] * 4),
        helper.make_node(
            "DepthToSpace", ["planes"], ["change"], "shuffle", blocksize=2, mode="CRD"
        ),
        helper.make_node("Resize", ["lq", "", "scales"], ["large"], "resize", mode="nearest"),
        helper.make_node("Add", ["large", "change"], ["hq"], "add"),
    ]
    graph = helper.make_graph(
        nodes,
        "upscaler",
        [helper.make_tensor_value_info("lq", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("hq", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def photograph() -> Any:
    return read_rgb(SAMPLES / "LRx4" / "astronaut.png")[20:81, 30:77]


def test_a_foreign_file_is_certified(run: Run, foreign: Path) -> None:
    expected = open_engine(foreign, "onnxruntime").upscale(photograph())
    result = run("export", foreign, "--precision", "both")
    assert result.code == 0
    assert {path.name for path in foreign.parent.glob("*.onnx")} == {
        "foreign.onnx", "foreign.srtool.onnx", "foreign.srtool.fp16.onnx"
    }  # fmt: skip
    single = foreign.with_name("foreign.srtool.onnx")
    (foreign.parent / "weights.bin").unlink()  # what was written needs it no longer
    manifest = read_manifest(single)
    assert manifest is not None
    assert manifest.fidelity["onnxruntime fp32"].grade == "exact"
    assert (manifest.model.scale, manifest.model.batch, manifest.model.input_name) == (2, 1, "lq")
    for path, levels in ((single, 0), (foreign.with_name("foreign.srtool.fp16.onnx"), 1)):
        engine = open_engine(path, "onnxruntime")
        assert not engine.uncertified_reason
        gap = engine.upscale(photograph()).astype(int) - expected
        assert abs(gap).max() <= levels
        batch = np.stack([photograph(), photograph()[::-1]])  # of a network that takes one
        assert np.array_equal(engine.upscale_batch(batch)[0], engine.upscale_batch(batch[:1])[0])


@pytest.mark.parametrize(
    "options",
    [
        ("--io", "float32"),
        ("--network", "a.py:B"),
        ("--args", "depth=2"),
        ("--images", SAMPLES, *PLAN),  # a plan of the file as it is
    ],
    ids=lambda options: options[0],
)
def test_what_is_for_weights_is_not_passed_over(
    run: Run, foreign: Path, options: tuple[Any, ...]
) -> None:
    result = run("export", foreign, *options)
    assert result.code == 2
    assert str(foreign) in result.complaint
    assert options[0] in result.complaint
    assert [path.name for path in foreign.parent.glob("foreign*")] == ["foreign.onnx"]


def test_weights_that_are_not_there(run: Run, foreign: Path) -> None:
    (foreign.parent / "weights.bin").unlink()
    result = run("export", foreign)
    assert result.code == 2
    assert "weights.bin" in result.complaint
    assert str(foreign) in result.complaint


@pytest.mark.slow
def test_a_plan_of_weights_outside_the_file(run: Run, foreign: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    shapes = ("--shapes", "1x16x16,1x64x64,1x64x64")
    plan = foreign.with_suffix(".plan")
    keys = []
    for strength in (0.02, 0.02, 0.03):
        content = foreign.read_bytes()
        assert save(foreign, strength).read_bytes() == content
        result = run("export", foreign, "-o", plan, *PLAN, *shapes)
        assert result.code == 0, result.err
        manifest = read_manifest(plan)
        assert manifest is not None
        assert manifest.plan is not None
        keys.append((manifest.plan.key, manifest.made))
    assert keys[0] == keys[1]  # it was up to date
    assert keys[2] != keys[0]  # the file is the same, its weights are not


@pytest.mark.slow
def test_a_plan_for_one_image_at_once(run: Run, foreign: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", exc_type=ImportError)
    result = run("export", foreign, "-o", "x2.plan", *PLAN, "--shapes", "1x16x16,2x64x64,4x64x64")
    assert result.code == 2
    assert "one image at once" in result.complaint
    assert run("export", foreign, "-o", "x2.plan", *PLAN).code == 0
    manifest = read_manifest(Path("x2.plan"))
    assert manifest is not None
    assert manifest.plan is not None
    assert {profile.max[0] for profile in manifest.plan.recipe.profiles} == {1}


OWN = '''
"""Information multi-distillation, small: each block keeps a quarter of what it makes."""
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, nf):
        super().__init__()
        self.first = nn.Conv2d(nf, nf, 3, padding=1)
        self.second = nn.Conv2d(nf - nf // 4, nf - nf // 4, 3, padding=1)
        self.join = nn.Conv2d(nf, nf, 1)
        self.act = nn.LeakyReLU(0.05)
    def forward(self, x):
        kept, rest = torch.split(self.act(self.first(x)), (x.shape[1] // 4, x.shape[1] - x.shape[1] // 4), 1)
        return x + self.join(torch.cat((kept, self.act(self.second(rest))), 1))

class IMDN(nn.Module):
    def __init__(self, nf=16, num_modules=6, upscale=4):
        super().__init__()
        self.head = nn.Conv2d(3, nf, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(nf) for _ in range(num_modules)))
        self.tail = nn.Sequential(nn.Conv2d(nf, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))
    def forward(self, x):
        start = self.head(x)
        return self.tail(start + self.blocks(start))
'''  # noqa: E501


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Weights of a network that nobody knows, in the folder of the commands."""
    (tmp_path / "my_model.py").write_text(OWN)
    scope: dict[str, Any] = {}
    exec(OWN, scope)
    torch.manual_seed(0)
    model: nn.Module = scope["IMDN"](num_modules=2)
    torch.save({"params": model.state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_network_that_nobody_knows(run: Run, own: Path, hr_images: Path) -> None:
    result = run(
        "export", "weights.pth", "--network", "my_model.py:IMDN", "--args", "num_modules=2",
        "--images", hr_images,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert any("my_model.py was run" in line for line in result.lines)
    manifest = read_manifest(own.with_suffix(".onnx"))
    assert manifest is not None
    facts = manifest.model
    assert (facts.architecture, facts.scale, facts.exporter) == ("IMDN", 4, "dynamo")
    assert facts.training == {"own": "my_model.py:IMDN", "arguments": {"num_modules": 2}}
    assert {found.grade for found in manifest.fidelity.values()} <= {"exact", "faithful"}
    shutil.copy(SAMPLES / "LRx4" / "astronaut.png", "a.png")
    assert run("infer", "a.png", "--engine", "weights.onnx", "-o", "out").code == 0
    assert read_rgb(Path("out/a.png")).shape[0] == 4 * read_rgb(Path("a.png")).shape[0]


def test_weights_of_a_network_that_nobody_knows(run: Run, own: Path) -> None:
    result = run("export", "weights.pth")
    assert result.code == 2
    assert "weights.pth" in result.complaint
    assert "--network" in result.complaint  # one way out ...
    assert "ONNX" in result.complaint  # ... and the other
    other = run("export", "weights.pth", "--network", "my_model.py:IMDN")
    assert other.code == 2
    assert "does not fit IMDN" in other.complaint
