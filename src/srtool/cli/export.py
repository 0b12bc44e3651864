"""`srtool export`: weights -> engine files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srtool.cli import console
from srtool.cli.console import needing, say
from srtool.cli.engine import building_progress, print_plan, refuse_beside
from srtool.cli.options import DeviceOption
from srtool.errors import ExportError, UsageError

if TYPE_CHECKING:
    from srtool.export.onnx import Written
    from srtool.export.tensorrt.plans import BuildOptions
    from srtool.manifest import PlanRecipe
    from srtool.networks.own import OwnModule
    from srtool.runtime.gpu.machine import Machine


_plan_option = partial(typer.Option, rich_help_panel="TensorRT plans")


def export(
    model: Annotated[
        Path,
        typer.Argument(help="Weights (.safetensors, .pth), or an .onnx file made elsewhere."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The .onnx file (default: MODEL.onnx); x4.plan beside."),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "both"],
        typer.Option(help="auto: fp32, and for a plan what suits its GPU."),
    ] = "auto",
    io: Annotated[
        Literal["uint8", "float32"] | None,
        typer.Option(help="Pixels in and out: uint8 NHWC (default) or float32 NCHW (0..1)."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="HR photographs to certify with (default: shipped).")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="The class of unknown weights, my_model.py:IMDN. This runs your code."),
    ] = None,
    args: Annotated[
        str | None, typer.Option(help="Of that class, such as 'num_modules=6, upscale=4'.")
    ] = None,
    device: DeviceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a file that fails; FP16 where it is slow.")
    ] = False,
    flavour: Annotated[
        Literal["auto", "none", "tensorrt", "tensorrt-rtx"],
        _plan_option(help="auto: a plan for this machine's GPU, or --gpu, by what is installed."),
    ] = "auto",
    gpu: Annotated[
        list[str] | None,
        _plan_option(
            help='Which GPU the plan is for: local, sm75 .. sm121, "RTX 4090"; portable: all from '
            "Ampere (TensorRT-RTX). May be repeated."
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        _plan_option(
            help="MIN,OPT,MAX as HxW or BxHxW in input pixels; may be repeated. "
            "(default: 4x256x256 alone, and 1x16x16,1x256x256,4x256x256)"
        ),
    ] = None,
    workspace: Annotated[
        int | None, _plan_option(min=1, help="MiB of scratch memory for kernels.")
    ] = None,
    timing_cache: Annotated[
        Path | None, _plan_option(help="File that keeps what builds measured.")
    ] = None,
    opt_level: Annotated[
        int | None, _plan_option(min=0, max=5, help="Effort of the build.")
    ] = None,
    tiling: Annotated[
        int | None, _plan_option(min=0, max=3, help="Search for kernels that stay in the cache.")
    ] = None,
    aux_streams: Annotated[
        int | None, _plan_option(min=0, help="Streams that a network may spread over.")
    ] = None,
    system: Annotated[
        Literal["windows"] | None, _plan_option("--platform", help="Build for it on Linux.")
    ] = None,
    version_compatible: Annotated[
        bool, _plan_option("--version-compatible", help="Run on later TensorRT too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, _plan_option("--hardware-compatible", help="Run on all GPUs from Ampere.")
    ] = False,
    strip_weights: Annotated[
        bool,
        _plan_option("--strip-weights", help="Leave the weights out, for `srtool engine refit`."),
    ] = False,
) -> None:
    """Write ONNX files, and a TensorRT plan, that compute what the PyTorch network computes."""
    from srtool.export.tensorrt.plans import BuildOptions, certifier
    from srtool.export.tensorrt.recipe import (
        PlanOptions,
        plans_of,
        precision_from_recipe,
        recipe_from_options,
    )
    from srtool.runtime.gpu.machine import this_machine

    options = PlanOptions(
        flavour=flavour,
        gpu=tuple(gpu or ()),
        shapes=tuple(shapes or ()),
        timing_cache=timing_cache,
        workspace=workspace,
        opt_level=opt_level,
        tiling=tiling,
        aux_streams=aux_streams,
        platform=system or "",
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        strip_weights=strip_weights,
    )
    here = this_machine(device)
    recipe = recipe_from_options(options, here, say)
    how = BuildOptions(timing_cache, force=force, say=say)
    foreign = model.suffix == ".onnx"
    if foreign:
        refuse_beside(model, {"io": io, "network": network, "args": args})
    if foreign and not _is_foreign(model, out, precision, recipe):
        if recipe is None:
            raise UsageError(f"{model}: is exported already; --gpu sm89 builds a plan of it")
        refuse_beside(model, {"images": images})
        _check_onnx(model, precision)
        target = _named(out or model.with_suffix(".plan"), ".plan")
        _build(model, target, recipe, here, how)
        return
    beside = model.with_suffix(".srtool.onnx" if foreign else ".onnx")
    target = _named(out or beside, ".onnx")
    told: list[str] = []
    chosen = precision_from_recipe(
        precision, recipe, here, timing_cache is not None, force, told.append
    )
    for line in told:
        say(f"--precision auto: {line}")
    with needing("cpu,export"):
        import onnxruntime  # noqa: F401  # of [cpu] or [gpu]: nothing is compared without it
    with needing("export"):
        import onnxscript  # noqa: F401  # torch looks for it late

        from srtool.export import onnx
        from srtool.networks.loading import load_network
        from srtool.networks.spandrel import UnknownNetworkError

    auto = precision == "auto"
    try:
        loaded = None if foreign else load_network(model, _own(network, args))
    except UnknownNetworkError as error:
        error.remedy["network"] = "my_model.py:CLASS"
        raise
    title = f"{model.name}: {loaded.architecture} x{loaded.scale}" if loaded else model.name
    for note in loaded.notes if loaded else ():
        say(f"{model}: {note}")
    with console.status(title) as report:

        def write(files: Literal["fp32", "fp16", "both"]) -> list[onnx.Written]:
            config = onnx.ExportConfig(files, io or "uint8", images, force, device)
            if loaded is None:
                return onnx.export_onnx(model, target, config, report)
            return onnx.export(loaded, target, config, report)

        try:
            written = write("both" if auto and chosen == "fp16" else chosen)
        except ExportError as error:
            if not auto or chosen == "fp32":
                raise
            say(f"--precision auto: fp32 after all ({error})")
            chosen, written = "fp32", write("fp32")
    _print_written(written, "PyTorch FP32" if loaded else f"{model.name} on ONNX Runtime")
    if recipe is not None:
        certify = certifier(loaded, images) if here.gpu and loaded else None
        for source, plan in plans_of(target, auto, chosen).items():
            _build(source, plan, recipe, here, replace(how, certify=certify))


def _is_foreign(model: Path, out: Path | None, precision: str, recipe: object) -> bool:
    """Whether an .onnx file is to be certified first: one without a manifest, unless all that is
    asked for is the plan of it as it is."""
    from srtool.manifest import read_manifest

    if not model.is_file():
        raise UsageError(f"{model}: no such file; expected weights, or an .onnx file")
    if read_manifest(model) is not None:
        return False
    return recipe is None or precision in ("fp16", "both") or bool(out and out.suffix == ".onnx")


def _own(network: str | None, args: str | None) -> OwnModule | None:
    """The user's own class, as --network and --args name it."""
    from srtool.networks.own import own_module_from_text

    if network is None:
        if args is not None:
            raise UsageError("--args: are for the class that --network names")
        return None
    return own_module_from_text(network, args or "")


