"""A list of pictures over a Ray cluster: a pool of workers, each with one opened engine.

Ray Data hands batches of pictures to actors; each runs the folder pipeline of one machine on its
batch. An actor that dies is started again and its batch is done once more, twice at most. What
was asked is compared with what was reported, and what is missing is tried again one by one, so
that a picture which ends every process it meets costs no other one.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srtool.cluster.engines import Package, unpack
from srtool.cluster.items import Item
from srtool.cluster.staging import Stage, Stages, upscale_staged
from srtool.cluster.storage import open_folder
from srtool.cluster.work import Work
from srtool.errors import EngineError, ImageError, UsageError
from srtool.runtime.events import Event
from srtool.runtime.folder import upscale_images
from srtool.runtime.inputs import Job
from srtool.runtime.opening import open_engine
from srtool.version import __version__

TRIES = 3  # of a batch whose worker dies
BATCH_FILES = 64
BATCH_BYTES = 32_000_000  # of files; a larger picture is a batch of its own


@dataclass(frozen=True)
class Cluster:
    """address: "local" for one on this machine, "auto" for the one that this machine belongs to,
    or ray://host:port. workers: default, as many as the CPUs or GPUs allow. threads: CPUs of each.
    gpus: of each, also a share of one."""

    address: str
    workers: int | None = None
    threads: int = 1
    gpus: float = 0.0


class Worker:
    """An actor: the engine is opened once."""

    def __init__(self, engine: tuple[str, str, Any], work: Work, version: str) -> None:
        """engine: its name, its digest, a reference to its package. version: of who asks."""
        import ray

        if version != __version__:
            raise UsageError(
                f"this machine of the cluster has srtool {__version__}, expected {version}",
                found=__version__,
                expected=version,
            )
        name, digest, reference = engine
        self._work = work
        self._engine = open_engine(
            unpack(name, digest, lambda: ray.get(reference)),
            work.backend,
            work.precision,
            fallback=work.fallback,
            threads=work.threads,
        )
        self._scratch = tempfile.TemporaryDirectory(prefix="srtool-")
        top = Path(self._scratch.name)
        self._stages = Stages(
            Stage(open_folder(work.sources), top / "in") if work.sources else None,
            Stage(open_folder(work.results), top / "out") if work.results else None,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Upscale the pictures of some rows; a row of what happened for each."""
        rows = [[Item(**item) for item in row] for row in batch["items"]]
        return {"happened": [list(self._happened(items)) for items in rows]}

    def _happened(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        numbers = {self._stages.job(item): number for number, item in enumerate(items)}
        for event in self._events(list(numbers)):
            yield {
                "item": asdict(items[numbers[event.job]]),
                "kind": event.kind,
                "message": event.message,
                "pixels_in": event.pixels_in,
                "pixels_out": event.pixels_out,
            }

    def _events(self, jobs: list[Job]) -> Iterator[Event]:
        options = self._work.options
        if self._stages == Stages():
            return upscale_images(jobs, self._engine, options)
        return upscale_staged(jobs, self._engine, options, self._stages)


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster, ended on the way out, and with it every actor of ours. A local
    cluster is started and stopped. Nothing is attached to by accident: RAY_ADDRESS does not count.
    UsageError where there is no cluster at the address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is said by us
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Below the logger that Ray Data configures itself: a traceback for each worker that dies
    logging.getLogger("ray.data._internal").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        raise UsageError("this process is connected to a Ray cluster already")
    own: dict[str, Any] = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"no Ray cluster at {cluster.address} ({reason}); `local` starts one on this machine",
            parameter="cluster",
            found=cluster.address,
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def upscale_on_cluster(
    items: Sequence[Item], package: Package, work: Work, cluster: Cluster
) -> Iterator[tuple[Item, Event]]:
    """What happens to every item, in no order; each is done, skipped, failed or another engine's
    exactly once. To be called inside `connected`."""
    import ray

    shipped = (package.main, package.digest, ray.put(package))
    asked = {item.source: item for item in items}
    for batches in (batches_of(items), None):
        # The second time alone, so that a picture that ends its worker ends with nothing else
        again = [[item] for item in asked.values()] if batches is None else batches
        for item, event in _through(again, shipped, work, cluster):
            if event.kind == "note" or asked.pop(item.source, None) is not None:
                yield item, event
    for item in asked.values():
        message = f"{item.source}: ended every worker that took it, {TRIES} when it was alone"
        yield item, Event(_job(item), "failed", message, error=ImageError(message))


def batches_of(items: Iterable[Item]) -> list[list[Item]]:
    """Batches of many small pictures; a large one is alone."""
    batches: list[list[Item]] = []
    room = count = 0
    for item in items:
        if not batches or item.bytes > room or count == BATCH_FILES:
            batches.append([])
            room, count = BATCH_BYTES, 0
        batches[-1].append(item)
        room, count = room - item.bytes, count + 1
    return batches


def rows_of(batches: list[list[Item]]) -> Any:
    """A Ray data set with a row, and a block, for each batch."""
    import ray

    rows = [{"items": [asdict(item) for item in batch]} for batch in batches]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _through(
    batches: list[list[Item]], shipped: tuple[str, str, Any], work: Work, cluster: Cluster
) -> Iterator[tuple[Item, Event]]:
    """What the pool reports; nothing of a batch whose worker died each time."""
    from ray.data import ActorPoolStrategy, DataContext

    if not batches:
        return
    context = DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    workers = min(cluster.workers or _workers(cluster), len(batches))
    results = rows_of(batches).map_batches(
        Worker,
        batch_size=1,
        compute=ActorPoolStrategy(size=workers),
        num_cpus=cluster.threads,
        num_gpus=cluster.gpus,
        fn_constructor_args=(shipped, work, __version__),
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": TRIES - 1},
    )
    rounds = iter(results.iter_batches(batch_size=None, prefetch_batches=0))
    while (result := _next(rounds)) is not None:
        for row in result["happened"]:
            for found in row:
                item = Item(**found.pop("item"))
                error = ImageError(found["message"]) if found["kind"] == "failed" else None
                yield item, Event(job=_job(item), error=error, **found)


def _next(results: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """EngineError where no worker can start: that is what ends the whole."""
    from ray.exceptions import RayError

    try:
        return next(results, None)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise EngineError(f"the workers of the cluster cannot start: {reason}") from None


def _job(item: Item) -> Job:
    return Job(Path(item.source), Path(item.target))


def _workers(cluster: Cluster) -> int:
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    least = there.get("CPU", 1) / cluster.threads
    if cluster.gpus:
        least = min(least, there.get("GPU", 0) / cluster.gpus)
    if least < 1:
        raise UsageError(
            f"no machine for a worker of {cluster.threads} CPUs and {cluster.gpus:g} GPUs: the "
            f"cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
        )
    return int(least)
