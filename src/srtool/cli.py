"""The command line: each command is one call into a stage.

Imports of the stages stand inside the commands, so that `srtool --help` is instant and each
command needs only its own extra installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from srtool import __version__, console
from srtool.errors import AssetError, EngineError, ExportError, SrtoolError, UsageError

app = typer.Typer(
    name="srtool",
    help="Train, export, run and certify perceptual x4 super-resolution networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

assets_app = typer.Typer(
    name="assets",
    help="Files that metrics and losses use but srtool does not ship.",
    no_args_is_help=True,
)
app.add_typer(assets_app)


class PrecisionChoice(str, Enum):
    fp32 = "fp32"
    fp16 = "fp16"
    both = "both"


class IoChoice(str, Enum):
    uint8 = "uint8"
    float32 = "float32"


class BackendChoice(str, Enum):
    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"
    torch = "torch"


class VerifyBackendChoice(str, Enum):
    all = "all"
    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class RunPrecisionChoice(str, Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class YRoundingChoice(str, Enum):
    nearest = "nearest"
    none = "none"


class FormatChoice(str, Enum):
    png = "png"
    jpg = "jpg"
    webp = "webp"
    tif = "tif"
    avif = "avif"


def _print_version(wanted: bool) -> None:
    if wanted:
        console.answer(f"srtool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


@contextmanager
def _needing(extra: str) -> Iterator[None]:
    """UsageError where a library of an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this command needs {error.name}, which is not installed; "
            f"pip install 'srtool[{extra}]'"
        ) from None


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    data: Annotated[Path, typer.Option(help="Folder of training photographs (searched whole).")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of checkpoints and TensorBoard logs.")
    ] = Path("runs/train"),
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder to validate on: images, or HR/ and optionally LRx4/."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
) -> None:
    """Train a generator (stage 1: L1). The same command again continues where it stopped."""
    with _needing("train"):
        from srtool.train import trainer
        from srtool.train.recipe import recipe_from_file

    checked = recipe_from_file(recipe)
    with console.training_progress() as report:
        try:
            weights = trainer.train(checked, data, out, validation, report, device)
        except KeyboardInterrupt:
            console.say(f"interrupted; the same command continues from {out / trainer.STATE}")
            raise
    typer.echo(str(weights))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Weights: .safetensors or .pth.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The .onnx file (default: MODEL.onnx).")
    ] = None,
    precision: Annotated[PrecisionChoice, typer.Option()] = PrecisionChoice.fp32,
    io: Annotated[
        IoChoice, typer.Option(help="Pixels in and out: uint8 NHWC or float32 NCHW (0..1).")
    ] = IoChoice.uint8,
    images: Annotated[
        Path | None, typer.Option(help="HR photographs to certify with (default: shipped).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a file that fails.")] = False,
) -> None:
    """Write ONNX files that compute what the PyTorch network computes, and prove it."""
    with _needing("export"):
        import onnxscript  # noqa: F401  # torch looks for it late

        from srtool.export import onnx
        from srtool.train.checkpoint import load_network

    target = out or model.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: an engine file ends in .onnx")
    network = load_network(model)
    with console.status(f"{model.name}: {network.architecture} x{network.scale}") as report:
        written = onnx.export(network, target, precision.value, io.value, images, force, report)
    console.print_written(written)


