"""Whether a TensorRT plan runs on a machine, and what would make it again: answered from its
manifest, before TensorRT, CUDA or an image is touched."""

from __future__ import annotations

from pathlib import Path

from srtool.errors import ChangedFileError, EngineError
from srtool.manifest import Manifest, PlanFacts, read_manifest, sha256, sidecar
from srtool.runtime.gpu.machine import INSTALL, NAMES, OLDEST_DRIVER, Machine


def plan_facts(path: Path) -> tuple[Manifest, PlanFacts]:
    """What the manifest of a plan says. EngineError where there is no such file or no manifest,
    or where either was changed since."""
    if not path.is_file():
        raise EngineError(f"{path}: no such plan; `srtool export model.pth` writes one")
    try:
        manifest = read_manifest(path)
    except ChangedFileError as error:
        raise ChangedFileError(
            f"{path}: is damaged, or another file than its manifest describes (SHA-256 "
            f"{error.found[:12]}...); `srtool engine rebuild {path}` makes it again",
            path=path,
            found=error.found,
            expected=error.expected,
        ) from None
    if manifest is None:
        raise EngineError(
            f"{path}: its manifest {sidecar(path).name} is missing, without which nobody knows "
            "what the plan computes and where it runs; copy it beside the plan, or export the "
            "network again"
        )
    if manifest.plan is None:
        raise EngineError(f"{path}: its manifest is not that of a TensorRT plan")
    return manifest, manifest.plan


def unrunnable(plan: PlanFacts, here: Machine) -> str | None:
    """Why a plan cannot run on a machine, in words; None where it can."""
    name, library = NAMES[plan.recipe.flavour], here.libraries.get(plan.recipe.flavour)
    if plan.stripped:
        return "it has no weights yet; `srtool engine refit` puts them in"
    if not here.gpu:
        return here.no_gpu
    if not _serves(plan, here.compute):
        made = " and ".join(plan.compute)
        return f"it is for compute capability {made}, and the {here.gpu} has {here.compute}"
    bound = plan.recipe.flavour == "tensorrt" or plan.recipe.platform
    if bound and plan.platform != here.platform:
        return f"it is for {plan.platform}, and this is {here.platform}"
    if library is None:
        return f"{name} is not installed; {INSTALL[plan.recipe.flavour]}"
    if not _reads(plan, library.version):
        return f"it is of {name} {plan.version}, and {library.version} is installed"
    oldest = OLDEST_DRIVER.get(library.cuda or plan.cuda, 0)
    if _numbers(here.driver)[:1] < (oldest,):
        return (
            f"the driver is {here.driver}, and {name} {library.version} needs {oldest} or newer "
            f"(CUDA {library.cuda or plan.cuda})"
        )
    return None


def _serves(plan: PlanFacts, compute: str) -> bool:
    """Hardware-compatible plans of TensorRT run on Ampere and everything newer."""
    if plan.recipe.flavour == "tensorrt" and plan.recipe.hardware_compatible:
        return _numbers(compute) >= (8, 0)
    return compute in plan.compute


def _reads(plan: PlanFacts, version: str) -> bool:
    """A plan is read by the very build that made it. Version-compatible ones by later ones, and
    across major versions by 10 of 8 and by 11 of 10 (TensorRT's support matrix)."""
    if version == plan.version or not plan.recipe.version_compatible:
        return version == plan.version
    made, runs = _numbers(plan.version), _numbers(version)
    same = made[0] == runs[0] and runs >= made
    return same or (made[0], runs[0]) in {(8, 10), (10, 11)}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def rebuild_command(path: Path, plan: PlanFacts, here: Machine) -> str:
    """What makes a plan again so that it runs on a machine."""
    named = plan.recipe.gpus != ("local",)
    elsewhere = bool(here.compute) and not _serves(plan, here.compute)
    return f"srtool engine rebuild {path}" + (" --gpu local" if named and elsewhere else "")


def rebuild_reasons(plan: PlanFacts, here: Machine, folder: Path) -> dict[str, str]:
    """What has changed since a plan was built, by field: all that an export would rebuild it for.

    folder: where the plan lies, and the .onnx file that it was made of.
    """
    found: dict[str, str] = {}
    library = here.libraries.get(plan.recipe.flavour)
    if library and library.version != plan.version:
        found["version"] = f"made by {plan.version}, installed is {library.version}"
    local = plan.recipe.gpus == ("local",)
    if local and here.compute and (here.compute,) != plan.compute:
        found["compute"] = f"made for {' and '.join(plan.compute)}, this GPU has {here.compute}"
    if local and here.gpu and plan.gpu and here.gpu != plan.gpu:
        found["gpu"] = f"made on {plan.gpu}, this is {here.gpu}"
    if here.driver and plan.driver and here.driver != plan.driver:
        found["driver"] = f"made with {plan.driver}, installed is {here.driver}"
    source = folder / plan.onnx
    if source.is_file() and sha256(source) != plan.onnx_sha256:
        found["onnx"] = f"{plan.onnx} has changed"
    return found