def _named(path: Path, suffix: str) -> Path:
    if path.suffix != suffix:
        raise UsageError(f"{path}: an engine file of this kind ends in {suffix}")
    return path


def _check_onnx(source: Path, precision: str) -> None:
    """Of an .onnx file the plan is made, as it is: without PyTorch, and not compared with it."""
    from srtool.export.tensorrt.plans import source_from_onnx

    computes = source_from_onnx(source).facts.precision
    if precision not in ("auto", computes):
        raise UsageError(
            f"--precision {precision}: {source} computes in {computes}, and so does its plan; "
            "export the weights, or give another .onnx file"
        )


def _build(
    source: Path,
    out: Path,
    recipe: PlanRecipe,
    here: Machine,
    how: BuildOptions,
) -> None:
    from srtool.export.tensorrt.plans import export_plan, source_from_onnx

    with building_progress(out.name) as report:
        found = source_from_onnx(source)
        written = export_plan(found, out, recipe, here, replace(how, report=report))
    print_plan(written)


def _print_written(written: list[Written], reference: str) -> None:
    """A table of each file on each backend against the reference, and the files."""
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "backend", "max", "mean", "PSNR", "dPSNR-Y", "grade", box=None)
    for item in written:
        for name, found in item.manifest.fidelity.items():
            table.add_row(
                item.path.name,
                name,
                str(found.max_difference),
                f"{found.mean_difference:.5f}",
                f"{found.psnr_between:.1f} dB" if found.psnr_between else "equal",
                "" if found.delta_psnr is None else f"{found.delta_psnr:+.4f}",
                found.grade,
            )
    Console().print(f"Difference to {reference}, in levels of 0..255:", table, sep="\n")
    for item in written:
        console.answer(f"{item.path}  {item.path.stat().st_size / 1e6:.1f} MB")
        for name, reason in item.manifest.fails.items():
            say(f"{item.path}: does not run on {name} ({reason})")
    for name, count in written[-1].rewrites.items() if written else ():
        say(f"{name}: {count}")
