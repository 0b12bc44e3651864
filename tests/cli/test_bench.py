"""`srtool bench` at the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from srtool.benchmarks.speed.result import Bench, Roofline, read_bench

Run = Callable[..., Any]  # of conftest
QUICK = ["--sizes", "24x16", "--seconds", "0.01", "--files", "2"]


@pytest.fixture(scope="module", autouse=True)
def idle() -> Iterator[None]:
    """The peaks of the machine are for the tests of that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srtool.benchmarks.speed.bench.busy_cores", lambda: 0.0)
        patch.setattr("srtool.benchmarks.speed.bench.measured_roofline", lambda *rest: Roofline())
        yield


@pytest.fixture(scope="module")
def result(compact_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a real run, of one engine without baselines."""
    from srtool.benchmarks.speed.bench import Config, bench
    from srtool.benchmarks.speed.networks import networks_from_files
    from srtool.benchmarks.speed.result import write_bench

    folder = tmp_path_factory.mktemp("bench")
    networks = networks_from_files([compact_export / "x4.onnx"], [], [], folder)
    config = Config(sizes=((24, 16),), seconds=0.01, files=2, backends=("onnxruntime",))
    path = folder / "speed.json"
    write_bench(path, bench(networks, config, "srtool bench x4.onnx"))
    return path


def test_an_engine_is_measured_and_kept(compact_engine: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "results"
    options = [*QUICK, "--backend", "onnxruntime", "--baselines", "none", "--out", out]
    found = run("bench", compact_engine, *options)
    assert found.code == 0, found.err
    for word in ("srtool, onnxruntime fp32", "24×16", "LR MP/s", "load, s"):
        assert word in found.out
    (path,) = out.iterdir()
    assert path.name.startswith("speed-compact-")
    bench = read_bench(path)
    assert bench.command.startswith("srtool bench ")
    assert f"-> {path}" in found.err


@pytest.mark.slow
def test_tables_for_documents(result: Path, run: Run) -> None:
    found = run("bench", "compare", result, result, "--format", "md")
    rows = [line for line in found.out.splitlines() if line.startswith("| compact |")]
    assert len(rows) == 1
    assert "same" in rows[0] or "too few runs" in rows[0]
    found = run("bench", "compare", result, result, "--format", "latex")
    assert found.out.count(r"\toprule") == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench", "evaluate"])
def test_json_has_no_form_of_tables(command: str, run: Run) -> None:
    asked = ["x4.onnx"] if command == "bench" else ["photos", "--engine", "x4.onnx"]
    result = run(command, *asked, "--json", "--format", "md")
    assert (result.code, result.out) == (2, "")
    assert "--format" in result.complaint


def test_json_is_the_whole_of_the_output(compact_engine: Path, run: Run) -> None:
    options = [*QUICK, "--backend", "onnxruntime", "--baselines", "none", "--json"]
    found = run("bench", compact_engine, *options)
    assert Bench.model_validate_json(found.out).networks[0].network == "compact"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name an engine", "--preset full"]),
        (["x4.onnx", "--sizes", "256"], ["--sizes 256", "WIDTHxHEIGHT"]),
        (["x4.onnx", "--sizes", "0x5"], ["--sizes 0x5"]),
        (["x4.onnx", "--batch", "two"], ["--batch two", "1,4"]),
        (["x4.onnx", "--scaling", "speed"], ["--scaling speed", "size, batch, tile"]),
        (["x4.onnx"], ["x4.onnx: no such file"]),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], words: list[str], run: Run) -> None:
    found = run("bench", "run", *arguments)
    assert found.code == 2
    assert [word for word in words if word not in found.complaint] == []


@pytest.mark.slow
def test_a_baseline_that_does_not_exist(compact_engine: Path, run: Run) -> None:
    found = run("bench", compact_engine, *QUICK, "--baselines", "mmdeploy")
    assert found.code == 2
    assert "mmdeploy: no such baseline; expected all, none, or parts of: PyTorch" in found.complaint
    assert "(--baselines)" in found.complaint


@pytest.mark.slow
def test_a_result_is_no_slower_than_itself(result: Path, run: Run) -> None:
    found = run("bench", "compare", result, result)
    assert found.code == 0, found.err
    assert "0 regressions" in found.err


@pytest.mark.slow
def test_a_regression_ends_with_1(result: Path, run: Run, tmp_path: Path) -> None:
    data = json.loads(result.read_text())
    for timing in data["networks"][0]["candidates"][0]["timings"]:
        timing["seconds"] = [3 * seconds for seconds in timing["seconds"]]
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(data))
    found = run("bench", "compare", result, slower)
    assert found.code == 1
    assert "slower" in found.out + found.err
    assert run("bench", "compare", slower, result).code == 0


@pytest.mark.slow
def test_files_that_are_no_results(result: Path, run: Run, tmp_path: Path) -> None:
    assert "none.json: no such file" in run("bench", "compare", result, "none.json").complaint
    notes = tmp_path / "notes.json"
    notes.write_text("{}")
    found = run("bench", "compare", notes, result)
    assert "notes.json: is no result of `srtool bench`" in found.complaint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until", "kept"),
    [("round 1", False), ("process 2 of 50: opening", True)],
)
def test_an_interrupt_ends_every_process_and_keeps_what_is_done(
    compact_engine: Path, tmp_path: Path, until: str, kept: bool
) -> None:
    # Its handler of Ctrl-C is missing where this process was started in the background of a shell.
    launch = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import srtool.benchmarks.speed.bench as bench;"
        "from srtool.benchmarks.speed.result import Roofline;"
        "bench.busy_cores, bench.measured_roofline = lambda: 0.0, lambda *rest: Roofline();"
        "from srtool.cli.main import main; main()"
    )
    out = tmp_path / "speed.json"
    # So many that it is not over before the interrupt arrives
    options = ["--sizes", "24x16", "--baselines", "none", "--processes", "50", "--out", str(out)]
    options += ["--seconds", "0.01" if kept else "1000"]
    command = [sys.executable, "-c", launch, "bench", str(compact_engine), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if until in line:
                break
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert started or kept  # between two processes there may be none
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    assert out.exists() == kept
    if kept:
        assert "interrupted: the result has what was measured until then" in err
        result = read_bench(out)
        assert result.interrupted
        assert result.networks[0].candidates[0].timings[0].seconds
