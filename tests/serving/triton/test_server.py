"""The repository in a real server: the pixels of `srtool infer`, by both protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from srtool.errors import EngineError
from srtool.runtime.backends.kserve import Client, service_at
from srtool.runtime.engine import Engine
from srtool.runtime.opening import open_engine
from srtool.serving.triton.repository import write_repository

pytestmark = pytest.mark.slow
SIZES = [(1, 1), (7, 40), (64, 64), (256, 100), (300, 530)]


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def engine(compact_export: Path) -> Iterator[Engine]:
    with open_engine(compact_export / "x4.onnx") as opened:
        yield opened


@pytest.fixture(scope="module")
def triton(compact_export: Path, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    repository = tmp_path_factory.mktemp("repository")
    write_repository([compact_export / "x4.onnx"], repository, "sr")
    server = serve(repository, "sr_pictures")
    assert Client(service_at(f"{server.addresses[0]}/sr_pictures")).check() is None, server.said
    return server


@pytest.fixture(params=["grpc", "http"])
def client(request: pytest.FixtureRequest, triton: Any) -> Client:
    address = triton.addresses[("grpc", "http").index(request.param)]
    return Client(service_at(f"{address}/sr_pictures"))


@pytest.mark.parametrize("size", SIZES)
def test_pixels(size: tuple[int, int], client: Client, engine: Engine) -> None:
    image = picture(*size)
    assert np.array_equal(client.infer(image[None])[0], engine.upscale(image))


def test_several_at_a_time(client: Client, engine: Engine) -> None:
    """Of equal and of different sizes, mixed; none gets another's pixels."""
    images = [picture(*SIZES[number % 4], seed=number) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: client.infer(image[None])[0], images))
    for image, upscaled in zip(images, found, strict=True):
        assert np.array_equal(upscaled, engine.upscale(image))
    batch = np.stack([picture(20, 30, seed) for seed in range(5)])
    assert np.array_equal(client.infer(batch), np.stack([engine.upscale(each) for each in batch]))


def test_files(
    triton: Any, run: Callable[..., Any], compact_export: Path, tmp_path: Path, write_png: Any
) -> None:
    """Encoded pictures come back as the files that infer writes."""
    import tritonclient.grpc as library

    deep = np.random.default_rng(1).integers(0, 65535, (20, 30, 3), np.uint16)
    sources = [
        write_png(tmp_path / "in/a.png", picture(40, 50)),
        write_png(tmp_path / "in/b.jpg", picture(40, 50)),
        write_png(tmp_path / "in/c.tif", deep),
    ]
    result = run("infer", tmp_path / "in", "--engine", compact_export / "x4.onnx")
    assert result.code == 0
    client = library.InferenceServerClient(triton.addresses[0].removeprefix("grpc://"))
    for source in sources:
        tensor = library.InferInput("file", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[source.read_bytes()]], np.object_))
        found = client.infer("sr_pictures", [tensor]).as_numpy("upscaled_file")
        assert found.shape == (1, 1)
        assert found[0, 0] == (tmp_path / "upscaled" / source.name).read_bytes()
        found = client.infer(
            "sr_pictures", [tensor], parameters={"format": "webp", "quality": 40}
        ).as_numpy("upscaled_file")
        assert found[0, 0][8:12] == b"WEBP"


@pytest.mark.parametrize(
    ("name", "array", "kind", "parameters", "word"),
    [
        ("image", np.zeros((1, 8, 8, 4), np.uint8), "UINT8", {}, "shape"),
        ("image", np.zeros((8, 8, 3), np.uint8), "UINT8", {}, "shape"),
        ("image", np.zeros((1, 8, 8, 3), np.float32), "FP32", {}, "UINT8"),
        ("photo", np.zeros((1, 8, 8, 3), np.uint8), "UINT8", {}, "photo"),
        ("file", np.array([[b"no picture"]], np.object_), "BYTES", {}, "picture 0"),
        ("file", np.array([[b"\x89PNG"]], np.object_), "BYTES", {"format": "gif"}, "gif"),
        ("file", np.array([[b"\x89PNG"]], np.object_), "BYTES", {"quality": "x"}, "quality"),
    ],
)
def test_wrong_requests(
    name: str, array: Any, kind: str, parameters: dict[str, Any], word: str, triton: Any
) -> None:
    import tritonclient.grpc as library

    client = library.InferenceServerClient(triton.addresses[0].removeprefix("grpc://"))
    tensor = library.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    with pytest.raises(library.InferenceServerException) as caught:
        client.infer("sr_pictures", [tensor], parameters=parameters)
    assert word in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_as_an_engine(triton: Any, engine: Engine) -> None:
    """`open_engine` takes the address: facts from the manifest, 8-bit pictures only."""
    for address in triton.addresses:
        with open_engine(f"{address}/sr_pictures") as served:
            assert served.facts.scale == 4
            assert served.facts.weights_sha256 == engine.facts.weights_sha256
            assert served.facts.halo == engine.facts.halo
            image = picture(300, 530)
            assert np.array_equal(served.upscale(image), engine.upscale(image))
            assert "verify" in served.uncertified_reason
    with pytest.raises(EngineError):
        open_engine(f"{triton.addresses[0]}/nowhere")


def test_stopped_and_started(triton: Any, engine: Engine) -> None:
    assert triton.stop() == 0
    with pytest.raises(EngineError):
        open_engine(f"{triton.addresses[0]}/sr_pictures")
    triton.start()
    with open_engine(f"{triton.addresses[0]}/sr_pictures") as served:
        image = picture(40, 50)
        assert np.array_equal(served.upscale(image), engine.upscale(image))


def test_the_server_reads_the_onnx_config(triton: Any, serve: Any) -> None:
    """As far as it goes: the wheel has no onnxruntime backend, and says no more than that."""
    server = serve(triton.repository, "sr")
    assert "unable to find backend library for backend 'onnxruntime'" in server.said
