"""Tar and zip archives, on a disk or an object store, read where they lie and never extracted.

A plain tar and a zip are listed once, with the place of each member: a unit is then read by itself, anywhere.

A compressed tar can only be read from its front. So one reading task streams it, once, and hands out units as they come
by, still as files: decoding is what costs, and is shared by all workers. The other way, to unpack it first, would need
as much disk as the archive has pictures, seen from every node; and to give each unit a task would read the front
again for each, which is quadratic. The price is that units are not in the order of names: rows carry their rank, and
are put in order when the predictions are put together. A prediction that is gone on with streams the archive again,
past what is done.

On an object store an archive is read once more, for its listing.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from augft.data.packed import set_files
from augft.data.picture import MAX_FILE_BYTES, is_picture
from augft.data.tree import CANNOT_UNPACK, Names, WholeTar, is_damage, reading, refused
from augft.errors import DataError
from augft.prediction.files import table_of
from augft.prediction.listing import as_table, by_name, cut
from augft.storage import place

_TAR_SCHEMA = pa.schema([("name", pa.large_binary()), ("size", pa.int64()), ("offset", pa.int64())])
_ZIP_SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("size", pa.int64()),
        ("offset", pa.int64()),
        ("stored", pa.int64()),
        ("method", pa.int64()),
        ("crc", pa.int64()),
    ]
)
_LOCAL_HEADER_BYTES = 30
_LISTING_BUFFER, _READING_BUFFER = 8 * 2**20, 2**17


def is_zip(head: bytes) -> bool:
    """By the first bytes of a file."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def open_archive(where: str) -> Zip | Tar:
    """An archive; the kind is told by content.

    Raises:
        DataError: it cannot be read.
    """
    with reading(where), _opened(where, _READING_BUFFER) as file:
        if is_zip(file.read(8)):
            return Zip(where)
        file.seek(0)
        with _begun(file, where) as tar:
            # Whatever `tarfile` unpacks it reads through a file of its own: then offsets are none of the archive.
            return Tar(where, is_compressed=tar.fileobj is not file)


