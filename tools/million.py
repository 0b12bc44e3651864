"""What a list of a million pictures costs the machine that hands them out.

    python tools/million.py results/cluster.json [COUNT]

A listing is made up in place of a store's; all else is what `srtool infer s3://... --cluster` does
before its workers have their first pictures. Then a fifth of the pictures go through two workers
that do nothing: what the head can hand out, hear of and keep in its index. Adds seconds and the
peak of memory to the JSON file.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from srtool.cluster import items, pool
from srtool.cluster.connection import Cluster, connected
from srtool.cluster.pool import Package, Work, batches_of, rows_of, upscale_on_cluster
from srtool.cluster.storage import Folder
from srtool.runtime.index import Entry, Index


class Hollow:
    """A worker that has everything done at once."""

    def __init__(self, *rest: Any) -> None:
        pass

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        done = {"kind": "done", "message": "", "pixels_in": 1, "pixels_out": 16}
        return {"happened": [[{"item": item, **done} for item in row] for row in batch["items"]]}


def main() -> None:
    """Measure, and write."""
    out, count = Path(sys.argv[1]), int(sys.argv[2] if len(sys.argv) > 2 else 1_000_000)
    sizes = {f"part-{n % 997:04}/photograph-{n:09}.jpg": 150_000 + n % 1000 for n in range(count)}
    system: Any = None
    folder = Folder("s3://bucket/in", system, "bucket/in")
    results = Folder("s3://bucket/out", system, "bucket/out")
    lists = {folder.root: sizes, results.root: {}}
    opened = {folder.url: folder, results.url: results}
    start = time.perf_counter()
    with (
        mock.patch.object(items, "open_folder", lambda url: opened[url]),
        mock.patch.object(Folder, "sizes", lambda self: lists[self.root]),
    ):
        asked = items.items_from_inputs([folder.url], results.url)
    listed = time.perf_counter() - start
    cluster = Cluster("local", workers=2)
    with connected(cluster):
        start = time.perf_counter()
        first = next(iter(rows_of(batches_of(asked.items)).iter_batches(batch_size=1)))
        handed = time.perf_counter() - start
        assert len(first["items"][0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        some = asked.items[: count // 5]
        with tempfile.TemporaryDirectory() as name, mock.patch.object(pool, "Worker", Hollow):
            index = Index(Path(name))
            happened = upscale_on_cluster(some, Package("x", {}), Work(), cluster)
            next(happened)  # the workers are there
            start = time.perf_counter()
            for number, (item, _) in enumerate(happened):  # noqa: B007
                index.add(Entry(item.target))
            rate = number / (time.perf_counter() - start)
            index.close()
    figures = {
        "pictures": len(asked.items),
        "listed s": listed,
        "first batch s": handed,
        "peak GB": peak,
        "head pictures/s": rate,
        "head batches/s": rate * len(batches_of(some, 2)) / len(some),
    }
    record = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**record, "million": figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
