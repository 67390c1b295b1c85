"""TensorBoard's files, read back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tensorboardX.proto import event_pb2

from augft.storage import Storage


def scalars(storage: Storage) -> list[tuple[int, str, float]]:
    """Step, name and value of all scalars of a run, in the order in which they were written."""
    return [(step, v.tag, v.simple_value) for step, v in values(storage) if v.WhichOneof("value") == "simple_value"]


def values(storage: Storage) -> list[tuple[int, Any]]:
    """Step and value of all that a run has in its event files."""
    found: list[Any] = []
    for name in storage.list("events"):
        found += _events(storage.read(f"events/{name}"))
    found.sort(key=lambda event: event.wall_time)
    return [(event.step, value) for event in found for value in event.summary.value]


def _events(content: bytes) -> Iterator[Any]:
    """Each is its length, a checksum, itself, a checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
