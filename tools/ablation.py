"""Table 2: four networks that were trained with and without a part, on the same data sets.

python tools/ablation.py --data Set14 --data kodak \\
    full=full.safetensors no_gradient_branch=no_gradient.safetensors \\
    no_unet=no_unet.safetensors no_lpips=no_lpips.safetensors
python tools/readme.py docs/research.md

The first command scores them as `srtool evaluate` does, writes results/ablation.json and prints the
table; repeated, it continues. The second puts the table into the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from readme import ABLATION, ablation

from srtool.benchmarks.evaluate import Config, evaluate
from srtool.cli.progress import evaluation_progress
from srtool.errors import UsageError
from srtool.files import whole_file
from srtool.networks.loading import load_network

METRICS = ("niqe", "lpips", "psnr", "ssim_wang")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="ROW=WEIGHTS", help=", ".join(ABLATION))
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="to continue from")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    for argument in chosen.networks:
        row, _, path = argument.partition("=")
        if row not in ABLATION:
            raise UsageError(f"{argument}: expected ROW=WEIGHTS, ROW one of {', '.join(ABLATION)}")
        facts = load_network(path).facts  # a bad file is found before an hour's work
        print(f"{row}: {facts.get('stage', '')} {facts.get('steps', '?')} steps")  # noqa: T201
    with evaluation_progress() as report:
        found = evaluate(chosen.data, chosen.networks, Config(METRICS), chosen.work, report)
    for engine in found.record.engines.values():  # whose folders they lay in is nobody's business
        engine["file"] = Path(engine["file"]).name
        engine.pop("reason", None)
    with whole_file(chosen.results / "ablation.json") as temporary:
        temporary.write_text(found.record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(ablation(chosen.results))  # noqa: T201


if __name__ == "__main__":
    main()
