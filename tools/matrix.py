"""The table of docs/architectures.md: what becomes of every SR architecture that spandrel knows.

    python tools/matrix.py [NAME...] [--again]   measure, into results/architectures.json
    python tools/matrix.py --table               write the table into the page

A small random network of each goes through export in both precisions, runs on ONNX Runtime and
OpenVINO, whole and in tiles, and through TensorRT-RTX's builder. Each has a process and a time
limit of its own; what is in the results already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import SMALL, written
from numpy.typing import NDArray

from srtool.errors import SrtoolError
from srtool.export import onnx
from srtool.export.tensorrt.plans import export_plan, source_from_onnx
from srtool.export.tensorrt.recipe import PlanOptions, recipe_from_options
from srtool.images.colour import to_levels
from srtool.manifest import ModelFacts
from srtool.networks.loading import load_network
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.backends.openvino import OpenVino
from srtool.runtime.engine import Engine
from srtool.runtime.foreign import photograph
from srtool.runtime.gpu.machine import this_machine
from srtool.runtime.onnx_files import open_on
from srtool.runtime.tiling import Tiling, upscale_tiled
from srtool.system import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "architectures.json"
PAGE = ROOT / "docs" / "architectures.md"
START, END = "<!-- architectures -->", "<!-- /architectures -->"
SIZES = ((47, 61), (96, 128))  # height and width
WIDE = (96, 256)  # to be cut
BACKENDS = (OnnxRuntime(), OpenVino("fp32"))

Pixels = NDArray[np.uint8]


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Everything about one architecture; where it stopped, and why, is in "refused"."""
    found: dict[str, Any] = {"scale": None, "refused": ""}
    try:
        path = written(name, folder)
        network = load_network(path)
        found.update(scale=network.scale, multiple_of=network.size.multiple_of)
        start = time.perf_counter()
        half = exported(network, folder / f"{name}.onnx", found)
        found["seconds"] = round(time.perf_counter() - start, 1)
    except SrtoolError as error:
        found["refused"] = without_folder(str(error), folder)
        return found
    for key, file in (("fp32", folder / f"{name}.onnx"), ("fp16", half)):
        if file is not None:
            found[key] = compared(file, path)
    found["tiles"] = in_tiles(folder / f"{name}.onnx")
    found["plan"] = plan(half or folder / f"{name}.onnx", folder)
    return found


def exported(network: Any, out: Path, found: dict[str, Any]) -> Path | None:
    """Export both precisions, or one where float16 fails. The fp16 file, None where there is
    none."""
    try:
        files = onnx.export(network, out, onnx.ExportConfig("both"))
    except SrtoolError as error:
        found["no_fp16"] = without_folder(str(error), out.parent)
        files = onnx.export(network, out, onnx.ExportConfig("fp32"))
    facts = files[1].manifest.model
    found.update({name: getattr(facts, name) for name in ("exporter", "batch", "halo", "tile")})
    emulated = [value for key, value in files[-1].manifest.fidelity.items() if "emulated" in key]
    if emulated:
        between = emulated[0].psnr_between
        found["emulated"] = None if between is None else round(between, 1)
    return files[-1].path if files[-1].manifest.model.precision == "fp16" else None


def compared(file: Path, weights: Path, facts: ModelFacts | None = None) -> dict[str, Any]:
    """By backend and size: levels that an engine differs by at most from spandrel's own output,
    and dB."""
    from spandrel import ModelLoader

    model = ModelLoader(device="cpu").load_from_file(weights)
    found: dict[str, Any] = {}
    for height, width in SIZES:
        lr = photograph((height, width))
        x = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            expected = to_levels(model(x)[0].permute(1, 2, 0).numpy(), np.uint8)
        for backend in BACKENDS:
            key = f"{backend}, {width}x{height}"
            try:
                with open_on(file, backend, facts) as engine:
                    found[key] = difference(whole(lr, engine), expected)
            except Exception as error:  # a library's own, too
                found[key] = " ".join(str(error).split())[:200]
    return found


def whole(lr: Pixels, engine: Engine) -> Pixels:
    """An image as one tile."""
    return upscale_tiled(lr, engine, Tiling(1 << 14))


