"""A list of pictures over a Ray cluster: a pool of workers, each with one opened engine.

Ray Data hands batches of pictures to actors; each runs the folder pipeline of one machine on its
batch. An actor that dies is started again and its batch is done once more, twice at most. What
was asked is compared with what was reported, and what is missing is tried again one by one, so
that a picture which ends every process it meets costs no other one.

Ray's client, ray://, cannot drive Ray Data: for it an actor of the cluster does.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from srtool.assets import cache_folder
from srtool.cluster.connection import Cluster
from srtool.cluster.items import Item
from srtool.cluster.staging import Stages, upscale_staged
from srtool.cluster.storage import open_folder
from srtool.errors import EngineError, ImageError, SrtoolError, UsageError
from srtool.files import private_folder, write_for, write_whole
from srtool.runtime.engine import Engine
from srtool.runtime.engine_files import engine_files, read_beside
from srtool.runtime.events import Event
from srtool.runtime.foreign import NOTHING_KNOWN, Foreign
from srtool.runtime.opening import open_engine
from srtool.runtime.session import BackendName, PrecisionName
from srtool.runtime.tiling import check_tile
from srtool.runtime.upscaling import Options
from srtool.version import __version__

T = TypeVar("T")

TRIES = 3  # of a batch whose worker dies
BATCH_FILES = 64
BATCH_BYTES = 32_000_000  # of files; a larger picture is a batch of its own


@dataclass(frozen=True)
class Work:
    """What each worker does: how engines are opened and used. sources, results: URLs of stored
    folders, empty for paths that every machine sees. device: number of the GPU, where no cluster
    gives workers theirs. foreign: see `open_engine`. require_certified: whether an engine that is
    not is refused. owner: whose the unfinished files of workers are, see `write_for`: Ray ends
    them at once, with no time to clear anything away."""

    backend: BackendName = "auto"
    precision: PrecisionName = "auto"
    fallback: str | None = None
    threads: int | None = None
    device: int | None = None
    options: Options = field(default_factory=Options)
    sources: str = ""
    results: str = ""
    foreign: Foreign = NOTHING_KNOWN
    require_certified: bool = False
    owner: str = ""

    def open(self, name: str | Path | None) -> Engine:
        """An engine that runs as was asked for; None for the one that ships. UsageError where the
        tile does not fit it, EngineError where it has to be certified and is not."""
        with ExitStack() as stack:
            engine = stack.enter_context(
                open_engine(
                    name,
                    self.backend,
                    self.precision,
                    fallback=self.fallback,
                    threads=self.threads,
                    device=self.device,
                    foreign=self.foreign,
                )
            )
            tile, halo = self.options.tile, self.options.halo
            if tile is not None:
                engine.use_tile(tile)
            check_tile(tile or min(engine.tile), engine.facts.halo if halo is None else halo)
            if self.require_certified and engine.uncertified_reason:
                raise EngineError(doubt(engine), path=engine.path)
            stack.pop_all()
        return engine


def doubt(engine: Engine) -> str:
    """A line that says why an engine is not certified, empty where it is."""
    reason = engine.uncertified_reason
    return f"{engine.path}: is not certified: {reason}" if reason else ""


@dataclass(frozen=True)
class Package:
    """An engine's files by their names. main: the one to open."""

    main: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents, in hex."""
        found = hashlib.sha256()
        for name in sorted(self.files):
            found.update(name.encode() + b"\0" + hashlib.sha256(self.files[name]).digest())
        return found.hexdigest()


def unpack(main: str, digest: str, package: Callable[[], Package]) -> Path:
    """The engine in this machine's cache. package: asked for only where it is not there yet."""
    folder = cache_folder() / "engines" / digest[:32]
    complete = folder / ".complete"  # written last
    if not complete.is_file():
        for name, content in package().files.items():
            write_whole(folder / name, content)
        complete.touch()
    return folder / main


