"""Four networks become a table: real scores of tiny networks."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import ablation
import pytest
import torch
from readme import ABLATION
from readme import ablation as table

from srtool.benchmarks.evaluation import Evaluation
from srtool.errors import UsageError
from srtool.networks.generator import Generator, GeneratorConfig
from srtool.networks.loading import save_generator


def test_networks_become_a_table(
    tiny_config: GeneratorConfig,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRTOOL_ASSETS", str(tmp_path / "none"))
    arguments = ["ablation.py", "--data", str(photographs), "--results", "results"]
    for row, taps in (("no_unet", (1,)), ("full", (1,)), ("no_gradient_branch", ())):
        torch.manual_seed(len(row))
        path = tmp_path / "weights" / f"{row}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_generator(path, Generator(replace(tiny_config, taps=taps)), {"steps": 7})
        arguments.append(f"{row}={path}" if row == "full" else str(path))
    monkeypatch.setattr(sys, "argv", arguments)
    ablation.main()
    text = (tmp_path / "results" / "ablation.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    found = Evaluation.model_validate_json(text)
    assert found.engines["full"]["file"] == "full.safetensors"
    assert {"niqe", "lpips"} <= found.unavailable.keys()  # no assets are here
    rows = [line.split(" | ") for line in table(tmp_path / "results").splitlines()[2:]]
    assert [row[1] for row in rows] == [
        ABLATION[name] for name in ("full", "no_gradient_branch", "no_unet")
    ]
    means = found.mean["photographs"]
    assert rows[0][2].strip("*") == f"{means['full']['psnr']:.3f}"
    assert "full: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments, "fool=x.safetensors"])
    with pytest.raises(UsageError, match="no_gradient_branch"):
        ablation.main()
