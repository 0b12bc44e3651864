"""The check of a GPU machine, as far as it goes without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_check
import gpu_engines
import pytest
from gpu_check import (
    BARS,
    Checked,
    check,
    main,
    misses,
    over,
    print_checked,
)
from gpu_engines import Built, build

from srtool.benchmarks.speed.bench import Config
from srtool.benchmarks.speed.result import (
    Bench,
    EndToEnd,
    Machine,
    Measured,
    Side,
    Timing,
    read_bench,
    write_bench,
)
from srtool.errors import EngineError, ExportError
from srtool.export.tensorrt.plans import Source
from srtool.manifest import PlanRecipe
from srtool.parity import Fidelity
from srtool.runtime.gpu.cuda import find_gpu
from srtool.runtime.gpu.plan import Machine as GpuMachine

EAGER, COMPILED = BARS
PLAN, CUDA = "srtool, tensorrt fp16, x4.tensorrt.plan", "srtool, onnxruntime-cuda, x4.onnx"
HERE = GpuMachine("Fake GPU", "8.9", "580.65.06")


def fidelity(between: float | None = 60.0) -> Fidelity:
    return Fidelity(
        images=1,
        max_difference=2,
        mean_difference=0.1,
        share_different=0.1,
        share_over_1=0.0,
        psnr_between=between,
        delta_psnr=0.0,
        worst_delta_psnr=0.0,
    )


@pytest.fixture(scope="module")
def on_the_cpu() -> Any:
    """ONNX Runtime on the CPU takes the place of a provider that works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_engines, "ON_ONNX", ("onnxruntime", "onnxruntime-tensorrt"))
        yield


