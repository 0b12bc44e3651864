"""Pictures over a Ray cluster of two nodes on this machine: each is done once, whoever dies."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from srtool.cluster.connection import Cluster, connected
from srtool.cluster.items import Item
from srtool.cluster.pool import BATCH_BYTES, BATCH_FILES, batches_of
from srtool.errors import UsageError
from srtool.manifest import sidecar

# Ray warns of its own ways
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# As /proc/net has them
LOOPBACK = "0100007F"
LOOPBACK_4IN6 = "0000000000000000FFFF00000100007F"
LOOPBACK_6 = "00000000000000000000000001000000"

# In a worker's process: opening a file called "killer" ends it; "once" does so the first time,
# and so does giving the result "half" its name. Each takes itself for a machine of its own, with
# private folders below TEMPORARY.
DEATH = """
import os, socket, sys, tempfile
if sys.argv[:1] and "default_worker" in sys.argv[0]:
    tempfile.tempdir = TEMPORARY
    name = f"machine-{os.getpid()}"
    socket.gethostname = lambda: name
    def watch(event, arguments):
        if event == "os.rename" and os.path.basename(arguments[1]) == "half.png":
            if not os.path.exists(str(arguments[1]) + ".died"):
                os.close(os.open(str(arguments[1]) + ".died", os.O_CREAT | os.O_WRONLY))
                os._exit(9)
        if event != "open" or not isinstance(arguments[0], str):
            return
        name = os.path.basename(arguments[0])
        if name == "killer.png":
            os._exit(9)
        if name == "once.png" and not os.path.exists(arguments[0] + ".died"):
            os.close(os.open(arguments[0] + ".died", os.O_CREAT | os.O_WRONLY))
            os._exit(9)
    sys.addaudithook(watch)
"""


def test_batches_hold_many_small_pictures_and_one_large() -> None:
    items = [Item(f"{n}", f"{n}", 1000) for n in range(BATCH_FILES + 3)]
    items.insert(5, Item("large", "large", BATCH_BYTES + 1))
    batches = batches_of(items)
    assert [item for batch in batches for item in batch] == items
    assert max(map(len, batches)) <= BATCH_FILES
    assert [item.source for item in next(b for b in batches if b[0].source == "large")] == ["large"]
    assert batches_of([]) == []


def test_batches_get_smaller_so_that_workers_end_together() -> None:
    items = [Item(f"{n}", f"{n}", 1000) for n in range(1000)]
    sizes = list(map(len, batches_of(items, workers=4)))
    assert sum(sizes) == 1000
    assert max(sizes) == BATCH_FILES
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers make private folders."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Iterator[Any]:
    """Two raylets of one CPU each, whose workers obey `DEATH`."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(DEATH.replace("TEMPORARY", repr(str(temporary))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{':'.join(path for path in sys.path if path)}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("SRTOOL_ASSETS", str(tmp_path_factory.mktemp("cache")))
        found = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
        found.add_node(num_cpus=1)
        yield found
        found.shutdown()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    from srtool.images.picture import Picture
    from srtool.images.writing import write_image

    folder, random = tmp_path / "in", np.random.default_rng(3)
    for number in range(9):
        pixels = random.integers(0, 256, (20 + number, 30, 3), np.uint8)
        write_image(folder / f"{number % 2}" / f"{number}.png", Picture(pixels))
    return folder


@pytest.fixture
def infer(run: Callable[..., Any], nodes: Any) -> Callable[..., Any]:
    """`srtool infer` over the two nodes."""

    def command(source: Path | str, out: Path | str, *more: str) -> Any:
        options = ("--cluster", nodes.address, "--workers", "2", "--threads", "1", *more)
        return run("infer", source, "-o", out, *options)

    return command


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")
    }


def unfinished_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".srtool-*") if "index" not in path.name]


