"""Every kind of bad file: one line, the next image, and nothing but whole files left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from zoo import EITHER, fill

from srtool.images.reading import read_image
from srtool.manifest import ModelFacts
from srtool.runtime.backends.onnxruntime import OnnxRuntime
from srtool.runtime.engine import Engine, EngineInfo
from srtool.runtime.folder import upscale_images
from srtool.runtime.forecast import forecast, outlook
from srtool.runtime.index import Index
from srtool.runtime.inputs import jobs_from_inputs
from srtool.runtime.session import DirectSession
from srtool.runtime.upscaling import Options


def nearest() -> Engine:
    facts = ModelFacts(scale=4, io="uint8", precision="fp32", architecture="test", halo=2)

    def run(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return batch.repeat(4, 1).repeat(4, 2)

    floats = facts.model_copy(update={"io": "float32"})
    companion = DirectSession(floats, lambda batch: batch.repeat(4, 2).repeat(4, 3))
    session = DirectSession(facts, run)
    return Engine(EngineInfo(Path("x4.onnx"), facts, OnnxRuntime()), session, lambda: companion)


@pytest.mark.skipif(os.name == "nt", reason="its names and links are for Unix")
def test_no_animal_ends_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    animals = {animal.name: animal for animal in fill(tmp_path / "zoo")}
    assert len(animals) >= 80
    found = jobs_from_inputs([str(tmp_path / "zoo")], tmp_path / "out", "_4x")
    assert found.folder is not None
    index = Index(found.folder)
    foreseen = list(outlook(found.jobs, nearest(), Options(), index))
    assert forecast(foreseen, len(foreseen), nearest(), Options(), always=True) is not None
    assert capfd.readouterr() == ("", "")
    events = list(upscale_images(found.jobs, nearest(), None, None, index))
    index.close()
    kinds = {e.job.source.name: e.kind for e in events if e.kind != "note"}
    assert kinds.keys() == animals.keys()
    wrong = {
        name: kind
        for name, kind in kinds.items()
        if animals[name].right != EITHER and kind != animals[name].right
    }
    assert wrong == {}
    # What fails by its head has failed; what was foreseen to fail did
    expected = {each.job.source.name for each in foreseen if each.event and each.event.error}
    assert expected <= {name for name, kind in kinds.items() if kind == "failed"}
    assert len(expected) > 40
    for event in events:
        # The name may hold anything; the rest is one line
        assert "\n" not in event.message.replace(str(event.job.source), "")
    for event in events:
        if event.kind == "done":
            assert read_image(event.job.target).pixels.size
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(made) == list(kinds.values()).count("done") + 1  # and the index
    assert capfd.readouterr() == ("", "")