class Tar:
    """A tar archive.

    Args:
        where: a path or a URI.
        is_compressed: it can be read from its front only.
    """

    def __init__(self, where: str, is_compressed: bool) -> None:
        self.where = where
        self.is_compressed = is_compressed

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        table = as_table(self._members(), _stamped(_TAR_SCHEMA, self.where))
        if not self.is_compressed:
            return cut(by_name(table), max_rows)
        sorted_offsets = by_name(table)["offset"].to_numpy()
        ranks = np.empty(len(table), np.int64)
        ranks[np.searchsorted(table["offset"].to_numpy(), sorted_offsets)] = np.arange(len(table))
        return cut(table.append_column("rank", pa.array(ranks)), max_rows)

    def count(self, unit: pa.RecordBatch) -> int:
        """See `Source`."""
        return int(unit.num_rows)

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """See `Source`."""
        return self.is_compressed

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """See `Source`."""
        with reading(self.where):
            yield from self._read_stream(units) if self.is_compressed else self._read_places(units)

    def _read_places(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        with _opened(self.where, _READING_BUFFER) as file:
            for unit in units:
                contents = []
                for offset, size in zip(unit["offset"].to_pylist(), unit["size"].to_pylist(), strict=True):
                    file.seek(offset)
                    contents.append(file.read(min(size, MAX_FILE_BYTES + 1)))
                yield table_of(unit["name"], contents)

    def _read_stream(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        with self._tar() as tar:
            members = _each(tar)
            for unit in units:
                contents = []
                for offset in unit["offset"].to_pylist():
                    member = next((member for member in members if member.offset_data == offset), None)
                    if member is None:
                        raise DataError(f"{self.where} is not what it was when it was listed; start again with --force")
                    file = tar.extractfile(member)
                    contents.append(file.read(MAX_FILE_BYTES + 1) if file is not None else b"")
                yield table_of(unit["name"], contents).append_column("rank", unit["rank"])

    def _members(self) -> Iterator[tuple[bytes, int, int]]:
        names = Names(self.where)
        with reading(self.where), self._tar() as tar:
            for member in _each(tar):
                if not (member.isreg() or member.isdir()):
                    raise refused(self.where, member.name, "is a link or a device")
                if member.issparse():
                    raise refused(self.where, member.name, "is a sparse file")
                name = names.add(member.name, member.isdir())
                if name is not None and member.isreg() and is_picture(name):
                    yield os.fsencode(name), member.size, member.offset_data
            # The checksum of a compressed archive is at its end: go there, or a cut archive looks whole.
            while self.is_compressed and tar.fileobj is not None and tar.fileobj.read(2**20):
                pass

    @contextmanager
    def _tar(self) -> Iterator[tarfile.TarFile]:
        with _opened(self.where, _LISTING_BUFFER) as file, _begun(file, self.where) as tar:
            yield tar


def _begun(file: BinaryIO, where: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, tarinfo=WholeTar)
    except tarfile.ReadError as error:
        raise DataError(
            f"{where} is no folder, .tar, .tar.gz or .zip archive of pictures and no Parquet file, or it is damaged "
            f"from its start on"
        ) from error


class Zip:
    """A zip archive, by path or URI."""

    def __init__(self, where: str) -> None:
        self.where = where

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        return cut(by_name(as_table(self._members(), _stamped(_ZIP_SCHEMA, self.where))), max_rows)

    def count(self, unit: pa.RecordBatch) -> int:
        """See `Source`."""
        return int(unit.num_rows)

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """See `Source`."""
        return False

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """See `Source`."""
        with reading(self.where), _opened(self.where, _READING_BUFFER) as file:
            for unit in units:
                yield table_of(unit["name"], [_unzipped(file, member) for member in unit.to_pylist()])

    def _members(self) -> Iterator[tuple[bytes, int, int, int, int, int]]:
        names = Names(self.where)
        with reading(self.where), _opened(self.where, _LISTING_BUFFER) as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise refused(self.where, member.filename, "is a link or a device")
                if member.flag_bits & 1:
                    raise DataError(f"{self.where} is encrypted: give it without a password")
                name = names.add(member.filename, member.is_dir())
                if name is not None and not member.is_dir() and is_picture(name):
                    yield (
                        os.fsencode(name),
                        member.file_size,
                        member.header_offset,
                        member.compress_size,
                        member.compress_type,
                        member.CRC,
                    )


def _unzipped(file: BinaryIO, member: dict[str, Any]) -> bytes | str:
    """A member, by its place: to open the archive for each unit would read its whole directory each time."""
    file.seek(member["offset"])
    header = file.read(_LOCAL_HEADER_BYTES)
    name_bytes, extra_bytes = header[26:28], header[28:30]
    file.seek(int.from_bytes(name_bytes, "little") + int.from_bytes(extra_bytes, "little"), io.SEEK_CUR)
    info = zipfile.ZipInfo(os.fsdecode(member["name"]))
    info.file_size, info.compress_size = member["size"], member["stored"]
    info.compress_type, info.CRC = member["method"], member["crc"]
    try:
        with zipfile.ZipExtFile(file, "r", info) as content:
            return content.read(MAX_FILE_BYTES + 1)
    except CANNOT_UNPACK as error:
        if not is_damage(error):
            raise
        return f"cannot be unpacked ({' '.join(str(error).split())})"


def _each(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members in order; a `TarFile` itself remembers each, a kilobyte a member."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def _stamped(schema: pa.Schema, where: str) -> pa.Schema:
    """So the listing of an archive that was replaced is another one, also where members have the same places."""
    return schema.with_metadata({"size, modified": str(set_files(where).stamp())})


@contextmanager
def _opened(where: str, buffer_bytes: int) -> Iterator[BinaryIO]:
    local = place(where)
    if isinstance(local, Path):
        with local.open("rb") as file:
            yield file
    else:
        with set_files(local).open("") as remote:
            yield io.BufferedReader(remote, buffer_bytes)
