"""The files that a report is made of, recognised by what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from srtool.benchmarks.evaluation import JSON, Evaluation
from srtool.benchmarks.speed.result import Bench, Measured, read_bench, result_from_file
from srtool.errors import DataError, UsageError
from srtool.images.folders import images_below
from srtool.images.formats import READABLE

if TYPE_CHECKING:
    from srtool.benchmarks.verify import Verification


@dataclass
class Sources:
    """Everything that was measured, and the names of the files."""

    benches: list[tuple[str, Bench]] = field(default_factory=list)
    evaluations: list[tuple[str, Evaluation]] = field(default_factory=list)
    parities: list[tuple[str, Verification]] = field(default_factory=list)

    @property
    def networks(self) -> list[tuple[Bench, Measured]]:
        return [(bench, network) for _, bench in self.benches for network in bench.networks]


def results_and_photographs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """What `sources_from_paths` takes, and pictures: files, and folders without any JSON file."""
    photographs = [
        path
        for path in paths
        if path.suffix.lower() in READABLE
        or (path.is_dir() and not any(path.glob("*.json")) and images_below(path).files)
    ]
    return [path for path in paths if path not in photographs], photographs


def sources_from_paths(paths: list[Path]) -> Sources:
    """Read results of `srtool bench`, `srtool evaluate` and `srtool verify`.

    Of a folder, evaluation.json is taken, or else all the results in it. DataError where a file
    is missing or no result, or a folder holds none.
    """
    found = Sources()
    for path in paths:
        if path.is_dir():
            files = [path / JSON] if (path / JSON).is_file() else sorted(path.glob("*.json"))
            if sum(_is_added(found, file) for file in files) == 0:
                raise DataError(
                    f"{path}: holds no results; expected {JSON} of `srtool evaluate`, or files "
                    "of `srtool bench` or `srtool verify`"
                )
        elif not _is_added(found, path):
            raise DataError(
                f"{path}: is no result that a report is made of; expected a JSON file of "
                "`srtool bench`, `srtool evaluate` or `srtool verify`"
            )
    return found


def _is_added(found: Sources, path: Path) -> bool:
    """Whether the file is a result, which has the key that names its kind, and so is added."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; expected a result of `srtool bench`, `srtool evaluate` "
            "or `srtool verify`"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError:
        return False
    # Without the folders of this machine; evaluations are all called alike, so with one.
    name = f"{path.resolve().parent.name}/{JSON}" if path.name == JSON else path.name
    keys = content if isinstance(content, dict) else {}
    if "bench" in keys:
        found.benches.append((name, read_bench(path)))
    elif "evaluation" in keys:
        found.evaluations.append((name, result_from_file(path, Evaluation, "evaluate")))
    elif "parity" in keys:
        try:
            from srtool.benchmarks.verify import Verification
        except ModuleNotFoundError as error:
            raise UsageError(
                f"{path}: is a result of `srtool verify`; reading it needs {error.name}, which is "
                "not installed; pip install 'srtool[bench,export,cpu]'"
            ) from None
        found.parities.append((name, result_from_file(path, Verification, "verify")))
    else:
        return False
    return True
