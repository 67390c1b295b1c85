"""The result of a run, as lines of a job's log: what can be had of a cluster by its HTTP port alone."""

from __future__ import annotations

import base64
import sys

from augft.run import REPORT, SUMMARY
from augft.storage import Storage

RESULT = (SUMMARY, REPORT)
"""The files that are sent."""

_MARK = "augft-result"
_PIECE_BYTES = 12 * 1024  # a line's; in base64 it becomes a third longer


def send(uri: str) -> None:
    """Print the result of the run at `uri`."""
    storage = Storage(uri)
    for name in RESULT:
        data = storage.read(name)
        for start in range(0, len(data), _PIECE_BYTES):
            piece = base64.b64encode(data[start : start + _PIECE_BYTES]).decode()
            print(f"{_MARK} {name} {piece}")


def receive(log: str) -> dict[str, bytes]:
    """The files in a log, by name; no others than those of `RESULT`, for the cluster does not choose what we write."""
    files: dict[str, bytes] = {}
    for line in log.splitlines():
        mark, _, rest = line.partition(" ")
        name, _, piece = rest.partition(" ")
        if mark == _MARK and name in RESULT:
            files[name] = files.get(name, b"") + base64.b64decode(piece)
    return files


if __name__ == "__main__":
    send(sys.argv[1])
