"""Picture files, below a folder or one by itself, on a disk or an object store."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from augft.data.packed import set_files
from augft.data.picture import MAX_FILE_BYTES, is_picture
from augft.data.tree import UnreadableError, is_noise, read_files, reading, shown, walk
from augft.prediction.listing import as_table, by_name, cut
from augft.storage import Place, place, reason, split_uri

_SCHEMA = pa.schema([("name", pa.large_binary()), ("size", pa.int64()), ("modified", pa.int64())])
_OF_ONE_FILE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP)


def table_of(names: pa.Array, contents: Iterable[bytes | str]) -> pa.Table:
    """The table of a unit of picture files: for each name its content, or, as text, why there is none."""
    found = list(contents)
    files = [content if isinstance(content, bytes) else None for content in found]
    reasons = [content if isinstance(content, str) else None for content in found]
    paths = [shown(os.fsdecode(name)) for name in names.to_pylist()]
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "content": pa.array(files, pa.large_binary()),
            "reason": pa.array(reasons, pa.string()),
        }
    )


class Folder:
    """All picture files below a folder, at any depth, sorted by name.

    Args:
        where: a path or a URI.
        listed: what `Storage.walk` says of a URI, where that is known.
    """

    def __init__(self, where: str, listed: dict[str, Any] | None = None) -> None:
        self.where = where
        self._listed = listed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.where,)

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        rows = _on_disk(Path(self.where)) if self._listed is None else _on_store(self._listed)
        return cut(by_name(as_table(rows, _SCHEMA)), max_rows)

    def count(self, unit: pa.RecordBatch) -> int:
        """See `Source`."""
        return int(unit.num_rows)

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """See `Source`."""
        return False

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """See `Source`."""
        root = self._root()
        for unit in units:
            names = [os.fsdecode(name) for name in unit["name"].to_pylist()]
            if isinstance(root, Path):
                yield table_of(unit["name"], _contents(root, names))
            else:
                yield table_of(unit["name"], (content for _, content in read_files(root, names)))

    def _root(self) -> Place:
        """What names are below of."""
        return place(self.where)


class OnePicture(Folder):
    """A picture file by itself.

    Args:
        where: a path or a URI.
    """

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        _, name = _split(place(self.where))
        return cut(as_table([(os.fsencode(name), *set_files(self.where).stamp())], _SCHEMA), max_rows)

    def _root(self) -> Place:
        return _split(place(self.where))[0]


def _split(picture: Place) -> tuple[Place, str]:
    """The folder of a picture file, and its name there."""
    if isinstance(picture, Path):
        return picture.parent, picture.name
    folder, name = split_uri(picture)
    return folder, unquote(name)


def _on_disk(root: Path) -> Iterator[tuple[bytes, int, int]]:
    for name, entry in walk(root):
        if is_picture(name) and entry.is_file():
            with reading(root / name):
                info = entry.stat()
            yield os.fsencode(name), info.st_size, info.st_mtime_ns


def _on_store(listed: dict[str, Any]) -> Iterator[tuple[bytes, int, int]]:
    for name, info in listed.items():
        if info.is_file and is_picture(name) and not is_noise(name):
            yield os.fsencode(name), info.size, info.mtime_ns


def _contents(root: Path, names: list[str]) -> list[bytes | str]:
    """Files; or, as text, why one cannot be read.

    Raises:
        UnreadableError: none is there, as in the empty folder on which another machine has a disk.
    """
    found = [_content(root, name) for name in names]
    if all(isinstance(content, OSError) and content.errno == errno.ENOENT for content in found):
        raise UnreadableError(
            f"{root} holds none of {len(names)} pictures that were listed, from '{shown(names[0])}' on: is its disk "
            f"mounted on {socket.gethostname()}? Give the same command again, without --force"
        )
    return [f"cannot be read ({reason(content)})" if isinstance(content, OSError) else content for content in found]


def _content(root: Path, name: str) -> bytes | OSError:
    """A file; or why it alone cannot be read. A disk that is gone is no fault of a file."""
    with reading(root):
        try:
            with (root / name).open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            if error.errno not in _OF_ONE_FILE or not root.is_dir():
                raise
            return error
