"""A tree of files that is read the same way whether it is a folder, a tar or a zip archive.

Archives are hostile input: they are streamed and never extracted, and one whose members climb out, are
absolute, or are links or devices is refused whole. Hidden files and what macOS adds are passed over.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from augft.data.picture import MAX_FILE_BYTES
from augft.errors import DataError


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


def open_tree(path: Path) -> Tree:
    """Open a folder, `.tar` (plain or compressed) or `.zip`; the kind is told by content, not by name.

    Raises:
        DataError: it is none of these, it is damaged, or it has members that no honest archive has.
    """
    if path.is_dir():
        return FolderTree(path)
    with _reading(path), path.open("rb") as file:
        is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return ZipTree(path) if is_zip else TarTree(path)


def tree_digest(path: Path) -> str:
    """SHA-256 in hex: of a file's bytes; of a folder, over sorted names with each file's size and SHA-256."""
    if not path.is_dir():
        return _file_sha256(path)
    tree, digest = FolderTree(path), hashlib.sha256()
    for name in sorted({*tree.files, *tree.folders}):
        entry = path / name
        content = f"{entry.stat().st_size} {_file_sha256(entry)}" if name in tree.files else "folder"
        digest.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with _reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderTree:
    """A folder. Its links are followed: whoever made it could as well have copied what they point to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: set[str] = set()
        with _reading(path):
            self._walk(path, "", frozenset())

    def _walk(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        info = folder.stat()
        if (identity := (info.st_dev, info.st_ino)) in above:
            raise DataError(f"{folder} is a link to a folder that it lies in: remove the link")
        for entry in folder.iterdir():
            name = prefix + entry.name
            if _is_noise(name):
                continue
            if entry.is_dir():
                self.folders.add(name)
                self._walk(entry, name + "/", above | {identity})
            elif entry.is_file():
                self.files.add(name)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(names):
            with _reading(self.path / name), (self.path / name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            yield name, content


class TarTree:
    """A tar archive, read from front to back, since a compressed one can be read in no other order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = _Names(path)
        with _reading(path), self._open() as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()):
                    raise _refused(path, member.name, "is a link or a device")
                names.add(member.name, member.isdir())
            # The checksum of a compressed archive is at its end: go there, or a cut archive looks whole.
            while tar.fileobj is not None and tar.fileobj.read(2**20):
                pass
        self.files, self.folders = names.files, names.folders

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with _reading(self.path), self._open() as tar:
            for member in tar:
                if member.isreg() and (name := _clean(member.name)) in names:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, file.read(MAX_FILE_BYTES + 1)

    def _open(self) -> tarfile.TarFile:
        try:
            return tarfile.open(self.path)
        except tarfile.ReadError as error:
            raise DataError(
                f"{self.path} is no folder, .tar, .tar.gz or .zip archive of pictures and no Parquet file, "
                f"or it is damaged from its start on"
            ) from error


class ZipTree:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = _Names(path)
        with _reading(path), zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(path, member.filename, "is a link or a device")
                if member.flag_bits & 1:
                    raise DataError(f"{path} is encrypted: give it without a password")
                names.add(member.filename, member.is_dir())
        self.files, self.folders = names.files, names.folders

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with _reading(self.path), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                if not member.is_dir() and (name := _clean(member.filename)) in names:
                    try:
                        with archive.open(member) as file:
                            content = file.read(MAX_FILE_BYTES + 1)
                    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError):
                        content = b""  # one damaged member does not spoil the others
                    yield name, content


class _Names:
    """Collects the names of an archive's members; refuses those that point out of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: set[str] = set()

    def add(self, raw: str, is_folder: bool) -> None:
        parts = raw.replace("\\", "/").split("/")
        if ".." in parts:
            raise _refused(self.path, raw, "climbs out of the archive")
        if parts[0] == "" or re.match(r"[A-Za-z]:", raw):
            raise _refused(self.path, raw, "is an absolute path")
        name = _clean(raw)
        if not name or _is_noise(name):
            return
        if not is_folder and name in self.files:
            raise _refused(self.path, raw, "is there twice")
        (self.folders if is_folder else self.files).add(name)
        parents = name.split("/")[:-1]
        self.folders.update("/".join(parents[: depth + 1]) for depth in range(len(parents)))


def _clean(raw: str) -> str:
    return "/".join(part for part in raw.split("/") if part not in ("", "."))


def _is_noise(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _refused(path: Path, member: str, why: str) -> DataError:
    shown = member.encode("unicode_escape", "backslashreplace").decode()
    return DataError(f"{path} is refused: its member '{shown}' {why}; pack the pictures again without it")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong while reading into one line."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): get it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
