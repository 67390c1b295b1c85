"""Who works on a run directory: one driver at a time.

The driver keeps `lease.json` in the directory: who it is, and a counter that it raises every `RENEW_S`. Another that
finds the file asks whether its holder lives: on the same machine, by the process; from elsewhere, by watching the
counter for `WATCH_S`, for clocks of two machines cannot be compared. A holder that was killed thus never locks anybody
out, and a live one is never disturbed.

Storages differ in what they promise, so taking the lease is write, rest, read again: of two that begin in the same
moment, the last to write holds it. A holder that finds another's lease in the place of its own stops its run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from augft.errors import RunDirectoryError, StorageError
from augft.run import LEASE
from augft.storage import Storage
from augft.train.contact import is_born_at

RENEW_S = 5.0
WATCH_S = 4 * RENEW_S
SETTLE_S = 0.5


class Lease:
    """Hold a run directory. Use as a context manager.

    Args:
        storage: the run directory.
        say: told when it has to watch another's lease for a while.
        settle_s: how long to rest before reading again; 0 where nobody else can begin in the same moment.

    Raises:
        RunDirectoryError: on entering, a live run holds the directory.
    """

    def __init__(
        self, storage: Storage, say: Callable[[str], None] = lambda _: None, settle_s: float = SETTLE_S
    ) -> None:
        self._storage = storage
        self._say = say
        self._settle_s = settle_s
        self._token = uuid.uuid4().hex
        self._count = 0
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = False
        """Whether another has taken the directory."""

    def __enter__(self) -> Lease:
        if (other := self._read()) is not None:
            self._check_dead(other)
        self._write()
        time.sleep(self._settle_s)
        if (now := self._read()) is not None and now["token"] != self._token:
            raise self._in_use(now)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join()
        try:
            if (now := self._read()) is not None and now["token"] == self._token:
                self._storage.remove(LEASE)
                if not self._storage.list():
                    self._storage.remove("")  # nothing was begun
        except (StorageError, OSError):
            return  # whoever comes next finds a counter that stands still

    def _renew(self) -> None:
        while not self._left.wait(RENEW_S):
            try:
                if (now := self._read()) is not None and now["token"] != self._token:
                    self.lost = True
                    return
                self._count += 1
                self._write()
            except StorageError:
                continue

    def _check_dead(self, other: dict[str, Any]) -> None:
        if other["place"] == _place():
            if _lives(other["pid"], other["born_at"]):
                raise self._in_use(other)
            return
        self._say(
            f"{self._storage.uri}: {other['host']} held it (process {other['pid']}); "
            f"watching for {WATCH_S:g} s whether it still does"
        )
        time.sleep(WATCH_S)
        now = self._read()
        if now is not None and (now["token"], now["count"]) != (other["token"], other["count"]):
            raise self._in_use(now)

    def _in_use(self, other: dict[str, Any]) -> RunDirectoryError:
        return RunDirectoryError(
            f"{self._storage.uri}: in use by a live run (process {other['pid']} on {other['host']}); "
            "wait for it, stop it, or choose another --run-dir or name"
        )

    def _read(self) -> dict[str, Any] | None:
        if not self._storage.exists(LEASE):
            return None
        try:
            lease = json.loads(self._storage.read(LEASE))
        except (StorageError, ValueError):
            return None
        wanted = {"token", "count", "host", "place", "pid", "born_at"}
        return lease if isinstance(lease, dict) and wanted <= lease.keys() else None

    def _write(self) -> None:
        lease = {
            "token": self._token,
            "count": self._count,
            "host": socket.gethostname(),
            "place": _place(),
            "pid": os.getpid(),
            "born_at": psutil.Process().create_time(),
        }
        self._storage.write(LEASE, json.dumps(lease).encode())


def _place() -> str:
    """Where a pid means one process: this boot of this machine, and the process namespace in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _lives(pid: int, born_at: float) -> bool:
    try:
        process = psutil.Process(pid)
        return is_born_at(process, born_at) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
