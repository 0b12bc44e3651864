"""The model inside Triton's Python backend: pictures of any size through srtool's runtime.

A request holds either pixels, (N, H, W, 3) uint8 RGB, or `file`, (N, 1), encoded pictures. The
answer has what was asked with: pixels, or `upscaled_file`. Parameters of a request with files:
format (png, jpg, webp, tif, avif; default: each one's own) and quality.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srtool.errors import EngineError, ImageError, SrtoolError, UsageError
from srtool.files import private_folder
from srtool.images.formats import HEAD, WRITTEN, suffix_of
from srtool.images.picture import Picture
from srtool.runtime.folder import upscale_images
from srtool.runtime.guard import Guard
from srtool.runtime.inputs import Job
from srtool.runtime.opening import open_engine
from srtool.runtime.upscaling import Options, Upscaling

FILE, UPSCALED_FILE = "file", "upscaled_file"


class PicturesModel:
    """What Triton calls. utils: its module `triton_python_backend_utils`."""

    def __init__(self, utils: Any) -> None:
        self._utils = utils

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the engine that the configuration names. EngineError where this server's Python
        cannot be trusted with pixels."""
        check_transport(self._utils)
        parameters = json.loads(arguments["model_config"])["parameters"]
        folder = Path(arguments["model_repository"], arguments["model_version"])
        self._engine = open_engine(folder / parameters["engine"]["string_value"])
        self._engine.upscale_batch(np.zeros((1, 32, 32, 3), np.uint8))  # what is built at first
        facts = self._engine.facts
        self._input, self._output = facts.input_name, facts.output_name

    def execute(self, requests: list[Any]) -> list[Any]:
        """Upscale the pictures of all requests; a GPU computes their tiles together."""
        started = [self._start(request) for request in requests]
        self._engine.flush()
        return list(map(self._answer, requests, started))

    def finalize(self) -> None:
        self._engine.close()

    def _start(self, request: Any) -> list[Upscaling] | SrtoolError:
        """Submit the pixels of a request; files are taken one request at a time."""
        given = self._utils.get_input_tensor_by_name(request, self._input)
        if given is None:
            return []
        try:
            return [
                Upscaling(Picture(image), self._engine, Options(), Guard(self._engine))
                for image in np.ascontiguousarray(given.as_numpy())
            ]
        except SrtoolError as error:
            return error

    def _answer(self, request: Any, started: list[Upscaling] | SrtoolError) -> Any:
        utils = self._utils
        try:
            if isinstance(started, SrtoolError):
                raise started
            if started:
                made = np.stack([upscaling.result().pixels for upscaling in started])
                return utils.InferenceResponse([utils.Tensor(self._output, made)])
            given = utils.get_input_tensor_by_name(request, FILE)
            if given is None:
                raise UsageError(
                    f"the request has neither {self._input}, (N, H, W, 3) uint8, nor {FILE}"
                )
            files = self._upscaled_files(given.as_numpy(), json.loads(request.parameters() or "{}"))
            return utils.InferenceResponse([utils.Tensor(UPSCALED_FILE, files)])
        except (SrtoolError, RuntimeError, MemoryError, ValueError) as error:
            code = utils.TritonError.INTERNAL
            if isinstance(error, ImageError | UsageError):
                code = utils.TritonError.INVALID_ARG
            return utils.InferenceResponse(error=utils.TritonError(str(error), code))

    def _upscaled_files(
        self, files: NDArray[np.object_], parameters: dict[str, Any]
    ) -> NDArray[np.object_]:
        """Encoded pictures, (N, 1), as `srtool infer` writes them."""
        options = Options(quality=_quality(parameters))
        with private_folder() as folder:
            jobs = []
            for number, data in enumerate(files.ravel()):
                source = folder / f"picture {number}"
                source.write_bytes(data)
                target = folder / f"upscaled {number}{_suffix(data, parameters)}"
                jobs.append(Job(source, target))
            for event in upscale_images(jobs, self._engine, options):
                if event.error is not None:
                    raise type(event.error)(str(event.error).replace(f"{folder}/", ""))
            made = np.empty(files.shape, np.object_)
            made.ravel()[:] = [job.target.read_bytes() for job in jobs]
            return made


def check_transport(utils: Any) -> None:
    """EngineError where an array does not survive the way into a tensor of Triton's and back.

    A Python backend that was built for NumPy 1 reads the arrays of NumPy 2 wrong: their type has
    no size then, and what is sent is empty or garbage. `as_numpy` gives back the very array that
    a tensor was made of; only by DLPack does it come from the memory that Triton sends.
    """
    for array in (
        np.arange(5 * 7 * 3, dtype=np.uint8).reshape(1, 5, 7, 3),
        np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    ):
        try:
            tensor = utils.Tensor("known", array)
            found = utils.Tensor.from_dlpack("known", tensor.to_dlpack()).as_numpy()
            same = found.dtype == array.dtype and np.array_equal(found, array)
        except Exception as error:  # whatever it is, pixels are not to be trusted to it
            found, same = error, False
        if not same:
            raise EngineError(
                f"this server's Python backend does not carry {array.dtype} arrays of NumPy "
                f"{np.__version__} unchanged (found {' '.join(str(found).split())[:60]}); install "
                "numpy<2 in the server's environment"
            )


def _suffix(data: bytes, parameters: dict[str, Any]) -> str:
    asked = parameters.get("format")
    if asked is None:
        return suffix_of(data[:HEAD])
    if asked not in WRITTEN:
        known = ", ".join(WRITTEN)
        raise UsageError(f"format {asked!r} is not written, expected one of {known}")
    return f".{asked}"


def _quality(parameters: dict[str, Any]) -> int | None:
    asked = parameters.get("quality")
    if asked is None:
        return None
    if not str(asked).isdigit():
        raise UsageError(f"quality is {asked!r}, expected 1 to 100")
    return int(asked)
