"""Files of a run directory, on a local disk, NFS or an object store, by name.

A write is atomic: a reader finds the whole file, the one before, or none. On object stores a put is; on a file
system the bytes go to a temporary sibling, are flushed to disk, and are renamed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pyarrow import fs

from augft.errors import RunDirectoryError, StorageError


class Storage:
    """A folder of files.

    Args:
        uri: a local path, or a URI that pyarrow knows (`s3://`, `gs://`).

    Raises:
        RunDirectoryError: the URI is not understood.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).removeprefix("file://")
        self.local = "://" not in self.uri
        try:
            if self.local:
                self._root = str(Path(self.uri).expanduser().absolute())
                self.uri = self._root
                self._fs: fs.FileSystem = fs.LocalFileSystem()
            else:
                self._fs, self._root = fs.FileSystem.from_uri(self.uri)
        except (ValueError, OSError) as error:
            raise RunDirectoryError(f"{self.uri}: {error}; give a folder, s3:// or gs://") from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, with the folders above it."""
        path = self._path(name)
        try:
            if self.local:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                temporary = f"{path}.{os.getpid()}.tmp"
                try:
                    with open(temporary, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(temporary, path)
                except BaseException:
                    Path(temporary).unlink(missing_ok=True)
                    raise
            else:
                with self._fs.open_output_stream(path) as stream:
                    stream.write(data)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from None

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            StorageError: it is not there or cannot be read.
        """
        path = self._path(name)
        try:
            with self._fs.open_input_stream(path) as stream:
                data: bytes = stream.read()
                return data
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from None

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there; without a name, the folder itself."""
        return bool(self._fs.get_file_info(self._path(name)).type != fs.FileType.NotFound)

    def list(self, name: str = "") -> list[str]:
        """Names in a folder; empty where there is none.

        Raises:
            RunDirectoryError: it is a file.
        """
        path = self._path(name)
        try:
            infos = self._fs.get_file_info(fs.FileSelector(path, allow_not_found=True))
        except NotADirectoryError:
            raise RunDirectoryError(f"{path}: is a file; give a folder") from None
        return sorted(info.base_name for info in infos)

    def check_possible(self) -> None:
        """Whether the folder could be made.

        Raises:
            RunDirectoryError: a file is in the way, or this user may not write there.
        """
        if not self.local:
            return
        nearest = next(path for path in (Path(self._root), *Path(self._root).parents) if path.exists())
        if not nearest.is_dir():
            raise RunDirectoryError(f"{nearest}: is a file; give a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"{nearest}: may not be written to; give another folder")

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        path = self._path(name)
        if self.local:
            shutil.rmtree(path) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
        elif self._fs.get_file_info(path).type == fs.FileType.Directory:
            self._fs.delete_dir(path)
        elif self._fs.get_file_info(path).type == fs.FileType.File:
            self._fs.delete_file(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
