"""The HTTP API: the pixels of `srtool infer`, limits, and one line for every error."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.images.reading import image_size
from srtool.serving.access import Limits

Start = Callable[..., Any]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def post_and_leave(port: int, path: str, body: bytes) -> socket.socket:
    """A caller that has sent a picture and does not read the answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize(
    ("shape", "dtype", "suffix", "parameters", "options"),
    [
        ((48, 64, 3), np.uint8, ".png", {}, []),
        ((61, 47, 4), np.uint8, ".png", {}, []),
        ((40, 33), np.uint8, ".png", {}, []),
        ((40, 33, 3), np.uint16, ".png", {}, []),
        ((40, 33, 3), np.uint16, ".tif", {"depth": 8}, ["--depth", 8]),
        ((48, 64, 3), np.uint8, ".jpg", {}, []),
        ((48, 64, 3), np.uint8, ".webp", {"quality": 50}, ["--quality", 50]),
        ((48, 64, 3), np.uint8, ".png", {"format": "avif"}, ["--format", "avif"]),
        ((48, 64, 3), np.uint8, ".png", {"scale": 1.5}, ["--scale", 1.5]),
        ((48, 64, 4), np.uint8, ".png", {"long_side": 500}, ["--long-side", 500]),
        ((48, 64, 3), np.uint8, ".png", {"fit": "100x100"}, ["--fit", "100x100"]),
        ((300, 270, 3), np.uint8, ".tif", {"format": "jpg"}, ["--format", "jpg"]),
    ],
)
def test_pixels_of_infer(
    shape: tuple[int, ...],
    dtype: Any,
    suffix: str,
    parameters: dict[str, Any],
    options: list[Any],
    start: Start,
    run: Callable[..., Any],
    compact_export: Path,
    tmp_path: Path,
    write_png: Any,
) -> None:
    """The very bytes of the file that infer writes, several tiles and many forms of pictures."""
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    source = write_png(tmp_path / f"in/photo{suffix}", pixels)
    result = run("infer", source, "--engine", compact_export / "x4.onnx", *options)
    assert result.code == 0, result.err
    (written,) = (tmp_path / "upscaled").glob("photo.*")
    answer = start().upscale(source, **parameters)
    assert answer.status == 200, answer.body
    assert answer.body == written.read_bytes()
    height, width = image_size(written)
    assert answer.headers["x-srtool-size"] == f"{width}x{height}"
    assert answer.headers["content-disposition"] == f'attachment; filename="photo{written.suffix}"'


def test_models(start: Start, engine: Any) -> None:
    client = start()
    found = client.get("/v1/models").json
    assert [model["name"] for model in found["models"]] == ["tiny", "other"]
    model = found["models"][0]
    assert model["scale"] == 4
    assert model["backend"] == str(engine.backend)
    assert found["max_bytes"] == Limits().bytes
    assert (client.get("/healthz").body, client.get("/readyz").body) == (b"ok\n", b"ready\n")


def test_openapi(start: Start) -> None:
    found = start().get("/openapi.json").json
    post = found["paths"]["/v1/upscale"]["post"]
    names = {parameter["name"] for parameter in post["parameters"]}
    assert {"engine", "format", "quality", "depth", "name", "id"} <= names
    assert "image/*" in post["requestBody"]["content"]
    assert "image/png" in post["responses"]["200"]["content"]
    assert {"/v1/models", "/healthz", "/readyz", "/metrics"} <= set(found["paths"])


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"engine": "huge"}, "huge"),
        ({"quality": 0}, "quality"),
        ({"quality": "good"}, "quality"),
        ({"format": "gif"}, "format"),
        ({"depth": 16}, "depth"),
        ({"sclae": 2}, "sclae"),
        ({"scale": 0}, "scale"),
        ({"width": -1}, "width"),
        ({"fit": "100"}, "fit"),
        ({"scale": 2, "width": 100}, "width"),
        ({"id": "../../etc"}, "id"),
        ({"name": "x" * 300}, "name"),
    ],
)
def test_wrong_parameters(
    parameters: dict[str, Any], word: str, start: Start, photographs: Path
) -> None:
    answer = start().upscale(photographs / "0.png", **parameters)
    assert answer.status == 400
    assert word in answer.detail