@pytest.mark.slow
def test_the_bytes_are_those_of_a_plain_run(
    infer: Callable[..., Any], run: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    (photographs / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    assert infer(photographs, tmp_path / "there").code == 1
    assert run("infer", photographs, "-o", tmp_path / "here", "--threads", "1").code == 1
    there = files_in(tmp_path / "there")
    assert len(there) == 9
    assert there == files_in(tmp_path / "here")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "there").rglob("*.png")}
    again = infer(photographs, tmp_path / "there", "--json")
    assert '"skipped": 9' in again.out
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
def test_an_engine_that_is_not_certified_is_named_once_or_refused(
    infer: Callable[..., Any], compact_engine: Path, photographs: Path, tmp_path: Path
) -> None:
    sidecar(compact_engine).unlink()
    engine = ("--engine", str(compact_engine), "--backend", "onnxruntime")
    refused = infer(photographs, tmp_path / "out", *engine, "--require-certified")
    assert refused.code == 2
    assert "is not certified" in refused.complaint
    assert files_in(tmp_path / "out") == {}
    result = infer(photographs, tmp_path / "out", *engine)
    assert result.code == 0
    assert len(files_in(tmp_path / "out")) == 9
    assert 1 <= sum("is not certified" in line for line in result.lines) <= 2


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_picture(
    infer: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    (photographs / "once.png").write_bytes((photographs / "0" / "0.png").read_bytes())
    result = infer(photographs, tmp_path / "out")
    assert (photographs / "once.png.died").exists()
    assert result.code == 0
    assert len(files_in(tmp_path / "out")) == 10


@pytest.mark.slow
def test_what_a_worker_leaves_unfinished_is_gone_at_the_end(
    infer: Callable[..., Any], photographs: Path, temporary: Path, tmp_path: Path
) -> None:
    (photographs / "half.png").write_bytes((photographs / "0" / "0.png").read_bytes())
    result = infer(photographs, tmp_path / "out")
    assert (tmp_path / "out" / "half.png.died").exists()
    assert result.code == 0
    assert len(files_in(tmp_path / "out")) == 10
    assert unfinished_in(tmp_path / "out") == []
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_picture_that_ends_every_worker_costs_no_other(
    infer: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    (photographs / "killer.png").write_bytes((photographs / "0" / "0.png").read_bytes())
    result = infer(photographs, tmp_path / "out", "--json")
    assert result.code == 1
    assert '"failed": 1' in result.out
    assert "killer.png" in result.err
    assert len(files_in(tmp_path / "out")) == 9


@pytest.mark.slow
def test_a_node_that_goes_costs_no_picture(
    nodes: Any, infer: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    lost = nodes.add_node(num_cpus=1)

    def remove() -> None:
        while not files_in(tmp_path / "out"):
            time.sleep(0.1)
        nodes.remove_node(lost, allow_graceful=False)

    removal = threading.Thread(target=remove, daemon=True)
    removal.start()
    result = infer(photographs, tmp_path / "out", "--workers", "3")
    removal.join(60)
    assert result.code == 0
    assert len(files_in(tmp_path / "out")) == 9


@pytest.mark.slow
def test_an_interrupt_ends_the_job_and_leaves_the_cluster_clean(
    nodes: Any, infer: Callable[..., Any], photographs: Path, temporary: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "srtool", "infer", str(photographs), "-o", str(tmp_path / "o")]
    command += ["--cluster", nodes.address, "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not files_in(tmp_path / "o") and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    assert process.returncode in (0, 130)  # it may have been done
    assert "Traceback" not in complaints
    # Every CPU is free again, so another job runs at once
    import ray

    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    try:
        end = time.monotonic() + 60
        while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        ray.shutdown()
    # Ray ends workers when it likes: what one leaves in its last moment goes with the next run
    assert infer(photographs, tmp_path / "o").code == 0
    assert len(files_in(tmp_path / "o")) == 9
    assert unfinished_in(tmp_path) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nearby"])
def test_where_no_cluster_answers_that_is_said_at_once(address: str) -> None:
    with pytest.raises(UsageError) as caught, connected(Cluster(address)):
        pass
    assert caught.value.found == address
    assert caught.value.parameter == "cluster"


@pytest.mark.parametrize("is_named", [False, True])
def test_a_cluster_that_is_gone_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if is_named:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    else:  # as `ray start` leaves it
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    monkeypatch.setitem(sys.modules, "ray", None)  # which would ask for more than a minute
    with pytest.raises(UsageError) as caught, connected(Cluster("auto")):
        pass
    assert caught.value.found == "auto"


@pytest.fixture
def infer_outside(run: Callable[..., Any], nodes: Any) -> Iterator[Callable[..., Any]]:
    """`srtool infer` over the two nodes, through Ray's client."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = [sys.executable, "-m", "ray.util.client.server", "--address", nodes.address]

    def command(source: Path, out: Path, *more: str) -> Any:
        cluster = ("--cluster", f"ray://127.0.0.1:{port}", "--workers", "2")
        return run("infer", source, "-o", out, *cluster, *more)

    with subprocess.Popen([*client, "--host", "127.0.0.1", "--port", str(port)]) as server:
        try:
            await_port(port)
            yield command
        finally:
            server.terminate()


def await_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    pytest.fail(f"nobody listens on port {port}")


@pytest.mark.slow
def test_through_the_client_of_a_machine_outside(
    infer_outside: Callable[..., Any],
    run: Callable[..., Any],
    photographs: Path,
    tmp_path: Path,
) -> None:
    """ray://, whose driver cannot run Ray Data itself."""
    (photographs / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    (photographs / "killer.png").write_bytes((photographs / "0" / "0.png").read_bytes())
    result = infer_outside(photographs, tmp_path / "out", "--json")
    assert result.code == 1
    assert '"failed": 2' in result.out
    assert "killer.png" in result.err
    assert run("infer", photographs / "0", photographs / "1", "-o", tmp_path / "here").code == 0
    there = {Path(name).name: data for name, data in files_in(tmp_path / "out").items()}
    assert there == files_in(tmp_path / "here")


@pytest.mark.slow
def test_a_driver_in_the_cluster_that_dies_costs_no_picture(
    infer_outside: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    for number in range(9, 40):  # so that there is work left when it dies
        (photographs / f"{number}.png").write_bytes((photographs / "0" / "0.png").read_bytes())
    killed: list[int] = []

    def kill() -> None:
        drivers: list[psutil.Process] = []
        while not drivers:
            drivers = [process for process in psutil.process_iter() if is_driver(process)]
        while not files_in(tmp_path / "out"):
            time.sleep(0.02)
        for process in drivers:
            process.kill()
            killed.append(process.pid)

    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    result = infer_outside(photographs, tmp_path / "out", "--json")
    killing.join(60)
    assert killed
    assert result.code == 0
    assert '"failed": 0' in result.out
    assert len(files_in(tmp_path / "out")) == 40


def is_driver(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name().startswith("ray::Driver")
    return False


@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_to_it_alone(photographs: Path, tmp_path: Path) -> None:
    """Whoever can reach a port of Ray's can have code run."""
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "srtool", "infer", str(photographs), "-o", str(tmp_path / "o")]
    before = listening_to_others()
    seen: set[str] = set()
    with subprocess.Popen([*command, "--cluster", "local", "--workers", "1"]) as process:
        while process.poll() is None:
            seen |= listening_to_others() - before
            time.sleep(0.2)
    assert process.returncode == 0
    assert len(files_in(tmp_path / "o")) == 9
    assert not seen


def listening_to_others() -> set[str]:
    """The addresses, other than of the loopback, on which anybody here listens (Linux)."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address = local.partition(":")[0]
            if state == "0A" and address not in (LOOPBACK, LOOPBACK_4IN6, LOOPBACK_6):
                found.add(local)
    return found


def test_a_cluster_needs_room_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from srtool.cluster import pool

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(UsageError):
        pool._workers(Cluster("local", gpus=1))
