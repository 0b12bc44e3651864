"""Table 2: four networks that were trained with and without a part, on the same data sets.

python tools/ablation.py --data Set14 --data kodak \\
    full.safetensors no_gradient_branch.safetensors no_unet.safetensors no_lpips.safetensors
python tools/readme.py docs/research.md

The first command scores them as `srtool evaluate` does, writes results/ablation.json and prints the
table; repeated, it continues. The second puts the table into the page. A file that is not called as
its row is given as ROW=FILE.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from readme import ABLATION, ablation

from srtool.benchmarks.evaluate import Config, evaluate
from srtool.cli.evaluate import evaluation_progress
from srtool.errors import UsageError
from srtool.files import whole_file
from srtool.networks.loading import load_network

METRICS = ("niqe", "lpips", "psnr", "ssim_wang")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="WEIGHTS", help=", ".join(ABLATION))
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="to continue from")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    networks = {}
    for argument in chosen.networks:
        row, _, path = argument.rpartition("=")
        row = row or Path(path).stem
        if row not in ABLATION:
            raise UsageError(f"{argument}: expected ROW=WEIGHTS, ROW one of {', '.join(ABLATION)}")
        networks[row] = path
        steps = load_network(path).facts.get("steps", "?")  # a bad file is found before the work
        print(f"{row}: {steps} steps")  # noqa: T201
    engines = [f"{row}={path}" for row, path in networks.items()]
    with evaluation_progress() as report:
        found = evaluate(chosen.data, engines, Config(METRICS), chosen.work, report)
    for engine in found.record.engines.values():  # whose folders they lay in is nobody's business
        engine["file"] = Path(engine["file"]).name
        engine.pop("reason", None)
    with whole_file(chosen.results / "ablation.json") as temporary:
        temporary.write_text(found.record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(ablation(chosen.results))  # noqa: T201


if __name__ == "__main__":
    main()
