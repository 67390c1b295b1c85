"""Arrays that the processes of a node share: the first to need one makes it, all map it into memory.

The folder is bounded by `$AUGFT_CACHE_MAX_BYTES`; without it, so that a tenth of the disk, at most 5 GiB, stays free.
What was mapped longest ago goes first. What a live process has mapped stays: it holds a shared lock on the file, by the
descriptor of its map, and to unlink the file would free nothing yet. Where there is no room, or the folder cannot be
written, each process holds the array in its own memory, which costs memory and not the run.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from augft.errors import ConfigError

Array = npt.NDArray[Any]

MAX_BYTES = "AUGFT_CACHE_MAX_BYTES"
_FREE_SHARE, _MOST_FREE_BYTES = 10, 5 * 2**30
_HEADER_BYTES = 128

_LOG = logging.getLogger("augft")


def shared_array(target: Path, shape: tuple[int, ...], dtype: npt.DTypeLike, make: Callable[[], Array]) -> Array:
    """An array of the node.

    Args:
        target: the `.npy` file; its name tells the content, its folder is the cache.
        shape: of the array.
        dtype: of the array.
        make: called in one process of the node at a time, if no other has made the file.

    Returns:
        Mapped and read-only, or what `make` returned.

    Raises:
        ConfigError: `$AUGFT_CACHE_MAX_BYTES` is no number.
    """
    if (mapped := _map(target, shape, dtype)) is not None:
        return mapped
    with _alone(target):
        if (mapped := _map(target, shape, dtype)) is not None:
            return mapped
        made = make()
        stored = _store(target, made)
    mapped = _map(target, shape, dtype) if stored else None
    return made if mapped is None else mapped


def _map(target: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array | None:
    try:
        with target.open("rb") as file:
            with suppress(OSError):  # where there are no locks, or an empty place is being made of it
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as long as the map lives: it keeps a descriptor
            expected = _header(shape, dtype)
            if file.read(len(expected)) != expected:
                return None
            mapped = np.memmap(file, dtype, "r", len(expected), shape)
            with suppress(OSError):  # not our file
                os.utime(target)
    except (OSError, ValueError):
        return None
    return np.asarray(mapped)  # a plain view: indexing numpy's memmap class is slower


def _header(shape: tuple[int, ...], dtype: npt.DTypeLike) -> bytes:
    """How a `.npy` file of such an array begins.

    To compare needs no parser: NumPy reads a header by Python's, which fails in threads (`ast.parse` of Python 3.11,
    "AST constructor recursion depth mismatch").
    """
    written = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, described)
    return written.getvalue()


def _store(target: Path, array: Array) -> bool:
    """Write the array to its file, if there is room for it."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with _folder_alone(target.parent):
            for left_over in target.parent.glob(".*.part"):  # by a process that was killed
                left_over.unlink()
            if not _make_room(target.parent, array.nbytes + _HEADER_BYTES):
                _tell_once(target.parent)
                return False
            with temporary.open("xb") as file:
                np.save(file, array)
            os.replace(temporary, target)
    except OSError:  # a full or read-only disk
        with suppress(OSError):
            temporary.unlink()
        return False
    return True


def _make_room(folder: Path, num_bytes: int) -> bool:
    """Remove the arrays that were mapped longest ago until there is room for `num_bytes`; whether there is."""
    files = [(path, path.stat()) for path in folder.glob("*.npy")]
    used = sum(status.st_size for _, status in files)
    limit = _max_bytes(folder, used)
    if num_bytes > limit:
        return False
    for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
        if used + num_bytes <= limit:
            break
        if _unlink_unused(path):
            used -= status.st_size
    return used + num_bytes <= limit


def _max_bytes(folder: Path, used: int) -> int:
    if (limit := env_max_bytes()) is not None:
        return limit
    disk = shutil.disk_usage(folder)
    return used + disk.free - min(disk.total // _FREE_SHARE, _MOST_FREE_BYTES)


def env_max_bytes() -> int | None:
    """`$AUGFT_CACHE_MAX_BYTES`; None where it is not set.

    Raises:
        ConfigError: it is no number.
    """
    text = os.environ.get(MAX_BYTES)
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigError(f"{MAX_BYTES}={text}: give a whole number of bytes")
    return int(text)


def _unlink_unused(path: Path) -> bool:
    """Remove a file that no live process has mapped; whether it is gone."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True


@cache
def _tell_once(folder: Path) -> None:
    _LOG.warning(
        "%s has no room for the whole data set: each process holds the rest in memory; raise %s or free some space",
        folder,
        MAX_BYTES,
    )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process of the node make `target` while the others wait; without locks all make it, equally."""
    lock_path = target.with_name(f".{target.name}.lock")
    lock: BinaryIO | None = None
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                lock_path.unlink()
            lock.close()


@contextmanager
def _folder_alone(folder: Path) -> Iterator[None]:
    """Let one process at a time count the folder's bytes and add to them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # NFS locks no folders: two may add at once, and the bound is passed by a shard
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
