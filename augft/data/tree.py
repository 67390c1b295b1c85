"""A tree of files that is read the same way whether it is a folder, on a disk or an object store, or an archive.

Archives are hostile input: they are streamed and never extracted, and one whose members climb out, are
absolute, or are links or devices is refused whole. Hidden files and what macOS adds are passed over.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from augft.data.packed import set_files
from augft.data.picture import MAX_FILE_BYTES
from augft.data.work import Crew, all_done
from augft.errors import DataError
from augft.storage import Place, Storage, extend_uri, reason

_HASHED_TOGETHER = 256
_AT_ONCE = 16
"""Objects that are fetched at the same time: an object store answers slowly, but many at once."""


_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile)
_DAMAGE_IN_BZ2 = "Invalid data stream"
"""What an OSError says, without a number, where bz2 cannot unpack something."""


class UnreadableError(DataError):
    """A file is not to be had now; that it is wrong, nobody has said."""


class Tree(Protocol):
    """Files and folders below one root, named by relative paths with `/`."""

    @property
    def files(self) -> Collection[str]: ...

    @property
    def folders(self) -> Collection[str]: ...

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the named files, in whatever order is cheap.

        At most `MAX_FILE_BYTES + 1` bytes each; none where an archive holds a member that cannot be unpacked.
        """
        ...


def open_tree(path: Place) -> Tree:
    """Open a folder, `.tar` (plain or compressed) or `.zip`; the kind is told by content, not by name.

    Of a URI: a folder there.

    Raises:
        DataError: it is none of these, it is damaged, or it has members that no honest archive has.
        StorageError: an object store fails.
    """
    if isinstance(path, str):
        return RemoteTree(path)
    if path.is_dir():
        return FolderTree(path)
    with reading(path), path.open("rb") as file:
        is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return ZipTree(path) if is_zip else TarTree(path)


