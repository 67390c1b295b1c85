"""Files of a folder on a local disk, NFS or an object store, by name.

A write is atomic: a reader finds the whole file, the one before, or none. On object stores a put is; on a file
system the bytes go to a temporary sibling, are flushed to disk, and are renamed.

Storage that fails for a while is tried again with growing pauses. What will not get better is told at once: no such
file, no permission, no space. A folder that was there and is gone counts as storage that fails: its disk may come
back. It is never made anew on the disk below, nor taken for an empty one.

An S3-compatible store is named by `AWS_ENDPOINT_URL=http://host:9000` in the environment of each node, or in the URI:
`s3://bucket/folder?endpoint_override=host:9000&scheme=http`. Keys come from the environment, the files of the AWS
command line or the machine's role; do not write them into a URI, which is printed and kept.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from augft.errors import RunDirectoryError, StorageError

T = TypeVar("T")
Place = Path | str
"""A path, or a URI, which `Path` would spoil."""

_CHUNK_BYTES = 8 * 2**20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^/]+)-(?P<pid>\d+)-[0-9a-f]{8}\.tmp$")
_STALE_S = 24 * 3600
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PASSING = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.EBUSY, errno.ENOTEMPTY, errno.EAGAIN, errno.EINTR),
        *(errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
# Errors of object stores carry no number, only names.
_OF_A_STORE = re.compile(r"AWS Error|google::cloud::Status")
_LASTING_IN_A_STORE = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|UNAUTHENTICATED|NO_SUCH_|NOT_FOUND|INVALID_|SIGNATURE_DOES_NOT_MATCH|"
    r"MISSING_AUTHENTICATION|UNRECOGNIZED_CLIENT|HTTP status (?!408|429)4\d\d"
)


class Storage:
    """A folder of files.

    Args:
        uri: a local path, or a URI that pyarrow knows (`s3://`, `gs://`).
        retry_s: for how long storage that fails is tried again; at least one try each time.
        on_retry: told in a line when an operation begins to try again.
        must_exist: the folder was made by someone else, on storage that this machine should see; without it, one
            that is not there is made by the first write.

    Raises:
        RunDirectoryError: the URI is not understood.
        StorageError: the object store does not answer.
    """

    def __init__(
        self,
        uri: str | Path,
        *,
        retry_s: float = 0.0,
        on_retry: Callable[[str], None] | None = None,
        must_exist: bool = False,
    ) -> None:
        where = place(uri)
        self.uri = str(where)
        self.local = isinstance(where, Path)
        self._retry_s = retry_s
        self._on_retry = on_retry
        self._swept: set[str] = set()
        if isinstance(where, Path):
            self.uri = self._root = str(where.absolute())
            self._there = must_exist or where.is_dir()
            self._fs: fs.FileSystem = fs.LocalFileSystem()
            return
        self._root = self.uri.partition("://")[2].partition("?")[0]
        try:
            self._fs, self._root = self.attempt("reached", "", lambda: fs.FileSystem.from_uri(self.uri))
        except (ValueError, OSError) as error:
            raise RunDirectoryError(f"{self.uri}: {reason(error)}; give a folder, s3:// or gs://") from None
        self._there = False

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, with the folders above it.

        Raises:
            StorageError: it cannot be written; what was there before still is.
        """
        path = self._path(name)

        def once() -> None:
            self._check_there()
            self._replace(path, data) if self.local else self._put(path, data)

        self._do("written", name, once)
        self._there = self.local

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            StorageError: it is not there or cannot be read.
        """

        def once() -> bytes:
            with self.open(name) as file:
                data: bytes = file.read()
            return data

        return self._do("read", name, once)

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there; without a name, the folder itself.

        Raises:
            StorageError: it cannot be told.
        """

        def once() -> bool:
            self._check_there()
            return bool(self._fs.get_file_info(self._path(name)).type != fs.FileType.NotFound)

        return self._do("looked for", name, once)

    def stamp(self, name: str = "") -> tuple[int, int]:
        """Size in bytes and time of the last change in ns of a file; without a name, of what this is the place of.

        Raises:
            StorageError: it is not there, or cannot be told.
        """

        def once() -> tuple[int, int]:
            self._check_there()
            info = self._fs.get_file_info(self._path(name))
            if info.type == fs.FileType.NotFound:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return info.size or 0, info.mtime_ns or 0

        return self._do("looked at", name, once)

    def list(self, name: str = "") -> list[str]:
        """Names in a folder; empty where there is none.

        Raises:
            RunDirectoryError: it is a file.
            StorageError: it cannot be listed.
        """
        return sorted(info.base_name for info in self._infos(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Names and bytes of the files in a folder. Raises as `list`."""
        return {info.base_name: info.size for info in self._infos(name) if info.type == fs.FileType.File}

    def walk(self) -> dict[str, Any]:
        """All files and folders below, by relative path: pyarrow's `FileInfo` of each. Raises as `list`."""
        start = len(self._root) + 1
        return {info.path[start:]: info for info in self._infos("", recursive=True)}

    def upload(self, name: str, local: Path) -> None:
        """Copy a file of this machine here, of any size; it appears whole.

        Raises:
            StorageError: it cannot be written; what was there before still is.
        """
        path = self._path(name)

        def copy() -> None:
            self._check_there()
            if self.local:
                self._replace(path, local)
                return
            # In a thread, as `_put` is. Nothing but the store itself can fail between begin and end.
            with ThreadPoolExecutor(1, thread_name_prefix="upload") as thread:
                local_fs = fs.LocalFileSystem()
                thread.submit(fs.copy_files, str(local), path, local_fs, self._fs, chunk_size=_CHUNK_BYTES).result()

        self._do("written", name, copy)
        self._there = self.local

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        path = self._path(name)

        def once() -> None:
            self._check_there()
            while (kind := self._fs.get_file_info(path).type) != fs.FileType.NotFound:
                with suppress(FileNotFoundError):  # another removes it too
                    self._fs.delete_dir(path) if kind == fs.FileType.Directory else self._fs.delete_file(path)

        self._do("removed", name, once)

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

    def open(self, name: str) -> Any:
        """A pyarrow file to read from at random. Use it inside `attempt`: it raises OSError as it comes."""
        self._check_there()
        return self._fs.open_input_file(self._path(name))

    def attempt(self, done: str, name: str, action: Callable[[], T]) -> T:
        """Do something, and again while storage fails for a while.

        Args:
            done: what cannot be done to the file, as "read".
            name: of the file.
            action: repeated from its beginning.

        Raises:
            StorageError: storage failed for longer than `retry_s`.
            OSError: what will not get better, as `action` raised it.
        """

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == 1 and self._on_retry is not None and state.outcome is not None:
                why = reason(state.outcome.exception())
                self._on_retry(f"{self._shown(name)}: cannot be {done} ({why}): trying again for {self._retry_s:.0f} s")

        began_at = time.monotonic()
        try:
            return Retrying(
                retry=retry_if_exception(_may_pass),
                wait=wait_exponential(_FIRST_PAUSE_S, _LONGEST_PAUSE_S) + wait_random(0, _FIRST_PAUSE_S),
                stop=stop_after_delay(self._retry_s),
                before_sleep=tell,
            )(action)
        except RetryError as given_up:
            why = reason(given_up.last_attempt.exception())
            tried = f" (tried for {time.monotonic() - began_at:.0f} s)" if self._retry_s else ""
            raise StorageError(f"{self._shown(name)}: cannot be {done}: {why}{tried}") from None

    def _do(self, done: str, name: str, action: Callable[[], T]) -> T:
        """`attempt`, with one kind of error."""
        try:
            return self.attempt(done, name, action)
        except OSError as error:
            advice = "; free some space and go on (a run: with --resume)" if error.errno in _FULL else ""
            raise StorageError(f"{self._shown(name)}: cannot be {done}: {reason(error)}{advice}") from None

    def _infos(self, name: str, recursive: bool = False) -> Sequence[Any]:
        """What pyarrow tells of a folder's entries; without temporaries of writers."""
        path = self._path(name)

        def once() -> Sequence[Any]:
            self._check_there()
            where = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
            found: Sequence[Any] = self._fs.get_file_info(where)
            return found

        try:
            infos = self.attempt("listed", name, once)
        except NotADirectoryError:
            raise RunDirectoryError(f"{path}: is a file; give a folder") from None
        except OSError as error:
            raise StorageError(f"{self._shown(name)}: cannot be listed: {reason(error)}") from None
        return [info for info in infos if not _TEMPORARY.match(info.base_name)]

    def _check_there(self) -> None:
        if self.local and self._there and not os.path.isdir(self._root):
            raise OSError(errno.ESTALE, f"{self._root} is not there: is its disk mounted on {socket.gethostname()}?")

    def _replace(self, path: str, data: bytes | Path) -> None:
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        self._sweep(folder)
        temporary = f"{folder}/.{name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            with open(temporary, "wb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, _CHUNK_BYTES)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _sweep(self, folder: str) -> None:
        """Remove what killed writers left, once a folder: of this host's dead processes, and what is a day old."""
        if folder in self._swept:
            return
        for entry in os.scandir(folder):
            match = _TEMPORARY.match(entry.name)
            if match is None:
                continue
            with suppress(OSError):
                dead = match["host"] == socket.gethostname() and not _is_alive(int(match["pid"]))
                if dead or time.time() - entry.stat().st_mtime > _STALE_S:
                    os.unlink(entry.path)
        self._swept.add(folder)

    def _put(self, path: str, data: bytes) -> None:
        # In a thread, where no Ctrl-C arrives: an exception here would close the stream, and so commit what it has.

        def put() -> None:
            with self._fs.open_output_stream(path) as stream:
                stream.write(data)

        with ThreadPoolExecutor(1, thread_name_prefix="put") as thread:
            thread.submit(put).result()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _shown(self, name: str) -> str:
        return self._path(name) if self.local else f"{self.uri.partition('://')[0]}://{self._path(name)}"


def place(given: str | Path) -> Place:
    """What a person or a job names: `~` is the home folder, `file://` goes without saying."""
    text = str(given).removeprefix("file://")
    return text if "://" in text else Path(text).expanduser()


def extend_uri(uri: str, ending: str) -> str:
    """A place below or beside another, as `"/name"` or `"-baseline"`; what follows `?` in a URI stays at its end."""
    base, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{base.rstrip('/')}{ending}{mark}{query}"


def split_uri(uri: str) -> tuple[str, str]:
    """The place of the folder that a URI's last name lies in, and that name as it is written there."""
    base, mark, query = uri.partition("?")
    folder, _, name = base.rpartition("/")
    return f"{folder}{mark}{query}", name


def reason(error: BaseException | None) -> str:
    """Why, in a line; without the path, which pyarrow tells too, and the number that a store gives a request."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return re.sub(r"^.* Detail: \[errno \d+\] | \(Request ID: \S*\)$", "", text)


def _may_pass(error: BaseException) -> bool:
    """Whether to try again can help."""
    if not isinstance(error, OSError):
        return False
    if error.errno is not None:
        return error.errno in _PASSING
    return bool(_OF_A_STORE.search(str(error)) and not _LASTING_IN_A_STORE.search(str(error)))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
