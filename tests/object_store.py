"""An S3 server on this machine, and a line to it that can be cut."""

from __future__ import annotations

import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server that takes any keys."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    try:
        yield started.get_host_and_port()[1]
    finally:
        started.stop()


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
