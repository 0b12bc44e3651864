"""What is measured: engine files, grouped by the network that they compute, with its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from srtool.errors import EngineError, ExportError, UsageError
from srtool.export.flops import Cost, cost_from_file
from srtool.files import sha256
from srtool.manifest import ModelFacts, read_manifest
from srtool.networks.generator import PRESETS
from srtool.runtime.backends.kserve import service_at, service_manifest
from srtool.runtime.gpu.devices import check_device
from srtool.runtime.onnx_files import facts_from_onnx
from srtool.runtime.opening import CHECKPOINTS
from srtool.runtime.plan_files import PLAN


@dataclass
class Network:
    """One network. engines: files that compute it. weights: the checkpoint that baselines open,
    None where it was not found. cost: None where it cannot be counted."""

    name: str
    facts: ModelFacts
    engines: list[Path] = field(default_factory=list)
    weights: Path | None = None
    cost: Cost | None = None


def networks_from_files(
    files: Sequence[Path],
    models: Sequence[Path],
    presets: Sequence[str],
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
    device: int | None = None,
) -> list[Network]:
    """Group engines by their weights.

    files: .onnx files and plans; checkpoints are exported into `folder` first. models: weights to
    compare with; those that a manifest names are found beside the engine or in weights/. presets:
    networks of this project with random weights, which run as fast as trained ones. device: number
    of the GPU that exports are compared on.
    UsageError or EngineError where a file is missing or is no engine.
    """
    check_device(device)
    files, models = list(files), list(models)
    for preset in presets:
        report(f"{preset}: writing random weights")
        files.append(random_weights(preset, folder))
    found: dict[str, Network] = {}
    for file in files:
        if not file.is_file() and not service_at(file):
            raise UsageError(f"{file}: no such file; expected an engine (.onnx, .plan) or weights")
        if file.suffix.lower() in CHECKPOINTS:
            models.append(file)
            file = _exported(file, folder, report, device)
        facts = _facts(file)
        key = facts.weights_sha256 or str(file.resolve())
        network = found.setdefault(key, Network(Path(facts.weights or file.name).stem, facts))
        if file not in network.engines:
            network.engines.append(file)
    known = {sha256(_existing(model)): model for model in models}
    for network in found.values():
        network.weights = known.pop(network.facts.weights_sha256, None) or _weights_near(network)
        network.cost = _cost(network.engines)
    if known:
        names = ", ".join(str(model) for model in known.values())
        raise UsageError(
            f"{names}: no engine was made of it; leave it out, or export it", parameter="model"
        )
    return list(found.values())


def random_weights(preset: str, folder: Path) -> Path:
    """A preset's checkpoint with seeded random weights, whose output lies around mid-gray."""
    import torch

    from srtool.networks.generator import Generator
    from srtool.networks.loading import save_generator

    if preset not in PRESETS:
        raise UsageError(
            f"{preset}: no such network; expected one of {', '.join(PRESETS)}", parameter="preset"
        )
    torch.manual_seed(0)
    generator = Generator(PRESETS[preset]).eval()
    if not generator.config.image_skip:
        with torch.inference_mode():
            out = generator(torch.rand(1, 3, 96, 96)).image
        last = generator.fusion.image
        gain = 0.2 / out.std()
        last.weight.data.mul_(gain)
        assert last.bias is not None
        last.bias.data.fill_(0.5 - float(out.mean() * gain))
    path = folder / f"{preset}-random.safetensors"
    save_generator(path, generator, {})
    return path


def _exported(
    weights: Path, folder: Path, report: Callable[[str], None], device: int | None
) -> Path:
    from srtool.export.onnx import ExportConfig, export
    from srtool.networks.loading import load_network

    report(f"{weights.name}: exporting and certifying")
    config = ExportConfig(force=True, device=device)
    written = export(load_network(weights), folder / f"{weights.stem}.onnx", config)
    return written[-1].path


def _existing(model: Path) -> Path:
    if not model.is_file():
        raise UsageError(f"{model}: no such file; expected weights (.pth, .safetensors)")
    return model


def _facts(engine: Path) -> ModelFacts:
    if service := service_at(engine):
        return service_manifest(service).model
    if engine.suffix not in (".onnx", PLAN):
        raise UsageError(f"{engine}: is no engine; expected .onnx, .plan, .pth or .safetensors")
    manifest = read_manifest(engine)
    if manifest is not None:
        return manifest.model
    if engine.suffix == PLAN:
        raise EngineError(f"{engine}: its manifest is missing; export the network again")
    return facts_from_onnx(engine)


def _weights_near(network: Network) -> Path | None:
    """The checkpoint that a manifest names, where it lies near the engine or in weights/."""
    if not network.facts.weights_sha256:
        return None
    for folder in (*(engine.parent for engine in network.engines), Path(), Path("weights")):
        path = folder / network.facts.weights
        if path.is_file() and sha256(path) == network.facts.weights_sha256:
            return path
    return None


def _cost(engines: Sequence[Path]) -> Cost | None:
    """Counted in the .onnx file, or in the one that a plan was made of."""
    for engine in engines:
        manifest = read_manifest(engine)
        source = engine
        if manifest and manifest.plan:
            source = engine.parent / manifest.plan.onnx
        try:
            return cost_from_file(source)
        except (ExportError, UsageError):
            continue
    return None
