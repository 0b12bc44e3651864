"""A store that speaks S3's protocol, on loopback, and a line to it that has faults."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

BUCKET = "pictures"


@dataclass
class Line:
    """A TCP proxy to the store. busy: so many requests are answered with 503 first. cut: so many
    uploads are broken off after their first `cut_after` bytes."""

    store: tuple[str, int]
    busy: int = 0
    cut: int = 0
    cut_after: int = 20_000
    faults: int = 0
    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _take(self, name: str) -> bool:
        with self._lock:
            if getattr(self, name) <= 0:
                return False
            setattr(self, name, getattr(self, name) - 1)
            self.faults += 1
            return True

    def _connection(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self.store) as store:
            head = client.recv(1 << 16)
            if self._take("busy"):
                body = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
                client.sendall(
                    b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Type: application/xml"
                    b"\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                return
            left = self.cut_after if head.startswith(b"PUT") and self._take("cut") else None
            threading.Thread(target=_copy, args=(store, client), daemon=True).start()
            while head:
                if left is not None and (left := left - len(head)) < 0:
                    return  # in the middle of the picture
                store.sendall(head)
                head = client.recv(1 << 16)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="session")
def store_address() -> Iterator[str]:
    server = pytest.importorskip("moto.server")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def line(store_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The line to an empty bucket; the environment says where it is, as a user's would."""
    boto3, parts = pytest.importorskip("boto3"), urlsplit(store_address)
    assert parts.hostname
    assert parts.port
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "someone"),
        ("AWS_SECRET_ACCESS_KEY", "a-secret-that-no-line-may-show"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", endpoint_url=store_address).Bucket(BUCKET)
    bucket.create()
    line = Line((parts.hostname, parts.port))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", line.address)
        threading.Thread(target=line.serve, args=(listener,), daemon=True).start()
        yield line
    bucket.objects.delete()
    bucket.delete()
