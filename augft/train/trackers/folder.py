"""Local files that end up in the run directory, which may be on an object store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from augft.storage import Storage


class Folder:
    """A folder of a run, for writers that know local files only.

    On a local run directory it is the folder itself; else a temporary one, whose files `push` copies.

    Args:
        storage: the run directory.
        name: of the folder in it.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, name
        self._temporary = None if storage.local else tempfile.TemporaryDirectory(prefix="augft-")
        self.path = Path(self._temporary.name if self._temporary else storage.uri) / name
        self.path.mkdir(exist_ok=True)
        self._pushed: dict[Path, tuple[int, int]] = {}

    def push(self) -> None:
        """Copy what is new or has changed.

        Raises:
            StorageError: it cannot be written.
        """
        if self._temporary is None:
            return
        for file in sorted(self.path.rglob("*")):
            if not file.is_file() or file.is_symlink():
                continue
            seen = (file.stat().st_size, file.stat().st_mtime_ns)
            if self._pushed.get(file) != seen:
                self._storage.write(f"{self._name}/{file.relative_to(self.path).as_posix()}", file.read_bytes())
                self._pushed[file] = seen

    def close(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