@app.command()
def infer(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or patterns.")],
    engine: Annotated[Path, typer.Option(help="An .onnx file; .pth runs the PyTorch reference.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Output folder, or file for a single input.")
    ] = Path("upscaled"),
    backend: Annotated[BackendChoice, typer.Option()] = BackendChoice.auto,
    precision: Annotated[
        RunPrecisionChoice, typer.Option(help="auto never goes below faithful.")
    ] = RunPrecisionChoice.auto,
    tile: Annotated[int, typer.Option(min=16, help="Tile side in input pixels, with halo.")] = 256,
    halo: Annotated[
        int | None, typer.Option(min=0, help="Overlap at tile edges (default: the engine's).")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Added to each file's name.")] = "",
    format: Annotated[
        FormatChoice | None, typer.Option(help="Output format (default: the input's own).")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=8, max=8, help="8: write 16-bit images with 8 bits.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Redo existing outputs.")] = False,
    require_certified: Annotated[
        bool, typer.Option("--require-certified", help="Refuse an engine that is not.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON summary line.")] = False,
) -> None:
    """Upscale images. Existing outputs are skipped, so an interrupted run can be repeated."""
    from srtool.runtime import pipeline
    from srtool.runtime.engine import open_engine
    from srtool.runtime.inputs import check_writable, jobs_from_inputs
    from srtool.runtime.tiles import check_tile

    jobs = jobs_from_inputs(inputs, out, suffix, format.value if format else None)
    opened = open_engine(engine, backend.value, precision.value)
    check_tile(tile, opened.facts.halo if halo is None else halo)
    check_writable(jobs)
    console.say(f"{engine} on {opened.backend} ({opened.reason})")
    if opened.doubt:
        if require_certified:
            raise EngineError(f"{engine}: is not certified: {opened.doubt}")
        console.say(f"{engine}: is not certified: {opened.doubt}")
    options = pipeline.Options(tile, halo, depth, quality, overwrite)
    summary = pipeline.Summary()
    try:
        with console.inference_progress(len(jobs)) as report:
            pipeline.run(jobs, opened, options, report, summary)
    except KeyboardInterrupt:
        console.say(f"interrupted after {summary.files} images; the same command continues")
        raise
    finally:
        console.print_summary(summary, out, engine, opened.backend, as_json)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    datasets: Annotated[
        list[Path], typer.Argument(help="Folders of images, or with HR/ and optionally LRx4/.")
    ],
    engine: Annotated[
        list[str],
        typer.Option(
            help="An engine file, a folder of upscaled images, bicubic or bicubic-float; "
            "NAME=PATH names its column. May be repeated."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Of psnr, ssim, ssim_wang, niqe, ma, pi, lpips; with commas. "
            "[default: pi,psnr,ssim_wang,ssim,niqe]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json and images.csv; continues what it holds."),
    ] = None,
    y_rounding: Annotated[
        YRoundingChoice, typer.Option(help="PSNR and SSIM on whole levels of Y, or unrounded.")
    ] = YRoundingChoice.nearest,
    backend: Annotated[BackendChoice, typer.Option(help="Of .onnx files.")] = BackendChoice.auto,
    precision: Annotated[
        RunPrecisionChoice, typer.Option(help="Of .onnx files; auto is never below faithful.")
    ] = RunPrecisionChoice.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON, not the table.")] = False,
) -> None:
    """Score engines on data sets: PI, PSNR, SSIM, NIQE, LPIPS, beside the paper's figures."""
    try:
        from srtool.benchmarks import evaluate as evaluation
        from srtool.benchmarks import scores
    except ModuleNotFoundError as error:
        raise UsageError(
            f"evaluation needs {error.name}, which is not installed; pip install 'srtool[bench]'"
        ) from None
    from srtool import tables

    names = scores.metrics_from_text(metrics) if metrics is not None else scores.DEFAULT_METRICS
    config = evaluation.Config(
        names, y_rounding.value, backend=backend.value, precision=precision.value
    )
    try:
        with console.evaluation_progress() as report:
            result = evaluation.evaluate(datasets, engine, config, out, report)
    except KeyboardInterrupt:
        console.say("interrupted; " + ("the same command continues" if out else "nothing is kept"))
        raise
    if as_json:
        console.answer(result.record.model_dump_json())
    else:
        tables.print_evaluation(result, names)
    missing = [name for name in names if name in result.record.unavailable]
    if result.failed or (metrics and missing):
        raise typer.Exit(1)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="The weights: .safetensors or .pth.")],
    engines: Annotated[list[Path], typer.Argument(help=".onnx files exported from them.")],
    images: Annotated[
        Path, typer.Option(help="HR images, or a folder with HR/ and optionally LRx4/.")
    ],
    backend: Annotated[
        VerifyBackendChoice, typer.Option(help="auto: the one that `infer` would choose.")
    ] = VerifyBackendChoice.all,
    max_delta_psnr: Annotated[
        float, typer.Option(min=0, help="Gate: change of the mean PSNR-Y against HR, dB.")
    ] = 0.02,
    max_delta_pi: Annotated[float, typer.Option(min=0, help="Gate: change of PI.")] = 0.01,
    min_psnr: Annotated[float, typer.Option(help="Gate: dB between engine and PyTorch.")] = 50.0,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Where fp16 fails: name what goes wrong and write NAME.mixed.onnx, which passes.",
        ),
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write all figures to a file.")] = None,
) -> None:
    """Compare engines with PyTorch FP32 on real images, and certify those within the gates."""
    try:
        from srtool.benchmarks import parity
    except ModuleNotFoundError as error:
        raise UsageError(
            f"verify needs {error.name}, which is not installed; "
            "pip install 'srtool[bench,export,cpu]'"
        ) from None
    from srtool import tables
    from srtool.files import whole_file
    from srtool.manifest import Gates

    gates = Gates(max_delta_psnr=max_delta_psnr, max_delta_pi=max_delta_pi, min_psnr=min_psnr)
    config = parity.Config(backend.value, gates, bisect)
    with console.evaluation_progress() as report:
        found = parity.verify(model, engines, images, config, report)
    tables.print_parity(found)
    if json:
        with whole_file(json) as temporary:
            temporary.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if not found.passed:
        raise typer.Exit(1)


@assets_app.command("list")
def assets_list() -> None:
    """Show which files there are, and which are installed."""
    from srtool import tables

    tables.print_assets()


@assets_app.command("fetch")
def assets_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all of them.")] = None,
) -> None:
    """Download files from their publishers, and check them. Continues what was interrupted."""
    from srtool import assets

    def fetched(asset: assets.Asset) -> bool:
        try:
            with console.download_progress(asset.file) as report:
                path = assets.fetch(asset, report)
        except AssetError as error:
            console.say(f"srtool: {error}")
            return False
        except KeyboardInterrupt:
            console.say("interrupted; the same command continues")
            raise
        console.answer(str(path))
        return True

    wanted = [assets.asset_named(name) for name in names] if names else assets.ASSETS
    done = [fetched(asset) for asset in wanted]
    if not all(done):
        raise typer.Exit(1)


@assets_app.command("add")
def assets_add(
    file: Annotated[Path, typer.Argument(help="A file got by hand, of any name.")],
) -> None:
    """Copy a file into the cache; it is recognised by its content."""
    from srtool import assets

    asset, path = assets.add_asset(file)
    console.say(f"{file} is {asset.name}: {asset.purpose}")
    console.answer(str(path))


def main() -> None:
    """Entry point: a known error is one line, and an interrupt is no traceback."""
    try:
        app()
    except SrtoolError as error:
        console.say(f"srtool: {error}")
        sys.exit(1 if isinstance(error, ExportError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
