"""An S3 server on this machine, and a line to it that can be cut."""

from __future__ import annotations

import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from moto.moto_api._internal.models import moto_api_backend
from moto.server import ThreadedMotoServer
from pyarrow import fs


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server that takes any keys, and holds nothing yet."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    try:
        moto_api_backend.reset()  # what an earlier server of this process had is this one's too
        yield started.get_host_and_port()[1]
    finally:
        started.stop()


@contextmanager
def bucket_by_uri() -> Iterator[Callable[[str], str]]:
    """The URI of a place in a bucket, which names its server and keys itself: processes need nothing else."""
    with s3_server() as port:
        query = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        s3, path = fs.FileSystem.from_uri(f"s3://testing:testing@bucket{query}&allow_bucket_creation=true")
        s3.create_dir(path)
        yield lambda path: f"s3://testing:testing@bucket{path}{query}"


def bucket_of_test(port: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URI of a bucket of a test's own; the environment names the server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    s3, path = fs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    s3.create_dir(path)
    return f"s3://{name}"


class Line:
    """A TCP line to a server, which can be cut: what is open breaks, and what comes is refused."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._cut = threading.Event()
        self._bytes_left = sys.maxsize
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self, seconds: float) -> None:
        """Cut the line now, for some time."""
        self._cut.set()
        threading.Timer(seconds, self._cut.clear).start()

    def cut_after(self, num_bytes: int) -> None:
        """Cut the line for good once so much has gone to the server."""
        self._bytes_left = num_bytes

    def close(self) -> None:
        self._cut.set()
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                if self._cut.is_set():
                    near.close()
                else:
                    threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with closing(near), socket.create_connection(("127.0.0.1", self._port)) as far, suppress(OSError):
            while not self._cut.is_set():
                for readable in select.select([near, far], [], [], 0.05)[0]:
                    data = readable.recv(2**16)
                    if not data:
                        return
                    (far if readable is near else near).sendall(data)
                    self._bytes_left -= len(data) if readable is near else 0
                    if self._bytes_left < 0:
                        self._cut.set()
