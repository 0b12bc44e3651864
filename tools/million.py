"""What a list of a million pictures costs the machine that hands them out.

    python tools/million.py [COUNT]

A listing is made up in place of a store's; all else is what `srtool infer s3://... --cluster` does
before its workers have their first pictures. Prints seconds and the peak of memory as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any
from unittest import mock

from srtool.cluster import items
from srtool.cluster.connection import Cluster, connected
from srtool.cluster.pool import batches_of, rows_of
from srtool.cluster.storage import Folder


def main() -> None:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
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
    with connected(Cluster("local")):
        start = time.perf_counter()
        first = next(iter(rows_of(batches_of(asked.items)).iter_batches(batch_size=1)))
        handed = time.perf_counter() - start
    assert len(first["items"][0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    figures = {"pictures": len(asked.items), "listed s": listed, "first batch s": handed}
    print(json.dumps({**figures, "peak GB": peak}))  # noqa: T201


if __name__ == "__main__":
    main()
