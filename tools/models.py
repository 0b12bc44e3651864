"""The networks in the wheel, made from weights/: src/srtool/models.

    python tools/models.py

Each of NETWORKS is exported, certified on the sample photographs, and described by a card with
its figures from results/. The float32 companion for 16-bit images takes its weights out of the
file beside it (ONNX' external data): the wheel holds them once.

To ship another network, put its weights into weights/, its evaluation into results/, name it in
NETWORKS and run `make models` again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srtool.benchmarks.evaluation import Evaluation
from srtool.export.flops import cost_from_file
from srtool.export.onnx import export
from srtool.files import sha256, whole_file
from srtool.manifest import read_manifest, write_manifest
from srtool.models import CARDS, FOLDER, Card
from srtool.networks.loading import load_network

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ("Set5", "Set14")
METRICS = ("psnr", "ssim_wang", "niqe", "lpips", "lpips_vgg")


@dataclass(frozen=True)
class Shipped:
    """A network in the wheel: weights/NAME.safetensors. evaluation: a file in results/, and the
    name of the network's column there."""

    name: str
    summary: str
    evaluation: str
    column: str


# The first is the default of `--engine`.
NETWORKS = (
    Shipped(
        "x4-fast-balanced",
        "sharp, with texture and little that is invented",
        "quality-balanced.json",
        "x4-fast-balanced",
    ),
    Shipped(
        "x4-fast",
        "clean edges and lines, smooth texture; nothing is invented",
        "quality-set5-set14.json",
        "x4-fast",
    ),
    Shipped(
        "x4-fast-perceptual",
        "fine texture and sharper detail, some of it invented",
        "quality-set5-set14.json",
        "x4-fast-perceptual",
    ),
)


def card_from_shipped(shipped: Shipped, engine: Path) -> Card:
    """The card of an exported network."""
    cost = cost_from_file(engine)
    found = Evaluation.model_validate_json(
        (ROOT / "results" / shipped.evaluation).read_text(encoding="utf-8")
    )
    figures = {}
    for dataset in DATASETS:
        means = found.mean[dataset][shipped.column]
        figures[dataset] = {
            metric: round(value, 4)
            for metric in METRICS
            if (value := means.get(metric)) is not None
        }
    return Card(
        name=shipped.name,
        summary=shipped.summary,
        scale=4,
        parameters=cost.parameters,
        mflop=round(cost.flops / 1e6, 2),
        licence="MIT",
        figures=figures,
    )


def share_weights(companion: Path, engine: Path) -> None:
    """Rewrite a companion so that its large weights are those in the engine's file, by offset, and
    its manifest with it. AssertionError where it then computes anything else."""
    import onnx

    before = _trial(companion)
    content, model = engine.read_bytes(), onnx.load(companion)
    for weights in model.graph.initializer:
        offset = content.find(weights.raw_data)
        # ONNX Runtime wants integers, which are shapes, in the file itself.
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.raw_data) > 1024 < offset:
            length = len(weights.raw_data)
            weights.ClearField("raw_data")
            weights.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", engine.name), ("offset", offset), ("length", length)):
                weights.external_data.add(key=key, value=str(value))
    manifest = read_manifest(companion)
    assert manifest is not None
    with whole_file(companion) as temporary:
        temporary.write_bytes(model.SerializeToString())
    write_manifest(companion, manifest.model_copy(update={"sha256": sha256(companion)}))
    assert np.array_equal(_trial(companion), before)


def _trial(companion: Path) -> NDArray[np.float32]:
    """What ONNX Runtime makes of seeded noise."""
    import onnxruntime

    session = onnxruntime.InferenceSession(companion, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).random((1, 3, 40, 48), dtype=np.float32)
    found: NDArray[np.float32] = session.run(None, {"image": noise})[0]
    return found


def main() -> None:
    cards = []
    for shipped in NETWORKS:
        network = load_network(ROOT / "weights" / f"{shipped.name}.safetensors")
        engine = FOLDER / f"{shipped.name}.onnx"
        export(network, engine, report=print)
        share_weights(engine.with_suffix(".float32.onnx"), engine)
        cards.append(card_from_shipped(shipped, engine))
    with whole_file(FOLDER / CARDS) as temporary:
        text = json.dumps([asdict(card) for card in cards], indent=2) + "\n"
        temporary.write_text(text, encoding="utf-8")
    shipped_files = {file for card in cards for file in FOLDER.glob(f"{card.name}.*")}
    for stale in set(FOLDER.glob("*.onnx*")) - shipped_files:
        stale.unlink()


if __name__ == "__main__":
    main()
