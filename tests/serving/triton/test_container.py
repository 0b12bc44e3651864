"""The steps of deploy/Dockerfile.triton, without a container."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srtool.runtime.opening import open_engine
from srtool.serving.triton.repository import write_repository

RECIPE = Path(__file__).resolve().parents[3] / "deploy" / "Dockerfile.triton"
NOBODY = 65534


@pytest.mark.slow
def test_steps_of_the_triton_image(
    triton_environment: Path,
    serve: Any,
    installed: Any,
    folder_for_all: Path,
    compact_export: Path,
) -> None:
    """The wheel into an empty environment, and the server, nvidia-pytriton's in place of the base
    image's, as a user who may write nowhere, over a folder of models that is read only."""
    recipe = RECIPE.read_text()
    environment = installed(recipe, "triton")
    (theirs,) = triton_environment.glob("lib/python3.*/site-packages")
    (ours,) = environment.glob("lib/python3.*/site-packages")
    if not (theirs / "pytriton/tritonserver/python_backend_stubs" / ours.parent.name[6:]).exists():
        pytest.skip(f"Triton has no Python backend for {ours.parent.name}")
    for folder in ("pytriton", "nvidia_pytriton.libs"):
        shutil.copytree(theirs / folder, ours / folder)
    models, work = folder_for_all / "models", folder_for_all / "work"
    write_repository([compact_export / "x4.onnx"], models, "sr")
    work.mkdir()
    for path in (models, *models.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    triton = serve(models, "sr_pictures", environment=environment, work=work, **user)
    check = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", recipe, re.MULTILINE | re.DOTALL)
    assert check
    healthy = [part.replace(":8000", f":{triton.http}") for part in json.loads(check[1])]
    healthy[0] = sys.executable
    end = time.monotonic() + 60
    while subprocess.run(healthy, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < end, triton.said
        time.sleep(0.5)
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    with open_engine(f"{triton.addresses[0]}/sr_pictures") as served:
        found = served.upscale(image)
    with open_engine(compact_export / "x4.onnx") as engine:
        assert np.abs(found.astype(int) - engine.upscale(image)).max() <= 1
    written = [path for path in models.rglob("*") if path.stat().st_uid == NOBODY]
    assert not written
    assert os.stat(f"/proc/{triton.process}").st_uid == NOBODY
