"""The networks in the wheel, made from weights/: src/srtool/models.

    python tools/models.py

Each of NETWORKS is exported, certified on the sample photographs, and described by a card with
its figures from results/. To ship another network, put its weights into weights/, its evaluation
into results/, name it in NETWORKS and run `make models` again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from srtool.benchmarks.evaluation import Evaluation
from srtool.export import onnx
from srtool.export.flops import cost_from_file
from srtool.files import whole_file
from srtool.models import CARDS, FOLDER, Card
from srtool.networks.loading import load_network

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ("Set5", "Set14")
METRICS = ("psnr", "ssim_wang", "niqe", "lpips")


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
        "x4-lite",
        "clean edges and lines, smooth texture; nothing is invented",
        "quality-set5-set14.json",
        "lite-torch",
    ),
    Shipped(
        "x4-lite-perceptual",
        "fine texture and sharper detail, some of it invented",
        "quality-set5-set14.json",
        "perceptual-torch",
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


def main() -> None:
    cards = []
    for shipped in NETWORKS:
        network = load_network(ROOT / "weights" / f"{shipped.name}.safetensors")
        engine = FOLDER / f"{shipped.name}.onnx"
        onnx.export(network, engine, report=print)
        cards.append(card_from_shipped(shipped, engine))
    with whole_file(FOLDER / CARDS) as temporary:
        text = json.dumps([asdict(card) for card in cards], indent=2) + "\n"
        temporary.write_text(text, encoding="utf-8")
    shipped_files = {file for card in cards for file in FOLDER.glob(f"{card.name}.*")}
    for stale in set(FOLDER.glob("*.onnx*")) - shipped_files:
        stale.unlink()


if __name__ == "__main__":
    main()
