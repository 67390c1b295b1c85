"""Where a packed set appears, whole or not at all: a folder, or a URI of an object store.

A folder is filled beside its place and renamed. An object store renames nothing: there the manifest is written last,
and until then a marker tells whose shards they are, so that the same set can be gone on with and another is refused.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from augft.data.manifest import MANIFEST
from augft.data.packed import is_packed, open_packed, set_files
from augft.errors import DataError, StorageError
from augft.storage import Place, reason


def is_done(final: Place, recipe: str, *, owned: bool) -> bool:
    """Whether the set that the recipe makes is there.

    Args:
        final: the place.
        recipe: of the set.
        owned: nobody else writes there: what is damaged or half-written may be replaced.

    Raises:
        DataError: something else is there.
    """
    files = set_files(final)
    if isinstance(final, Path):
        empty = not final.exists() or (final.is_dir() and not any(final.iterdir()))
    else:
        empty = not (names := files.list()) or _marker(recipe) in names
    if empty:
        return False
    if is_packed(final):
        try:
            if open_packed(final).manifest.recipe == recipe:
                return True
        except DataError:
            if not owned:
                raise
    if not owned:
        raise DataError(
            f"{final} exists and is not this source packed in this way: remove it, or choose another folder"
        )
    if isinstance(final, Path):
        shutil.rmtree(final, ignore_errors=True)
    else:
        files.remove(MANIFEST)
    return False


@contextmanager
def appearing(final: Place, recipe: str, scratch: Path) -> Iterator[Path]:
    """A folder to fill, which becomes the set; nothing becomes of it if anything goes wrong.

    Args:
        final: the place of the set.
        recipe: of the set.
        scratch: where the folder is, until it is uploaded.

    Raises:
        StorageError: it could not be written.
    """
    mark = f".packing-{socket.gethostname()}-"
    parent = final.parent if isinstance(final, Path) else scratch
    name = final.name if isinstance(final, Path) else recipe[:32]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(parent, mark)
        folder = parent / f".{name}{mark}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            yield folder
            if isinstance(final, Path):
                _rename(folder, final, recipe)
            else:
                upload(folder, final, recipe)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"packed data set {final} could not be written ({reason(error)}): free some space, or choose another folder"
        ) from error


def upload(folder: Path, uri: str, recipe: str) -> None:
    """Copy the set of a folder to an object store; shards that are there already stay, for equal sets are equal bytes.

    Raises:
        StorageError: it could not be written; what was uploaded is no set, and can be gone on with.
    """
    files = set_files(uri)
    there = files.sizes()
    files.write(_marker(recipe), b"")
    for shard in sorted(folder.glob("*.parquet")):
        if there.get(shard.name) != shard.stat().st_size:
            files.write(shard.name, shard.read_bytes())
    files.write(MANIFEST, (folder / MANIFEST).read_bytes())
    files.remove(_marker(recipe))


def _marker(recipe: str) -> str:
    return f".packing-{recipe[:32]}"


def _rename(folder: Path, final: Path, recipe: str) -> None:
    try:
        os.rename(folder, final)
    except OSError:
        if not is_done(final, recipe, owned=False):  # unless another process made the same meanwhile
            raise


def _remove_stale(parent: Path, mark: str) -> None:
    """Remove what processes of this machine left that were killed while packing."""
    for folder in parent.glob(f".*{mark}*"):
        with suppress(ValueError, PermissionError):
            pid = int(folder.name.rpartition(mark)[2].split("-")[0])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
