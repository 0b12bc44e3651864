"""config.pbtxt of the models in a repository, from manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from srtool.manifest import Manifest, ModelFacts, Profile
from srtool.runtime.backends.kserve import MANIFEST

BATCH = 8  # tiles or requests at most that are computed together
DELAY = 2000  # microseconds that a request waits for others of its shape
WARM_UP = (64, 64)  # LR pixels


def onnx_config(name: str, manifest: Manifest) -> str:
    """Of an .onnx file on Triton's onnxruntime backend."""
    config = _tensors(name, manifest, manifest.model.batch or BATCH)
    config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_AUTO)
    _warm_up(config, manifest.model, (1, *WARM_UP))
    return _text(config)


def plan_config(name: str, manifest: Manifest, files: Mapping[str, str]) -> str:
    """Of TensorRT plans of one network. files: compute capability ("8.9") -> file name."""
    assert manifest.plan is not None
    profiles = manifest.plan.recipe.profiles
    config = _tensors(name, manifest, max(profile.max[0] for profile in profiles))
    config.backend = "tensorrt"
    for capability, file in files.items():
        config.cc_model_filenames[capability] = file
    config.dynamic_batching.preferred_batch_size.extend(_best_batches(profiles))
    group = config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_GPU)
    group.profile.extend(str(number) for number in range(len(profiles)))
    _warm_up(config, manifest.model, profiles[-1].opt)
    return _text(config)


def pictures_config(name: str, manifest: Manifest, engine: str) -> str:
    """Of the model that takes pictures of any size, as pixels or as files, in Python.

    engine: the file name of what computes, in the version's folder.
    """
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=BATCH)
    facts = manifest.model
    for title, kind, dims in (
        (facts.input_name, pb.TYPE_UINT8, [-1, -1, 3]),
        ("file", pb.TYPE_STRING, [1]),
    ):
        config.input.add(
            name=title, data_type=kind, dims=dims, optional=True, allow_ragged_batch=True
        )
    config.output.add(name=facts.output_name, data_type=pb.TYPE_UINT8, dims=[-1, -1, 3])
    config.output.add(name="upscaled_file", data_type=pb.TYPE_STRING, dims=[1])
    config.dynamic_batching.max_queue_delay_microseconds = 0
    kind = pb.ModelInstanceGroup.KIND_GPU if manifest.plan else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=1, kind=kind)
    _describe(config, manifest)
    config.parameters["engine"].string_value = engine
    return _text(config)


def _tensors(name: str, manifest: Manifest, batch: int) -> Any:
    """A model whose tensors are the engine's own."""
    facts = manifest.model
    config = pb.ModelConfig(name=name, max_batch_size=batch)
    kind, dims = pb.TYPE_UINT8, [-1, -1, 3]
    if facts.io == "float32":
        kind, dims = pb.TYPE_FP32, [3, -1, -1]
    config.input.add(name=facts.input_name, data_type=kind, dims=dims)
    config.output.add(name=facts.output_name, data_type=kind, dims=dims)
    config.dynamic_batching.max_queue_delay_microseconds = DELAY
    _describe(config, manifest)
    return config


def _describe(config: Any, manifest: Manifest) -> None:
    """Version policy, and what clients may want to know."""
    config.version_policy.latest.num_versions = 1
    parameters = {
        MANIFEST: manifest.model_dump_json(),
        "scale": str(manifest.model.scale),
        "halo": str(manifest.model.halo),
        "multiple_of": str(manifest.model.multiple_of),
        "certified": ", ".join(
            f"{backend}: {found.grade if found.passed else 'failed'}"
            for backend, found in manifest.fidelity.items()
        )
        or "no",
    }
    if manifest.plan is not None:
        parameters["tensorrt"] = manifest.plan.version
        parameters["gpus"] = ", ".join(manifest.plan.compute)
    for key, value in parameters.items():
        config.parameters[key].string_value = value


def _warm_up(config: Any, facts: ModelFacts, shape: Sequence[int]) -> None:
    """One request before the model counts as ready."""
    batch, height, width = shape
    given = config.input[0]
    sample = config.model_warmup.add(name="first", batch_size=batch)
    sides = [height, width, 3] if facts.io == "uint8" else [3, height, width]
    sample.inputs[given.name].data_type = given.data_type
    sample.inputs[given.name].dims.extend(sides)
    sample.inputs[given.name].random_data = True


def _best_batches(profiles: Sequence[Profile]) -> list[int]:
    return sorted({profile.opt[0] for profile in profiles})


def _text(config: Any) -> str:
    return str(text_format.MessageToString(config))
