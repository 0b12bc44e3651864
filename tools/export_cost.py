"""What an export costs beside one plain trace: RRDB-23, three files of one trace.

    python tools/export_cost.py [--blocks 23] [--certified]

Each side in a process of its own: `torch.onnx.export(dynamo=True)` of the network as it is, and
`srtool export --precision both` of the same weights without certification (fp32, its float32
companion, fp16). Prints JSON: seconds of the clock and of all CPUs, and the bars. Importing torch
counts on neither side. --certified: the whole export too, with what certification takes of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CPU, WALL = 1.5, 15.0  # the bars: times the CPU seconds of the plain trace, and seconds more
SIDES = ("plain", "drafts", "certified")


def weights(folder: Path, blocks: int) -> Path:
    """An RRDB network with random weights, 64 features, x4."""
    import torch
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    path = folder / "rrdb.pth"
    torch.save(ESRGAN(num_blocks=blocks).state_dict(), path)
    return path


def plain(network: Any, out: Path) -> None:
    """As the documentation of torch.onnx has it."""
    import torch
    from torch.export import Dim

    free = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    program = torch.onnx.export(
        network.module,
        (torch.rand(2, 3, 24, 40),),
        dynamo=True,
        dynamic_shapes=(free,),
        opset_version=18,
        verbose=False,
    )
    assert program is not None
    program.save(out)


def drafts(network: Any, out: Path) -> None:
    """All that `srtool export` writes, not compared."""
    import onnx

    from srtool.export.onnx import ExportConfig, drafts

    for draft in drafts(network, out, ExportConfig("both")):
        onnx.save(draft.model, draft.path)


def certified(network: Any, out: Path) -> dict[str, float]:
    """The export as it is; what comparing took."""
    from srtool.export.onnx import ExportConfig, export

    files = export(network, out, ExportConfig("both", force=True))
    return {"certification": round(sum(file.seconds for file in files), 1)}


def measured(side: str, path: Path) -> dict[str, Any]:
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import torch.onnx  # noqa: F401

    from srtool.networks.loading import load_network

    network = load_network(path)
    call: Callable[[Any, Path], dict[str, float] | None] = globals()[side]
    wall, cpu = time.perf_counter(), time.process_time()
    more = call(network, path.with_name(f"{side}.onnx")) or {}
    return {
        "wall": round(time.perf_counter() - wall, 1),
        "cpu": round(time.process_time() - cpu, 1),
        **more,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=23)
    parser.add_argument("--certified", action="store_true")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measured(given.side[0], Path(given.side[1]))))  # noqa: T201
        return
    found: dict[str, Any] = {"blocks": given.blocks}
    with tempfile.TemporaryDirectory() as folder:
        path = weights(Path(folder), given.blocks)
        for side in SIDES if given.certified else SIDES[:2]:
            command = [sys.executable, __file__, "--side", side, str(path)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(ended.stdout.strip().splitlines()[-1])
    ratio = found["drafts"]["cpu"] / found["plain"]["cpu"]
    more = found["drafts"]["wall"] - found["plain"]["wall"]
    found["cpu"] = {"ratio": round(ratio, 2), "bar": CPU, "kept": ratio <= CPU}
    found["wall"] = {"more": round(more, 1), "bar": WALL, "kept": more <= WALL}
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