def tree_digest(path: Place, crew: Crew | None = None) -> str:
    """SHA-256 in hex: of a file's bytes; of a folder, over sorted names with each file's size and SHA-256.

    Of a URI: see `RemoteTree.digest`. The crew, if there is one, reads the files of a folder.
    """
    if isinstance(path, str):
        return RemoteTree(path).digest()
    if not path.is_dir():
        return _file_sha256(path)
    tree, digest = FolderTree(path), hashlib.sha256()
    names = sorted(tree.files)
    starts = range(0, len(names), _HASHED_TOGETHER)
    jobs = [partial(_contents, path.absolute(), names[start : start + _HASHED_TOGETHER]) for start in starts]
    contents: dict[str, str] = dict.fromkeys(tree.folders, "folder")
    for found in all_done(crew, jobs) if crew else (job(None) for job in jobs):
        contents |= found
    for name in sorted(contents):
        digest.update(f"{name}\0{contents[name]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _contents(path: Path, names: list[str], pieces: Executor | None) -> dict[str, str]:
    """Size and SHA-256 of files of a folder."""
    return {name: f"{(path / name).stat().st_size} {_file_sha256(path / name)}" for name in names}


def _file_sha256(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_files(root: Place, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of files below a folder or a URI, in the order of the names; nothing is listed.

    At most `MAX_FILE_BYTES + 1` bytes each.

    Raises:
        DataError: one is not there or may not be read.
        StorageError: an object store fails.
    """
    if isinstance(root, str):
        storage = set_files(root)
        yield from _ahead(lambda name: _read_object(storage, name), names)
        return
    for name in names:
        with reading(root / name), (root / name).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        yield name, content


def _ahead(read: Callable[[str], bytes], names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    pending: deque[tuple[str, Future[bytes]]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects") as pool:
        try:
            for name in names:
                pending.append((name, pool.submit(read, name)))
                if len(pending) > 2 * _AT_ONCE:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _read_object(storage: Storage, name: str) -> bytes:
    def once() -> bytes:
        with storage.open(name) as file:
            content: bytes = file.read(MAX_FILE_BYTES + 1)
        return content

    try:
        return storage.attempt("read", name, once)
    except OSError as error:
        raise UnreadableError(f"{extend_uri(storage.uri, f'/{name}')} cannot be read: {reason(error)}") from error


def walk(path: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Name and entry of each file and folder below a folder; a folder comes before what it holds.

    Raises:
        DataError: a folder cannot be read, or is a link to one that it lies in.
    """
    with reading(path):
        yield from _walk(path, "", frozenset())


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    info = folder.stat()
    if (identity := (info.st_dev, info.st_ino)) in above:
        raise DataError(f"{folder} is a link to a folder that it lies in: remove the link")
    with os.scandir(folder) as entries:  # which tells files from folders without asking for each
        for entry in entries:
            name = prefix + entry.name
            if is_noise(entry.name):
                continue
            if entry.is_dir():
                yield name, entry
                yield from _walk(Path(entry.path), name + "/", above | {identity})
            elif entry.is_file():
                yield name, entry


class FolderTree:
    """A folder. Its links are followed: whoever made it could as well have copied what they point to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: set[str] = set()
        for name, entry in walk(path):
            (self.folders if entry.is_dir() else self.files).add(name)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        return read_files(self.path, sorted(names))


class RemoteTree:
    """A folder on an object store: listed once, then read an object at a time, several at once.

    Raises:
        DataError: there is nothing, or a file.
        StorageError: the store fails.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        storage = set_files(uri)
        self._stamps: dict[str, str] = {}
        self.folders: set[str] = set()
        for name, info in storage.walk().items():
            if is_noise(name):
                continue
            if info.is_file:
                self._stamps[name] = f"{info.size} {info.mtime_ns}"
            else:
                self.folders.add(name)
        if not self._stamps and storage.exists():
            raise DataError(
                f"{uri} is no folder: pictures are read from an object store as class folders or Parquet files; "
                f"get an archive to a disk, `augft pack ARCHIVE {uri.rpartition('/')[0]}/packed`"
            )

    @property
    def files(self) -> Collection[str]:
        return self._stamps.keys()

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        return read_files(self.uri, sorted(names))

    def digest(self, names: Collection[str] | None = None) -> str:
        """SHA-256 in hex, over sorted names, or these, with each object's size and the time when it was written.

        So nothing is read twice. The price: the same pictures uploaded anew are another source; and one that is
        replaced within the clock's tick (a second on S3) by another of its size is not noticed.
        """
        digest = hashlib.sha256()
        for name in sorted({*self._stamps, *self.folders} if names is None else names):
            digest.update(f"{name}\0{self._stamps.get(name, 'folder')}\n".encode())
        return digest.hexdigest()


class TarTree:
    """A tar archive, read from front to back, since a compressed one can be read in no other order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = Names(path)
        with reading(path), self._open() as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise refused(path, member.name, "is a link or a device")
                names.add(member.name, member.isdir())
            # The checksum of a compressed archive is at its end: go there, or a cut archive looks whole.
            while tar.fileobj is not None and tar.fileobj.read(2**20):
                pass
        self.files, self.folders = names.files, names.folders

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with reading(self.path), self._open() as tar:
            for member in tar:
                if member.isreg() and (name := clean(member.name)) in names:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, file.read(MAX_FILE_BYTES + 1)

    def _open(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self.path, tarinfo=WholeTar)
        except tarfile.ReadError as error:
            raise DataError(
                f"{self.path} is no folder, .tar, .tar.gz or .zip archive of pictures and no Parquet file, "
                f"or it is damaged from its start on"
            ) from error


class WholeTar(tarfile.TarInfo):
    """Members of a tar archive that must be whole.

    `tarfile` takes a damaged header, unless it is the first, or a missing one for the end. Here the end is what writers
    put there: blocks of zeros. A block of zeros with something behind it is a header that was lost.

    Raises:
        tarfile.ReadError: there is something else.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError:  # of zeros, or behind a header that has several parts
            if tar.fileobj is not None and any(tar.fileobj.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("zeros in place of a header") from None
            raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error)) from None


class ZipTree:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = Names(path)
        with reading(path), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise refused(path, member.filename, "is a link or a device")
                if member.flag_bits & 1:
                    raise DataError(f"{path} is encrypted: give it without a password")
                names.add(member.filename, member.is_dir())
        self.files, self.folders = names.files, names.folders

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with reading(self.path), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and (name := clean(member.filename)) in names:
                    try:
                        with archive.open(member) as file:
                            content = file.read(MAX_FILE_BYTES + 1)
                    except CANNOT_UNPACK as error:
                        if not is_damage(error):
                            raise
                        content = b""  # one damaged member does not spoil the others
                    yield name, content


class Names:
    """Collects the names of an archive's members; refuses those that point out of it."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def add(self, raw: str, is_folder: bool) -> str | None:
        """The name as it is to be used; None where the member is passed over."""
        parts = raw.replace("\\", "/").split("/")
        if ".." in parts:
            raise refused(self.path, raw, "climbs out of the archive")
        if parts[0] == "" or re.match(r"[A-Za-z]:", raw):
            raise refused(self.path, raw, "is an absolute path")
        name = clean(raw)
        if not name or is_noise(name):
            return None
        if not is_folder and name in self.files:
            raise refused(self.path, raw, "is there twice")
        (self.folders if is_folder else self.files).add(name)
        parents = name.split("/")[:-1]
        self.folders.update("/".join(parents[: depth + 1]) for depth in range(len(parents)))
        return name


def clean(raw: str) -> str:
    """A member's name without empty parts; some programs of Windows part it by backslashes."""
    return "/".join(part for part in raw.replace("\\", "/").split("/") if part not in ("", "."))


def is_noise(name: str) -> bool:
    """Whether it is hidden, or of what macOS adds."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def refused(path: Path | str, member: str, why: str) -> DataError:
    """The error of an archive with a member that no honest one has."""
    shown = member.encode("unicode_escape", "backslashreplace").decode()
    return DataError(f"{path} is refused: its member '{shown}' {why}; pack the pictures again without it")


CANNOT_UNPACK = (*_DAMAGE, NotImplementedError, OSError)
"""What unpacking a member may raise; it is to be seen by `is_damage` whether the member is at fault."""


def is_damage(error: BaseException) -> bool:
    """Whether an error says that bytes are wrong, or packed in an unknown way; not that they could not be read."""
    if isinstance(error, (*_DAMAGE, NotImplementedError)):
        return True
    return isinstance(error, OSError) and error.errno is None and str(error) == _DAMAGE_IN_BZ2


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turns what goes wrong while reading into one line."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if is_damage(error):
            raise DataError(f"{path} is damaged or cut short ({error}): get it again") from error
        raise UnreadableError(f"{path} cannot be read: {reason(error)}") from error


def shown(name: str) -> str:
    """A name as it can be printed: file names may hold bytes that are no text, or line ends."""
    return name.encode("unicode_escape", "backslashreplace").decode() if not name.isprintable() else name
