"""`srtool engine`: what a TensorRT plan is, and how it is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from srtool.cli import building, needing
from srtool.cli import progress as console
from srtool.cli.choices import DeviceOption

engine_app = typer.Typer(
    name="engine", help="TensorRT plans: explain, rebuild, refit.", no_args_is_help=True
)


@engine_app.command("explain")
def engine_explain(
    plan: Annotated[Path, typer.Argument(help="A .plan file with its manifest.")],
    device: DeviceOption = None,
) -> None:
    """Say what a plan is, whether it runs here, and what asks for a new one."""
    from srtool.runtime.gpu.machine import this_machine
    from srtool.runtime.plan_files import plan_facts

    manifest, facts = plan_facts(plan)
    building.print_explanation(plan, manifest, facts, this_machine(device))


@engine_app.command("rebuild")
def engine_rebuild(
    plan: Annotated[Path, typer.Argument(help="A .plan file; its manifest has the recipe.")],
    gpu: Annotated[
        list[str] | None, typer.Option(help="Build for this one, not for the recorded one.")
    ] = None,
    device: DeviceOption = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that keeps what builds measured.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a plan that fails.")] = False,
) -> None:
    """Build a plan again, as its manifest says, from the .onnx file beside it."""
    with needing("export"):
        from srtool.export.tensorrt import plans
    from srtool.runtime.gpu.machine import this_machine

    with building.building_progress(plan.name) as report:
        options = plans.BuildOptions(timing_cache, force=force, say=console.say, report=report)
        written = plans.rebuild(plan, this_machine(device), tuple(gpu or ()), options)
    building.print_plan(written)


@engine_app.command("refit")
def engine_refit(
    plan: Annotated[Path, typer.Argument(help="A plan that was built with --strip-weights.")],
    model: Annotated[
        Path, typer.Argument(help="Weights of the same network, or an .onnx file of them.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The new plan (default: MODEL.plan).")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="HR photographs to certify with (default: shipped).")
    ] = None,
    device: DeviceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a plan that fails.")] = False,
) -> None:
    """Put other weights into a plan, in seconds. It stays as it is, a new one is written."""
    from srtool.errors import UsageError
    from srtool.export.tensorrt import refit
    from srtool.export.tensorrt.plans import source_from_onnx
    from srtool.runtime.gpu.machine import this_machine
    from srtool.runtime.plan_files import plan_facts

    target = out or model.with_suffix(".plan")
    if target.suffix != ".plan" or target.absolute() == plan.absolute():
        raise UsageError(
            f"{target}: expected another file than {plan}, that ends in .plan; name -o"
        )
    manifest, facts = plan_facts(plan)
    here = this_machine(device)
    refit.check_refittable(plan, facts, here)
    certify = None
    source = model
    if model.suffix != ".onnx":
        with needing("export"):
            import onnxscript  # noqa: F401  # torch looks for it late

            from srtool.export import onnx
            from srtool.export.tensorrt import plans
            from srtool.networks.loading import load_network
        network = load_network(model)
        source = target.with_suffix(".onnx")
        precision: Literal["fp32", "fp16"]
        precision = "fp32" if manifest.model.precision == "fp32" else "fp16"
        with console.status(f"{model.name}: {network.architecture} x{network.scale}") as report:
            config = onnx.ExportConfig(precision, manifest.model.io, images, force, device)
            onnx.export(network, source, config, report)
        certify = plans.certifier(network, images)
    written = refit.refit(plan, source_from_onnx(source), target, here, certify, force)
    building.print_plan(written)