@pytest.fixture(scope="module")
def checked(
    on_the_cpu: Any, compact_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checked:
    """What a machine with one engine finds: real files, a real run."""
    config = Config(
        sizes=((24, 16),),
        batches=(1, 2),
        seconds=0.01,
        files=2,
        threads=1,
        compared=("PyTorch eager fp32",),
    )
    folder = tmp_path_factory.mktemp("check")
    return check([compact_weights, compact_weights], folder, HERE, config, "gpu_check")


ENGINE = "srtool, onnxruntime fp32"  # the only file of its network


def test_an_engine_is_certified_and_measured_beside_pytorch(checked: Checked) -> None:
    (measured,) = checked.bench.networks
    assert measured.network == "compact"
    assert [side.name for side in measured.sides] == ["PyTorch eager fp32", ENGINE]
    engine = measured.sides[1]
    assert [(timing.size, timing.batch) for timing in engine.timings] == [
        ((24, 16), 1), ((24, 16), 2),
    ]  # fmt: skip
    assert engine.end_to_end[0].files == 2
    assert measured.flops == 2 * 9 * (3 * 8 + 8 * 8 + 8 * 48)
    (fidelities,) = checked.fidelities
    assert list(fidelities) == [ENGINE]
    assert fidelities[ENGINE].passed


def test_what_cannot_be_built_is_named_with_the_reason(checked: Checked) -> None:
    absent = checked.bench.networks[0].absent
    assert list(absent) == ["tensorrt", "tensorrt-rtx", "compact.onnx on onnxruntime-tensorrt"]
    assert "TensorRT is not installed" in absent["tensorrt"]
    assert "TensorRT-RTX is not installed" in absent["tensorrt-rtx"]


def test_references_that_were_not_measured_are_missed(checked: Checked) -> None:
    for name in BARS:
        assert f"compact: {name} was not measured" in checked.missed


def test_the_result_is_read_and_printed_as_every_other(
    checked: Checked, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results" / "speed-fake-gpu.json"
    write_bench(path, checked.bench)
    assert read_bench(path) == checked.bench
    print_checked(checked)
    out, err = capfd.readouterr()
    assert f"compact: {ENGINE}: {checked.fidelities[0][ENGINE].grade} (" in out
    assert "of the time of 2 files in compute" in out
    assert "not run: tensorrt-rtx: " in err
    assert f"missed: compact: {EAGER} was not measured" in err


@pytest.mark.parametrize(("compute", "precision"), [("8.9", "fp16"), ("6.1", "fp32")])
def test_the_precision_suits_the_gpu(
    compute: str,
    precision: str,
    compact_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export(network: Any, out: Path, precision: str, force: bool) -> None:
        assert (out.name, force) == ("compact.onnx", True)
        raise ExportError(precision)

    monkeypatch.setattr(gpu_engines.onnx, "export", export)
    with pytest.raises(ExportError, match=precision):
        build(compact_weights, tmp_path, GpuMachine("Fake GPU", compute, "580"))


def test_plans_are_kept_with_their_grade_even_where_they_are_not_faithful(
    compact_weights: Path, compact_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_plan(
        source: Source, out: Path, recipe: PlanRecipe, here: GpuMachine, **options: Any
    ) -> Any:
        assert here is HERE
        assert options.pop("force")
        assert callable(options.pop("certify"))
        assert not options
        native = recipe.flavour == "tensorrt"
        found = {"tensorrt fp16": fidelity(20)} if native else {}
        plan = SimpleNamespace(not_certified=f"{out}: cannot\nrun")
        return SimpleNamespace(manifest=SimpleNamespace(fidelity=found, plan=plan))

    onnx = compact_export / "x4.onnx"
    monkeypatch.setattr(gpu_engines.onnx, "export", lambda *a, **k: [SimpleNamespace(path=onnx)])
    monkeypatch.setattr(gpu_engines, "export_plan", export_plan)
    monkeypatch.setattr(gpu_engines, "ON_ONNX", ())
    built = build(compact_weights, tmp_path, HERE)
    assert built.files == [onnx, compact_export / "x4.tensorrt.plan"]
    assert built.certified == {("x4.tensorrt.plan", "tensorrt fp16"): fidelity(20)}
    assert built.absent == {"tensorrt-rtx": "x4.tensorrt-rtx.plan: cannot run"}


def test_no_engine_at_all(
    compact_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(weights: Path, *rest: Any) -> Built:
        return Built(weights, [], absent={"tensorrt": "is broken"})

    monkeypatch.setattr(gpu_engines, "build", build)
    with pytest.raises(EngineError, match=r"^compact: no engine could be measured \(tensorrt: is"):
        check([compact_weights], tmp_path, HERE, Config())


def test_one_network_without_engines(
    compact_weights: Path,
    compact_export: Path,
    overflowing_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_bench: Callable[..., Bench],
) -> None:
    """The others are measured; nothing of it goes into the run."""
    onnx, good = compact_export / "x4.onnx", {("x4.onnx", "onnxruntime-cuda"): fidelity()}

    def build(weights: Path, *rest: Any) -> Built:
        if weights != compact_weights:
            return Built(weights, [tmp_path / "none.onnx"], absent={"tensorrt": "is broken"})
        return Built(weights, [onnx], ["onnxruntime-cuda"], good, {"tensorrt": "is too old"})

    def bench(networks: Sequence[Any], config: Config, *rest: Any) -> Bench:
        assert [network.engines for network in networks] == [[onnx]]
        assert config.backends == ("onnxruntime-cuda",)
        return make_bench({"srtool, onnxruntime-cuda": [1.0]}, measured={"absent": {"b": "c"}})

    monkeypatch.setattr(gpu_engines, "build", build)
    monkeypatch.setattr("srtool.benchmarks.speed.bench.bench", bench)
    found = check([overflowing_weights, compact_weights], tmp_path, HERE, Config())
    assert found.missed[0] == ("overflowing: no engine could be measured (tensorrt: is broken)")
    assert found.bench.networks[0].absent == {"tensorrt": "is too old", "b": "c"}


def side(name: str, *runs: tuple[int, Sequence[float]], share: float = 0) -> Side:
    """runs: batch, and seconds of its rounds."""
    timings = tuple(
        Timing(size=(16, 16), batch=batch, seconds=tuple(seconds), warm_up=2)
        for batch, seconds in runs
    )
    folder = EndToEnd(files=200, size=(16, 16), seconds=10, decode=1, compute=10 * share, encode=1)
    return Side(
        name=name,
        kind="engine" if name.startswith("srtool") else "baseline",
        software="",
        precision="fp16",
        load=1,
        cold=1,
        timings=timings,
        end_to_end=(folder,) if share else (),
    )


def network(*sides: Side) -> Measured:
    return Measured(network="x4", architecture="", scale=4, reference=EAGER, sides=sides)


def against(engine: Side, eager: float = 2.0, compiled: float = 1.2) -> Measured:
    """An engine that takes a second a run, and PyTorch, which takes this many."""
    return network(side(EAGER, (1, [eager])), side(COMPILED, (1, [compiled])), engine)


def test_ratios_are_round_by_round_at_the_largest_batch_that_both_ran() -> None:
    mine = side(PLAN, (1, [1.0]), (4, [1.0, 2.0, 4.0]), (16, [1.0]))
    found = over(mine, side(EAGER, (1, [9.0]), (4, [2.0, 5.0, 6.0])))
    assert found is not None
    assert (found.median, found.low, found.high) == (2.0, 1.5, 2.5)
    assert over(mine, side(EAGER, (8, [1.0]))) is None
    assert over(mine, None) is None


def test_the_bars_are_met() -> None:
    assert misses(against(side(PLAN, (1, [1.0]), share=0.9)), {PLAN: fidelity(55)}) == []


def test_the_fastest_engine_counts_and_a_slower_one_only_has_to_be_faithful() -> None:
    slow, fast = side(CUDA, (1, [9.0]), share=0.1), side(PLAN, (1, [1.0]), share=0.9)
    found = network(side(EAGER, (1, [2.0])), side(COMPILED, (1, [1.2])), slow, fast)
    assert misses(found, {PLAN: fidelity(), CUDA: fidelity()}) == []
    (line,) = misses(found, {PLAN: fidelity(), CUDA: fidelity(45)})
    assert line.startswith(f"{CUDA} is lossy (45.0 dB between")


def test_the_bars_are_missed() -> None:
    engine = side(PLAN, (1, [1.0]), share=0.894)
    lines = misses(against(engine, 1.99, 1.1), {PLAN: fidelity(None)})
    assert lines == [
        f"{PLAN} is 1.99x as fast as {EAGER}, expected 2x",
        f"{PLAN} is 1.10x as fast as {COMPILED}, expected 1.2x",
        f"{PLAN} computes in 89.4% of the time of a folder, expected 90%",
    ]


def test_what_was_not_measured_is_missed() -> None:
    assert misses(against(side(PLAN)), {PLAN: fidelity()}) == [
        f"{PLAN} was certified but not measured",
        "no engine could be measured",
    ]
    assert misses(network(side(PLAN, (1, [1.0]))), {}) == [
        f"{PLAN} was measured but not certified",
        f"{EAGER} was not measured",
        f"{COMPILED} was not measured",
        f"{PLAN} was not measured from file to file",
    ]


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_engines, "machine_with_gpu", lambda: HERE)


def test_the_exit_code_and_the_file(
    a_gpu: None,
    machine: Machine,
    compact_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    found = against(side(PLAN, (1, [1.0]), share=0.9))
    missed: tuple[str, ...] = ()

    def check(weights: Sequence[Path], folder: Path, here: GpuMachine, *rest: Any) -> Checked:
        config, command, _ = rest
        assert list(weights) == [compact_weights]
        assert config.device == "cuda"
        assert (config.files, config.batches) == (7, (1, 4))
        assert config.compared == ("PyTorch eager",)
        bench = Bench(made="now", command=command, machine=machine, networks=(found,))
        return Checked(bench, ({PLAN: fidelity()},), missed)

    monkeypatch.setattr(gpu_check, "check", check)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "results")
    options = ["--model", str(compact_weights), "--images", "7", "--no-compile"]
    assert main(options) == 0
    path = tmp_path / "results" / "speed-fake-gpu-gpu.json"
    written = read_bench(path)
    assert written.command.startswith("python tools/gpu_check.py --model /")
    out, err = capfd.readouterr()
    verdict = f"x4: {PLAN}: faithful (60.0 dB to PyTorch), 2.00x (2.00-2.00) as fast as {EAGER}, "
    assert verdict in out
    assert f"-> {path}" in err
    missed = ("x4: a bar",)
    assert main(options) == 1
    assert "missed: x4: a bar" in capfd.readouterr().err


def test_an_error_is_one_line(
    a_gpu: None,
    compact_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def check(*arguments: Any) -> Checked:
        raise ExportError("x4.onnx: went wrong")

    monkeypatch.setattr(gpu_check, "check", check)
    assert main(["--model", str(compact_weights)]) == 1
    assert capfd.readouterr().err == "gpu-check: x4.onnx: went wrong\n"


def test_without_a_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    assert main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("gpu-check: not on this machine: ")


def test_processes_of_the_sides_do_not_load_what_it_needs() -> None:
    """Each imports the module that was started, before its own time and memory are taken."""
    code = "import sys, gpu_check; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "onnxruntime", "pyvips", "numpy"} & set(found.stdout.split())