def in_tiles(file: Path) -> dict[str, Any]:
    """An image in tiles as small as its halo allows, or as large as it was certified with, against
    the same image whole."""
    with open_on(file, OnnxRuntime()) as engine:
        lr, facts = photograph(WIDE), engine.facts
        tile = facts.tile or 2 * facts.halo + max(48, facts.multiple_of)
        tiled = upscale_tiled(lr, engine, Tiling(tile))
        return {"side": tile, **difference(tiled, whole(lr, engine))}


def difference(found: Pixels, expected: Pixels) -> dict[str, Any]:
    gap = found.astype(np.int64) - expected
    squares = float((gap**2).mean())
    decibels = round(10 * math.log10(255**2 / squares), 1) if squares else None
    return {"levels": int(abs(gap).max()), "db": decibels}


def plan(file: Path, folder: Path) -> dict[str, Any]:
    """A plan for one class of GPU, built without one."""
    here = this_machine()
    recipe = recipe_from_options(PlanOptions(flavour="tensorrt-rtx", gpu=("sm89",)), here)
    assert recipe is not None
    start = time.perf_counter()
    try:
        made = export_plan(source_from_onnx(file), folder / "x.plan", recipe, here)
    except SrtoolError as error:
        return {"built": False, "why": without_folder(str(error), folder)}
    seconds = round(time.perf_counter() - start, 1)
    return {"built": True, "seconds": seconds, "bytes": made.path.stat().st_size, "of": file.name}


def without_folder(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "")


# One process for each


def measure(names: list[str], again: bool, limit: float) -> None:
    """Add what is missing in the results, one architecture after the other."""
    for name in names or list(SMALL):
        if name in read()["networks"] and not again:
            continue
        start = time.monotonic()
        found = in_process(name, limit)
        results = read()  # others may have added to it
        networks = results["networks"]
        networks[name] = found
        results["networks"] = {each: networks[each] for each in SMALL if each in networks}
        results["versions"] = versions(onnx.LIBRARIES) | {
            "tensorrt-rtx": metadata.version("tensorrt_rtx_cu13_bindings")
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        seconds = time.monotonic() - start
        line = " | ".join(row(name, networks[name]))
        print(f"{seconds:5.0f} s  {line}", flush=True)  # noqa: T201


def read() -> dict[str, Any]:
    if not RESULTS.is_file():
        return {"networks": {}}
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def in_process(name: str, limit: float) -> dict[str, Any]:
    """What a process of its own finds; how it ended where it finds nothing."""
    command = [sys.executable, __file__, "--one", name]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"scale": None, "refused": f"took longer than {limit:.0f} s"}
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        return {"scale": None, "refused": f"ended with {ended.returncode}: {last}"}
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


# The table


def row(name: str, found: dict[str, Any]) -> list[str]:
    """Its cells."""
    if found["refused"]:
        return [name, scale_of(found), f"refused: {found['refused']}", *[""] * 4]
    tiles, made = found["tiles"], found["plan"]
    seam = "no seam" if tiles["db"] is None else f"seam {tiles['db']:.1f} dB"
    return [
        name,
        scale_of(found),
        found["exporter"] + (", one image at once" if found["batch"] else ""),
        agreement(found["fp32"]),
        agreement(found["fp16"]) if "fp16" in found else f"no: {found['no_fp16']}",
        (f"tiles of {found['tile']}" if found["tile"] else f"halo {found['halo']}") + f", {seam}",
        "yes" if made["built"] else f"no: {made['why']}",
    ]


def scale_of(found: dict[str, Any]) -> str:
    return f"x{found['scale']}" if found["scale"] else ""


def agreement(found: dict[str, Any]) -> str:
    """The worst of several."""
    failed = [f"{key}: {value}" for key, value in found.items() if isinstance(value, str)]
    if failed:
        return "; ".join(failed)
    levels = max(value["levels"] for value in found.values())
    decibels = [value["db"] for value in found.values() if value["db"] is not None]
    if not levels:
        return "equal"
    return f"{levels} level{'s' if levels > 1 else ''}, {min(decibels):.1f} dB"


def table(results: dict[str, Any]) -> str:
    titles = ["architecture", "scale", "exporter", "fp32", "fp16", "in tiles", "plan"]
    lines = [titles, ["---"] * len(titles)]
    lines += [row(name, found) for name, found in results["networks"].items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_table(text: str) -> str:
    """The page with the table of the results between its markers."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(read())}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measured(given.one, Path(folder))))  # noqa: T201
    elif given.table:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        measure(given.names, given.again, given.limit)


if __name__ == "__main__":
    main()
