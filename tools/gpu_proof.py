"""Proof on hardware without TensorRT: srtool's way to the GPU, with PyTorch as the network.

    python tools/gpu_proof.py OUT.json [--weights x4-fast.safetensors] [--seconds 80]

CUDA through cuda-python, the scheduler with its slots, CUDA graphs, shortage of memory, threads,
and the choice of a GPU are each tried and compared with the CPU, pixel by pixel. Then PyTorch in
float16 is timed, see gpu_speed.py. Needs PyTorch for CUDA and cuda-python, and no TensorRT.
Ends with 2 where there is no GPU and with 1 where something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from proof_inputs import (
    Exact,
    Pixels,
    bytes_of,
    facts_of,
    given,
    levels,
    noise,
    noise_of_any_size,
    on_cpu,
    photographs,
)
from torch import nn
from torch_network import Queue, TorchNetwork, on_stream

from srtool.errors import EngineError
from srtool.manifest import ModelFacts, Profile, Shape
from srtool.runtime.backends.tensorrt import TensorRt
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.gpu.cuda import Cuda, OutOfMemory, open_cuda
from srtool.runtime.gpu.scheduler import Scheduler
from srtool.runtime.tiling import Canvas

Found = dict[str, Any]  # of a proof: "passed", and the figures


class Proof:
    """What is proven on one GPU. queue, device: see `TorchNetwork`."""

    def __init__(self, cuda: Cuda, queue: Queue = on_stream, device: str = "cuda") -> None:
        self.cuda, self.queue, self.device = cuda, queue, device

    def engine(
        self, module: nn.Module, facts: ModelFacts, opt: Shape, graphs: bool = True
    ) -> tuple[Engine, Scheduler]:
        """A module behind the scheduler, tuned for batches of one shape."""
        profile = Profile(min=(1, 8, 8), opt=opt, max=opt)
        module = module.to(self.device).eval()
        network = TorchNetwork(self.cuda, module, facts, profile, graphs, self.queue, self.device)
        with self.cuda.current():
            scheduler = Scheduler(self.cuda, network)
        info = EngineInfo(Path("proof"), facts, TensorRt("tensorrt", facts.precision))
        return Engine(info, scheduler), scheduler

    def exact(self, io: str = "uint8", count: int = 40, most: int = 600) -> Found:
        """Many images of different sizes on their way at once, of a network of whole numbers."""
        images = noise_of_any_size(count, most)
        expected = [on_cpu(Exact(io), image, io) for image in images]
        engine, scheduler = self.engine(Exact(io), facts_of(io), (4, 64, 96))
        with engine:
            canvases = [Canvas(given(image, io), engine) for image in images]
            engine.flush()
            made = [levels(canvas.result()) for canvas in canvases]
        pairs = zip(made, expected, strict=True)
        differ = sum(int((found != right).sum()) for found, right in pairs)
        return {
            "passed": differ == 0,
            "images": count,
            "values": sum(right.size for right in expected),
            "values that differ": differ,
            "GPU seconds": round(scheduler.busy, 4),
        }

    def graphs(self) -> Found:
        """Tiles of one shape, of which all but the first few go through a CUDA graph."""
        tiles = noise([(96, 64)] * 48)
        counting: Any = _Counting(self.cuda)  # in place of a device
        proof = Proof(counting, self.queue, self.device)
        engine, _ = proof.engine(Exact(), facts_of(), (4, 96, 64))
        made: list[Pixels] = []
        with engine:
            for tile in tiles:
                engine.submit(tile, lambda found: made.append(np.array(found)))
            engine.flush()
        right = [on_cpu(Exact(), tile) for tile in tiles]
        same = all(np.array_equal(x, y) for x, y in zip(made, right, strict=True))
        return {
            "passed": same and 0 < counting.captured < counting.launched,
            "graphs captured": counting.captured,
            "graphs launched": counting.launched,
            "batches": len(tiles) // 4,
        }

    def threads(self, number: int = 4) -> Found:
        """Engines of their own in several threads, one engine handed from thread to thread, and
        PyTorch at work beside them, all in the primary context."""
        wrong: list[str] = []
        shared, _ = self.engine(Exact(seed=99), facts_of(), (2, 64, 64))
        lock = threading.Lock()

        def work(which: int) -> None:
            engine, _ = self.engine(Exact(seed=which), facts_of(), (2, 64, 64))
            with engine:
                for image in noise_of_any_size(6, 200, which):
                    own = engine.upscale_batch(image[None])[0]
                    with lock:
                        common = shared.upscale(image[None])[0]
                    if not np.array_equal(own, on_cpu(Exact(seed=which), image)):
                        wrong.append(f"thread {which}: its own engine")
                    if not np.array_equal(common, on_cpu(Exact(seed=99), image)):
                        wrong.append(f"thread {which}: the common engine")
                    if int(torch.arange(1000, device=self.device).sum()) != 499500:
                        wrong.append(f"thread {which}: PyTorch")

        def caught(which: int) -> None:
            try:
                work(which)
            except Exception as error:  # whatever it is, it is the result
                wrong.append(f"thread {which}: {type(error).__name__}: {error}"[:200])

        threads = [threading.Thread(target=caught, args=(which,)) for which in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shared.close()
        return {"passed": not wrong, "threads": number, "wrong": wrong[:5]}

    def memory(self, left: int = 3 << 29, side: int = 512) -> Found:
        """A GPU that is full but for `left` bytes: what cannot be had is an error of its own, and a
        scheduler that asks for too much goes on with less."""
        blocks = []
        with self.cuda.current():
            try:
                self.cuda.allocate(2 * self.cuda.gpu.memory)
                refused = False
            except OutOfMemory:
                refused = True
            while (free := self.cuda.free_memory()) > left + left // 16:
                blocks.append(self.cuda.allocate(min(free - left, 8 << 30)))
        (image,) = noise([(side + 100, side + 100)])
        try:
            engine, scheduler = self.engine(Exact(), facts_of(), (64, side, side), graphs=False)
            first = str(scheduler.layout)
            with engine:
                made = engine.upscale_batch(image[None])[0]
                notes, last = engine.notes(), str(scheduler.layout)
        finally:
            with self.cuda.current():
                for block in blocks:
                    self.cuda.release(block)
        same = np.array_equal(made, on_cpu(Exact(), image))
        return {
            "passed": refused and same and not first.startswith("64 tiles"),
            "bytes left": left,
            "chosen": first,
            "in the end": last,
            "notes": notes[:4],
        }

    def network(self, name: str, weights: Path, precision: str, side: int) -> Found:
        """A real network through scheduler and graphs against PyTorch on the CPU in float32."""
        tiles = photographs(side)[:2]
        module = bytes_of(name, weights, precision)
        engine, _ = self.engine(module, facts_of(precision=precision), (2, side, side))
        found: list[Pixels] = []
        with engine:
            for tile in tiles * 4:  # often enough for graphs
                engine.submit(tile, lambda x: found.append(np.array(x)))
            engine.flush()
        reference = bytes_of(name, weights, "fp32")
        right = np.stack([on_cpu(reference, tile) for tile in tiles] * 4)
        difference = np.abs(np.stack(found).astype(np.int16) - right)
        error = float((difference.astype(np.float64) ** 2).mean())
        psnr = round(float(10 * np.log10(255**2 / error)), 2) if error else None
        later = zip(found, found[len(tiles) :], strict=False)
        repeated = all(np.array_equal(first, second) for first, second in later)
        return {
            "passed": (psnr is None or psnr >= 50) and repeated,
            "tiles": f"{len(found)} of {side}x{side}",
            "PSNR between, dB": psnr,
            "most levels": int(difference.max()),
            "share that differs": float((difference > 0).mean()),
            "the same every time": repeated,
        }


class _Counting:
    """CUDA, counting the graphs."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self.captured, self.launched = cuda, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)

    def capture(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        graph = self._cuda.capture(stream, enqueue)
        self.captured += 1
        return graph

    def launch(self, graph: Any, stream: Any) -> None:
        self.launched += 1
        self._cuda.launch(graph, stream)


_IDENTITY = """
import json
from srtool.runtime.gpu.devices import visible_gpus
from srtool.runtime.gpu.machine import this_machine
gpus, here = visible_gpus(), this_machine()
print(json.dumps({
    "uuids": [gpu.uuid for gpu in gpus],
    "devices": [[gpu.name, gpu.compute, gpu.memory, gpu.driver] for gpu in gpus],
    "machine": [here.gpu, here.compute, here.memory, here.driver] if here.gpu else here.no_gpu,
}))
"""


def identity() -> Found:
    """Which GPU is found, by number and UUID, each in a process of its own."""
    here = _seen_with(None)
    (uuid, *_) = here.pop("uuids")
    told = _told_by_smi()
    asked: dict[str, tuple[str, bool]] = {
        "number 0": ("0", True),
        "its UUID": (uuid, True),
        "the UUID of nvidia-smi": (told.pop("uuid"), True),
        "the start of its UUID": (uuid[:12], True),
        "another UUID": (uuid[:-1] + ("1" if uuid.endswith("0") else "0"), False),
        "nothing": ("", False),
        "number 7": ("7", False),
    }
    wrong = {}
    for name, (value, there) in asked.items():
        seen = _seen_with(value)
        seen.pop("uuids", None)
        if (seen != here) if there else bool(seen.get("devices", [0])):
            wrong[name] = seen
    same = here["machine"] == here["devices"][0] and told["name"] == here["machine"][0]
    return {"passed": not wrong and same, **here, "asked for": list(asked), "wrong": wrong}


def _seen_with(visible: str | None) -> Found:
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    command = [sys.executable, "-c", _IDENTITY]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if done.returncode:
        return {"error": done.stderr[-300:]}
    found: Found = json.loads(done.stdout)
    return found


def _told_by_smi() -> dict[str, str]:
    command = ["nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    name, uuid = (cell.strip() for cell in done.stdout.splitlines()[0].split(","))
    return {"name": name, "uuid": uuid}


class Run:
    """All of it, within so many seconds; what does not fit is said to be missing. The result is
    written after every step."""

    def __init__(
        self, out: Path, weights: Path, seconds: float, say: Callable[[str], None]
    ) -> None:
        self.out, self.weights, self.say = out, weights, say
        self.end = time.monotonic() + seconds
        self.passed = True
        self.result: Found = {"about": __doc__, "machine": _machine(), "proofs": {}, "speed": {}}
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def all(self) -> None:
        children = {name: self._compiling(name) for name in ("x4-fast", "full")}
        proof, weights = Proof(open_cuda()), self.weights
        self.prove("many images, uint8", proof.exact)
        self.prove("many images, float32", lambda: proof.exact("float32", 12, 300))
        self.prove("CUDA graphs", proof.graphs)
        self.prove("threads", proof.threads)
        self.prove("which GPU", identity)
        for name, side in (("x4-fast", 96), ("full", 48)):
            for precision in ("fp32", "fp16"):

                def compared(name: str = name, side: int = side, to: str = precision) -> Found:
                    return proof.network(name, weights, to, side)

                self.prove(f"{name} in {precision}", compared)
        for name, (place, child) in children.items():
            self.measure(name, place, child)
        self.prove("shortage of memory", proof.memory, 3)

    def prove(self, name: str, step: Callable[[], Found], least: float = 25) -> None:
        """least: seconds that must be left."""
        start = time.monotonic()
        if self.end - start < least:
            found: Found = {"passed": False, "error": "no time was left"}
        else:
            try:
                found = step()
            except Exception as error:  # whatever it is, it is the result
                found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:600]}
        found["seconds"] = round(time.monotonic() - start, 2)
        self.passed &= bool(found["passed"])
        self._keep("proofs", name, found)

    def measure(self, name: str, place: Path, child: subprocess.Popen[bytes]) -> None:
        """Wait until a network is compiled, as long as there is time, and have it measured."""
        while child.poll() is None and not place.with_suffix(".ready").exists():
            if time.monotonic() > self.end - 6:
                break
            time.sleep(0.1)
        place.with_suffix(".go").touch()
        try:
            child.wait(max(1.0, min(self.end - time.monotonic(), 25.0)))
            found = json.loads(place.read_text())
        except (subprocess.TimeoutExpired, OSError, ValueError) as error:
            child.kill()
            log = place.with_suffix(".log").read_text()[-600:]
            found = {"error": f"{type(error).__name__}: {log}"}
            self.passed = False
        self._keep("speed", name, found)
        for suffix in (".json", ".ready", ".go", ".log"):
            place.with_suffix(suffix).unlink(missing_ok=True)

    def _compiling(self, name: str) -> tuple[Path, subprocess.Popen[bytes]]:
        place = self.out.with_name(f"speed-{name}.json")
        command = [sys.executable, str(Path(__file__).with_name("gpu_speed.py")), name,
                   str(self.weights), "5", str(place)]  # fmt: skip
        with place.with_suffix(".log").open("w") as log:
            return place, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

    def _keep(self, kind: str, name: str, found: Found) -> None:
        self.result[kind][name] = found
        self.out.write_text(json.dumps(self.result, indent=1) + "\n")
        verdict = {True: "proven", False: "FAILED"}.get(found.get("passed", ""), "measured")
        self.say(f"{verdict}  {name}: {json.dumps(found)[:500]}")


def _machine() -> Found:
    cuda = open_cuda()
    return {
        "GPU": cuda.gpu.name,
        "compute capability": cuda.gpu.compute,
        "memory": cuda.gpu.memory,
        "driver": cuda.gpu.driver,
        "CUDA of the driver": list(cuda.gpu.cuda),
        "through": cuda.library,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "cores": os.cpu_count(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def answer(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights/x4-fast.safetensors"))
    parser.add_argument("--seconds", type=float, default=80.0, help="for all of it")
    options = parser.parse_args()
    try:
        run = Run(options.out, options.weights, options.seconds, answer)
    except EngineError as error:
        answer(f"gpu-proof: not on this machine: {error}")
        return 2
    run.all()
    return 0 if run.passed else 1


if __name__ == "__main__":
    sys.exit(main())
