"""What the Python bindings of each TensorRT have: read off the real ones, for the tests' fakes.

    python tools/tensorrt_names.py [--out tests/runtime/tensorrt_names.json]

The bindings are wheels of one megabyte. The libraries that they want are played by empty ones which
have the few functions that are looked for when the bindings load; nothing of them is called. Needs
pip, gcc and binutils, and the Python that the wheels are for (3.10 or 3.11).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

# As the tests call them, and the package.
WHEELS = {
    "8.6": "tensorrt-bindings==8.6.1",
    "10.0": "tensorrt-cu12-bindings==10.0.1",
    "10.4": "tensorrt-cu12-bindings==10.4.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "10.16": "tensorrt-cu12-bindings==10.16.1.11",
    "11": "tensorrt-cu13-bindings==11.4.0.106",
    "rtx-1.4": "tensorrt-rtx-cu13-bindings==1.4.0.76",
    "rtx": "tensorrt-rtx-cu13-bindings==1.7.1.116",
}
# Classes and enumerations that srtool touches.
CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "CudaGraphStrategy", "DataType",
    "DynamicShapesKernelSpecializationStrategy", "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "ILayer",
    "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "IRuntimeCache",
    "IRuntimeConfig", "ISerializationConfig", "MemoryPoolType", "NetworkDefinitionCreationFlag",
    "OnnxParser", "OnnxParserRefitter", "PreviewFeature", "Refitter", "Runtime", "RuntimePlatform",
    "SerializationFlag", "TensorIOMode", "TilingOptimizationLevel",
)  # fmt: skip

_DUMP = """
import importlib.machinery, importlib.util, json, sys
path, name, *classes = sys.argv[1:]
loader = importlib.machinery.ExtensionFileLoader(name, path)
module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
loader.exec_module(module)
kinds = {kind: getattr(module, kind) for kind in classes if hasattr(module, kind)}
print(json.dumps({
    kind: sorted(name for name in dir(found) if not name.startswith("_"))
    for kind, found in kinds.items()
}))
"""


def names_of(requirement: str, folder: Path) -> dict[str, Any]:
    """Version, and the public names by class, of the bindings in a wheel."""
    command = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *command, requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    (bindings,) = folder.glob("*/tensorrt*.so")
    for library in needed(bindings):
        empty_library(folder / library, wanted(bindings))
    dumped = subprocess.run(
        [sys.executable, "-c", _DUMP, str(bindings), bindings.stem, *CLASSES],
        env={"LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    classes = json.loads(dumped.stdout)
    return {"version": requirement.partition("==")[2], "classes": classes}


def needed(bindings: Path) -> list[str]:
    """NVIDIA's libraries that it is linked with."""
    listed = subprocess.run(
        ["readelf", "-d", str(bindings)], capture_output=True, text=True, check=True
    )
    names: list[str] = re.findall(r"NEEDED.*\[(lib(?:nv|tensorrt)\S+)\]", listed.stdout)
    return names


def wanted(bindings: Path) -> list[str]:
    """Functions that must be there when it loads, and are no other library's."""
    command = ["nm", "-D", "--undefined-only", str(bindings)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in listed.stdout.splitlines() if line.split()[0] == "U"]
    ours = re.compile(r"create\w+_INTERNAL|get\w*(?:Version|Registry)|initLib\w+|_ZN\d+nv\w+")
    return [name for name in names if ours.fullmatch(name)]


def empty_library(path: Path, functions: list[str]) -> None:
    source = "\n".join(f"void* {name}(void) {{ return 0; }}" for name in functions)
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(path), f"-Wl,-soname,{path.name}"]
    subprocess.run([*command, "-xc", "-"], input=source, text=True, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).resolve().parents[1] / "tests/runtime/tensorrt_names.json"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    found = {}
    for name, requirement in WHEELS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = names_of(requirement, Path(folder))
    options.out.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