def package_from_engine(path: Path) -> Package:
    """An engine on this machine with all that opening it may need."""
    return _package(path.name, read_beside(path), str(path))


def fetched_engine(url: str) -> Path:
    """An engine in object storage -> the same in this machine's cache. EngineError where there is
    none."""
    address, _, name = url.rpartition("/")
    folder = open_folder(address)
    there = folder.sizes()

    def read(name: str) -> bytes | None:
        return folder.read(name) if name in there else None

    package = _package(name, read, url)
    return unpack(package.main, package.digest, lambda: package)


def _package(main: str, read: Callable[[str], bytes | None], where: str) -> Package:
    files = engine_files(main, read)
    if not files:
        raise EngineError(f"{where}: no such engine", path=where)
    return Package(main, files)


class Worker:
    """An actor: the engine is opened once. Where it cannot be, each batch hears why: of what is
    raised while an actor starts, Ray prints a traceback."""

    def __init__(self, engine: tuple[str, str, Any], work: Work, version: str) -> None:
        """engine: its name, its digest, a reference to its package. version: of who asks."""
        self._work, self._refusal = work, ""
        try:
            self._open(engine, version)
        except SrtoolError as error:
            self._refusal = str(error)

    def _open(self, engine: tuple[str, str, Any], version: str) -> None:
        import ray

        if version != __version__:
            raise EngineError(
                f"this machine of the cluster has srtool {__version__}, expected {version}",
                found=__version__,
                expected=version,
            )
        (name, digest, reference), work = engine, self._work
        self._engine = work.open(unpack(name, digest, lambda: ray.get(reference)))
        self._untold = doubt(self._engine)
        self._sources = open_folder(work.sources) if work.sources else None
        self._results = open_folder(work.results) if work.results else None
        write_for(work.owner)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Upscale the pictures of some rows; a row of what happened for each."""
        rows = [[Item(**item) for item in row] for row in batch["items"]]
        return {"happened": [list(self._happened(items)) for items in rows]}

    def _happened(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        if self._refusal:
            yield _row(items[0], _REFUSED, self._refusal)
            return
        if self._untold:
            yield _row(items[0], "note", self._untold)
            self._untold = ""
        with private_folder() as scratch:
            stages = Stages.below(scratch, self._sources, self._results)
            numbers = {stages.job(item): number for number, item in enumerate(items)}
            for event in upscale_staged(numbers, self._engine, self._work.options, stages):
                pixels = event.pixels_in, event.pixels_out
                yield _row(items[numbers[event.job]], event.kind, event.message, *pixels)


_REFUSED = "refused"  # beside the kinds of events


def _row(item: Item, kind: str, message: str, read: int = 0, made: int = 0) -> dict[str, Any]:
    """What happened to an item, on its way to `_told`. read, made: pixels."""
    return {
        "item": asdict(item),
        "kind": kind,
        "message": message,
        "pixels_in": read,
        "pixels_out": made,
    }


def upscale_on_cluster(
    items: Sequence[Item], package: Package, work: Work, cluster: Cluster
) -> Iterator[tuple[Item, Event]]:
    """What happens to every item, in no order; each is done, skipped, failed or another engine's
    exactly once. To be called inside `connected`."""
    import ray

    shipped = (package.main, package.digest, ray.put(package))
    through = _through_client if cluster.is_client else _through
    workers = cluster.workers or _workers(cluster)
    asked = {item.source: item for item in items}
    for batches in (batches_of(items, workers), None):
        # The second time alone, so that a picture that ends its worker ends with nothing else
        again = [[item] for item in asked.values()] if batches is None else batches
        for happened in through(again, shipped, work, replace(cluster, workers=workers)):
            for item, event in happened:
                if event.kind == "note" or asked.pop(item.source, None) is not None:
                    yield item, event
    for item in asked.values():
        message = f"{item.source}: ended every worker that took it, {TRIES} when it was alone"
        yield item, Event(Stages().job(item), "failed", message, error=ImageError(message))


def batches_of(items: Sequence[Item], workers: int = 1) -> list[list[Item]]:
    """Batches of many small pictures; a large one is alone. Towards the end they get smaller, so
    that the workers end together."""
    batches: list[list[Item]] = []
    room = count = 0
    for number, item in enumerate(items):
        if not batches or item.bytes > room or count == 0:
            batches.append([])
            share = (len(items) - number) // (3 * workers)
            room, count = BATCH_BYTES, max(1, min(BATCH_FILES, share))
        batches[-1].append(item)
        room, count = room - item.bytes, count - 1
    return batches


def rows_of(batches: list[list[Item]]) -> Any:
    """A Ray data set with a row, and a block, for each batch."""
    import ray

    rows = [{"items": [asdict(item) for item in batch]} for batch in batches]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


Happened = list[tuple[Item, Event]]


def _through(
    batches: list[list[Item]], shipped: tuple[str, str, Any], work: Work, cluster: Cluster
) -> Iterator[Happened]:
    """What the pool reports of each batch; nothing of one whose worker died each time."""
    from ray.data import ActorPoolStrategy, DataContext

    if not batches:
        return
    context = DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    assert cluster.workers
    workers = min(cluster.workers, len(batches))
    with warnings.catch_warnings():  # of what goes in 2.64, which pyproject.toml excludes
        warnings.simplefilter("ignore")
        results = rows_of(batches).map_batches(
            Worker,
            batch_size=1,
            # One that is worked on and one that waits: more would pile up at the first to start
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cluster.threads,
            num_gpus=cluster.gpus,
            fn_constructor_args=(shipped, work, __version__),
            max_restarts=-1,
            max_task_retries=TRIES - 1,
        )
    rounds: Any = iter(results.iter_batches(batch_size=None, prefetch_batches=0))
    with closing(rounds):  # before Ray is left: what ends later prints a traceback
        while (result := _got(lambda: next(rounds, None))) is not None:
            for row in result["happened"]:
                yield [_told(found) for found in row]


def _told(found: dict[str, Any]) -> tuple[Item, Event]:
    """EngineError where a worker could not open its engine."""
    if found["kind"] == _REFUSED:
        raise EngineError(found["message"])
    item = Item(**found.pop("item"))
    error = ImageError(found["message"]) if found["kind"] == "failed" else None
    return item, Event(job=Stages().job(item), error=error, **found)


class Driver:
    """An actor that drives Ray Data. Where it dies it is started again from the beginning: what
    was done is passed over."""

    def __init__(self, *asked: Any) -> None:
        self._rounds = _through(*asked)

    def take(self) -> Happened | EngineError | None:
        """What the pool reports of the next batch, or why it cannot; None at the end."""
        try:
            return next(self._rounds, None)
        except EngineError as error:
            return error


def _through_client(*asked: Any) -> Iterator[Happened]:
    """`_through`, in the cluster."""
    import ray

    patient = {"max_restarts": TRIES - 1, "max_task_retries": TRIES - 1}
    driver: Any = ray.remote(Driver).options(num_cpus=0, **patient).remote(*asked)
    while (happened := _got(lambda: ray.get(driver.take.remote()))) is not None:
        if isinstance(happened, EngineError):
            raise happened
        yield happened


def _got(ask: Callable[[], T]) -> T:
    """EngineError where no worker can start: that is what ends the whole."""
    from ray.exceptions import RayError

    try:
        return ask()
    except RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        # After what Ray calls the actor there may be two: why it died, and that it never ran
        facts = [at for at, line in enumerate(lines) if line[0].isspace()]
        reason = " ".join(lines[facts[-1] + 1 :] if facts else lines)[:400] or lines[-1].strip()
        raise EngineError(f"the workers of the cluster cannot start: {reason}") from None


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
