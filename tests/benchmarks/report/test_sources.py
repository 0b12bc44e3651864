"""Which files a report is made of, and what is said of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from srtool.benchmarks.report.sources import sources_from_paths
from srtool.errors import DataError


def test_any_mix(
    bench_file: Path, evaluation_folder: Path, verification: Any, tmp_path: Path
) -> None:
    other = tmp_path / "whatever.txt"  # known by its content, not by its name
    other.write_text(verification.model_dump_json())
    found = sources_from_paths([other, bench_file, evaluation_folder])
    assert [name for name, _ in found.benches] == ["bench.json"]
    assert [name for name, _ in found.evaluations] == ["evaluated/evaluation.json"]
    assert found.parities == [("whatever.txt", verification)]


def test_a_folder_of_results(bench_file: Path) -> None:
    (bench_file.parent / "package.json").write_text('{"name": "something else"}')
    assert len(sources_from_paths([bench_file.parent]).benches) == 1


def test_what_is_no_result(tmp_path: Path, complains: Any) -> None:
    missing = tmp_path / "nothing.json"
    with complains(DataError, missing, "no such file", "srtool bench"):
        sources_from_paths([missing])
    for text in ('{"name": 1}', "[1, 2]", "not JSON", "\x00\x01", '"bench"'):
        path = tmp_path / "other.json"
        path.write_text(text)
        with complains(DataError, path, "no result", "srtool evaluate"):
            sources_from_paths([path])
    with complains(DataError, tmp_path, "holds no results"):
        sources_from_paths([tmp_path])


def test_results_of_another_version(bench_file: Path, tmp_path: Path, complains: Any) -> None:
    content = json.loads(bench_file.read_text())
    bench_file.write_text(json.dumps({**content, "bench": 9}))
    with complains(DataError, bench_file, "bench", "version"):
        sources_from_paths([bench_file])
    path = tmp_path / "evaluation.json"
    path.write_text('{"evaluation": 1, "protocol": {}, "mean": 3}')
    with complains(DataError, path, "srtool evaluate", "mean"):
        sources_from_paths([path])
    path.write_text('{"parity": 1}')
    with complains(DataError, path, "srtool verify"):
        sources_from_paths([path])
