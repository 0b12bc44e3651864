"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srtool.errors import UsageError

PATIENCE = 5.0  # seconds for a machine to answer
# Of a client: the head starts a process for each. Now and then, on a busy machine, that hangs as it
# forks; after half a minute Ray gives it up, and the next one starts.
_TRIES = 3
_ADDRESS = re.compile(r"(ray://)?\[?([^/\s]+?)\]?:(\d{1,5})")


@dataclass(frozen=True)
class Cluster:
    """address: "local" for one on this machine, "auto" for the one that this machine belongs to,
    or ray://host:port. workers: default, as many as the CPUs or GPUs allow. threads: CPUs of each.
    gpus: of each, also a share of one."""

    address: str
    workers: int | None = None
    threads: int = 1
    gpus: float = 0.0

    @property
    def is_client(self) -> bool:
        """Whether this machine is none of the cluster's and goes through Ray's client."""
        return self.address.startswith("ray://")


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster, ended on the way out, and with it every actor of ours. A local
    cluster is started, for this machine alone, and stopped. Nothing is attached to by accident:
    RAY_ADDRESS counts for "auto" alone. UsageError where there is no cluster at the address."""
    is_local = cluster.address == "local"
    if not is_local:
        _check_answers(cluster.address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is said by us
    if is_local:  # by its name for other systems: listen on 127.0.0.1 only
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Below the logger that Ray Data configures itself: a traceback for each worker that dies
    for name in ("ray.data._internal", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        raise UsageError("this process is connected to a Ray cluster already")
    own: dict[str, Any] = {"include_dashboard": False} if is_local else {}
    for left in reversed(range(_TRIES if cluster.is_client else 1)):
        try:
            ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False, **own)
            break
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            if left and isinstance(error, ConnectionError):
                continue
            reason = _reason(error)
        if not is_local and "RAY_AUTH_MODE" not in os.environ:
            reason += "; where it asks for a token, set RAY_AUTH_MODE=token"
        raise _none_at(cluster.address, reason)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself asks for minutes, and says why each time. UsageError where nobody listens."""
    found = _ADDRESS.fullmatch(_last_started() if address == "auto" else address)
    if found is None and address == "auto":
        return  # Ray looks for one that runs here
    if found is None:
        raise UsageError(
            f"{address}: is no address of a Ray cluster; expected local, auto or ray://host:port",
            parameter="cluster",
            found=address,
            expected="local, auto or ray://host:port",
        )
    try:
        socket.create_connection((found[2], int(found[3])), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _none_at(address, getattr(error, "strerror", None) or str(error)) from None


def _reason(error: Exception) -> str:
    """What is wrong, in one line: of a traceback, its last one."""
    text = str(error)
    lines = text.splitlines()[-1:] if "Traceback" in text else text.split()
    return " ".join(lines).strip()[:200]


def _last_started() -> str:
    """Where the cluster is that RAY_ADDRESS names, as in Ray's own jobs, or that `ray start` made
    this machine a part of, which may be gone; empty where none ever was."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    with suppress(OSError):
        return Path(folder, "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    return ""


def _none_at(address: str, reason: str) -> UsageError:
    return UsageError(
        f"no Ray cluster at {address} ({reason}); `local` starts one on this machine",
        parameter="cluster",
        found=address,
    )