def test_bad_pictures(start: Start, photographs: Path, folder: Path, write_png: Any) -> None:
    """A 4xx with the library's line, in which the picture has the name that its sender knows."""
    client, whole = start(), (photographs / "0.png").read_bytes()
    alpha = write_png(photographs / "alpha.png", np.full((20, 20, 4), 99, np.uint8))
    for body, parameters, status in [
        (b"no picture", {}, 422),
        (whole[: len(whole) // 2], {}, 422),
        (b"", {}, 400),
        (alpha.read_bytes(), {"format": "jpg"}, 422),
    ]:
        answer = client.upscale(body, name="<b>holiday</b>.png", **parameters)
        assert answer.status == status
        if body:
            assert answer.detail.startswith("<b>holiday</b>.png: ")
        assert str(folder) not in answer.detail
    assert client.upscale(photographs / "0.png").status == 200


def test_too_large(start: Start, photographs: Path, write_png: Any) -> None:
    client = start(limits=Limits(megabytes=0.05, megapixels=0.01))
    assert client.upscale(bytes(60_000)).status == 413
    # many pixels in few bytes
    wide = write_png(photographs / "wide.png", np.zeros((200, 300, 3), np.uint8))
    answer = client.upscale(wide)
    assert answer.status == 413
    assert "wide.png" in answer.detail
    assert "300x200" in answer.detail
    assert client.upscale(photographs / "0.png").status == 200
    answer = client.upscale(photographs / "0.png", width=5000)
    assert answer.status == 413
    assert "5000x3750" in answer.detail


def test_one_after_the_other(start: Start, slow: Any, photographs: Path) -> None:
    """Of three pictures one is worked on and two wait; a fourth is sent away. What is promised is
    kept."""
    client = start({"slow": slow}, Limits(waiting=2))
    photo = photographs / "0.png"
    ids = [f"picture-{number}" for number in range(3)]
    callers = []
    for id in ids:
        callers.append(in_thread(lambda id=id: client.upscale(photo, id=id)))
        wait_for(lambda id=id: client.get(f"/v1/progress/{id}").json["stage"] != "none")
    wait_for(lambda: client.get(f"/v1/progress/{ids[2]}").json["before"] == 1)
    assert client.get("/readyz").status == 503
    busy = client.upscale(photo)
    assert busy.status == 429
    assert 1 <= int(busy.headers["retry-after"]) <= 600
    assert client.upscale(photo, id=ids[0]).status in (409, 429)
    slow.gate.set()
    for thread, answers in callers:
        thread.join()
        assert answers[0].status == 200
    assert client.get("/readyz").status == 200
    assert client.get(f"/v1/progress/{ids[0]}").json["stage"] == "none"


def test_a_refusal_holds_though_a_place_becomes_free(
    start: Start, slow: Any, photographs: Path
) -> None:
    client = start({"slow": slow}, Limits(waiting=1))
    photo = photographs / "0.png"
    callers = [in_thread(lambda: client.upscale(photo, id="the-first"))]
    wait_for(lambda: client.get("/v1/progress/the-first").json["stage"] == "upscaling")
    callers.append(in_thread(lambda: client.upscale(photo)))
    wait_for(lambda: client.get("/readyz").status == 503)
    content = photo.read_bytes()
    with closing(HTTPConnection("127.0.0.1", client.port, timeout=60)) as connection:
        connection.putrequest("POST", "/v1/upscale")
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content[:100])
        for _ in range(3):
            client.get("/healthz")  # the head has been read by then
        slow.gate.set()
        for thread, answers in callers:
            thread.join()
            assert answers[0].status == 200
        connection.send(content[100:])
        assert connection.getresponse().status == 429


def test_progress_by_tiles(start: Start, slow: Any, write_png: Any, tmp_path: Path) -> None:
    slow.free = 1
    client = start({"slow": slow})
    large = write_png(tmp_path / "large.png", np.zeros((300, 500, 3), np.uint8))
    thread, answers = in_thread(lambda: client.upscale(large, id="large-one"))
    seen = []

    def upscales() -> bool:
        seen.append(client.get("/v1/progress/large-one").json)
        return seen[-1]["total"] > 0

    wait_for(upscales)
    assert seen[-1] == {"stage": "upscaling", "before": 0, "done": 1, "total": 4}
    again = client.upscale(large, id="large-one")
    assert again.status == 409
    slow.gate.set()
    thread.join()
    assert answers[0].status == 200
    assert slow.tiles == 4


def test_whoever_leaves_is_not_worked_for(
    start: Start, slow: Any, write_png: Any, tmp_path: Path, folder: Path
) -> None:
    slow.free = 1
    client = start({"slow": slow})
    large = write_png(tmp_path / "large.png", np.zeros((300, 500, 3), np.uint8))
    caller = post_and_leave(client.port, "/v1/upscale?id=left-alone", large.read_bytes())
    wait_for(lambda: client.get("/v1/progress/left-alone").json["total"] > 0)
    caller.close()
    time.sleep(0.3)  # for the server to notice
    slow.gate.set()
    wait_for(lambda: client.get("/v1/progress/left-alone").json["stage"] == "none")
    assert slow.tiles < 4
    wait_for(lambda: list(folder.iterdir()) == [])
    assert client.upscale(large).status == 200


def test_time_limit(start: Start, slow: Any, write_png: Any, tmp_path: Path) -> None:
    slow.free = 1
    client = start({"slow": slow}, Limits(seconds=0.5))
    large = write_png(tmp_path / "large.png", np.zeros((300, 500, 3), np.uint8))
    thread, answers = in_thread(lambda: client.upscale(large))
    time.sleep(1)
    slow.gate.set()
    thread.join()
    assert answers[0].status == 503
    assert answers[0].detail.startswith("large.png: ")
    assert slow.tiles < 4
    small = write_png(tmp_path / "small.png", np.zeros((30, 50, 3), np.uint8))
    assert client.upscale(small).status == 200


def test_a_sender_that_stalls(start: Start) -> None:
    client = start(limits=Limits(silence=0.3))
    with socket.create_connection(("127.0.0.1", client.port)) as caller:
        caller.sendall(
            b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab"
        )
        assert caller.recv(100).startswith(b"HTTP/1.1 408 ")


def test_an_answer_that_is_not_fetched(
    start: Start, photographs: Path, folder: Path, write_png: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    noise = write_png(tmp_path / "noise.png", random)
    client = start()
    caller = post_and_leave(client.port, "/v1/upscale", noise.read_bytes())
    assert caller.recv(100).startswith(b"HTTP/1.1 200 ")
    caller.close()
    wait_for(lambda: list(folder.iterdir()) == [])
    assert client.upscale(photographs / "0.png").status == 200


def test_metrics(start: Start, photographs: Path) -> None:
    client = start()
    client.upscale(photographs / "0.png")
    client.upscale(b"no picture")
    lines = client.get("/metrics").body.decode().splitlines()
    assert 'srtool_answers_total{status="200"} 1.0' in lines
    assert 'srtool_answers_total{status="422"} 1.0' in lines
    assert 'srtool_pixels_total{engine="tiny",side="in"} 3072.0' in lines
    assert 'srtool_pixels_total{engine="tiny",side="out"} 49152.0' in lines
    assert 'srtool_seconds_count{engine="tiny",stage="compute"} 1.0' in lines
    assert "srtool_waiting 0.0" in lines


def test_metrics_of_two_servers(start: Start, photographs: Path) -> None:
    start().upscale(photographs / "0.png")
    assert b"srtool_answers_total{" not in start().get("/metrics").body
