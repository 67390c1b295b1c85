"""Where a packed set appears, whole or not at all: a folder, or a URI of an object store.

A folder is filled beside its place, in a hidden one, and renamed. An object store renames nothing: there the manifest
is written last, and until then a marker tells whose shards they are, so that the same set can be gone on with and
another is refused. What is done when a packing breaks off stays, and the same packing goes on with it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from augft.data.manifest import MANIFEST
from augft.data.packed import is_packed, open_packed, set_files
from augft.data.parts import Site
from augft.data.tree import UnreadableError
from augft.errors import AugftError, DataError, InputError, StorageError
from augft.storage import Place, reason

_NOTES, _LOCK, _PACKING = ".parts", ".lock", ".packing-"
FLEETING = ".augft-visible-"
"""Begins the names of files that others shall see for a moment; a process that is killed leaves them."""
_SHARD = re.compile(r"(train|val|test)-\d{5,}\.parquet")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_FORGOTTEN_S = 7 * 24 * 3600
"""After so long nobody will go on with a set that is kept by what went into it."""


def is_done(final: Place, recipe: str, *, owned: bool) -> bool:
    """Whether the set that the recipe makes is there.

    Args:
        final: the place.
        recipe: of the set.
        owned: nobody else writes there: what is damaged or half-written may be replaced.

    Raises:
        DataError: something else is there; below a URI perhaps an unfinished set of another recipe.
    """
    files, names = set_files(final), []
    if isinstance(final, Path):
        empty = not final.exists() or (final.is_dir() and not any(final.iterdir()))
    else:
        names = [name for name in files.list() if not name.startswith(FLEETING)]
        empty = not names or _marker(recipe) in names
    if is_packed(final):
        try:
            if open_packed(final).manifest.recipe == recipe:
                return True
        except DataError:
            if not owned and not empty:
                raise
    if empty:
        return False
    if not owned:
        what = "exists and is not this source packed in this way"
        if _is_unfinished(names):
            what = "holds what a packing of another source or with other options left unfinished"
        raise DataError(f"{final} {what}: remove it, or choose another folder")
    if isinstance(final, Path):
        shutil.rmtree(final, ignore_errors=True)
    else:
        files.remove(MANIFEST)
    return False


def landing(final: Place) -> Place:
    """Where a set can appear whole: the place itself, or what it is a link to.

    Raises:
        DataError: a folder cannot be replaced there.
    """
    if isinstance(final, str):
        return final
    target = final.resolve() if final.is_symlink() else final
    if target.is_dir() and target.samefile(Path.cwd()):
        raise DataError(f"{final} is the folder that this command runs in: give a new one, as {final / 'packed'}")
    if os.path.ismount(target):
        raise DataError(f"{final} is a disk of its own, where no set can appear whole: give {final / 'packed'}")
    return target


def _is_unfinished(names: Collection[str]) -> bool:
    """Whether nothing lies below a URI but what a packing leaves that broke off."""
    rest = [name for name in names if not name.startswith(_PACKING)]
    return len(rest) < len(names) and all(map(_SHARD.fullmatch, rest))


@contextmanager
def appearing(final: Place, recipe: str, scratch: Path, *, directly: bool = False) -> Iterator[Site]:
    """A place to fill with shards and then a manifest, which becomes the set.

    Where anything goes wrong there is no set. What has been noted at the place stays for the next time, unless the
    input is wrong.

    Args:
        final: the place of the set.
        recipe: of the set.
        scratch: where the folder is, until it is uploaded.
        directly: whether a URI is filled where it is, by processes that share no folder.

    Raises:
        StorageError: it could not be written.
    """
    try:
        if isinstance(final, str) and directly:
            with _kept(Site(final, _marker(recipe))) as site:
                yield site
            site.files().remove(site.notes)
            return
        parent = final.parent if isinstance(final, Path) else scratch
        parent.mkdir(parents=True, exist_ok=True)
        name = final.name if isinstance(final, Path) else recipe[:32]
        _remove_stale(parent, name, recipe)
        with _hidden(parent.absolute(), name, recipe) as folder, _kept(Site(str(folder), _NOTES)) as site:
            yield site
            if isinstance(final, Path):
                site.files().remove(_NOTES)
                (folder / _LOCK).unlink()
                _rename(folder, final, recipe)
            else:
                upload(folder, final, recipe)
                shutil.rmtree(folder)
    except (OSError, pa.ArrowException) as error:
        if _by_another(final, recipe):
            return
        raise StorageError(
            f"packed data set {final} could not be written ({reason(error)}): free some space, or choose another folder"
        ) from error
    except StorageError as error:
        if _by_another(final, recipe):
            return
        told = str(error).removesuffix(" and go on (a run: with --resume)")
        raise StorageError(
            f"packed data set {final} could not be written ({told}): the same command goes on with what is done"
        ) from error


def _by_another(final: Place, recipe: str) -> bool:
    """Whether another process made the set meanwhile, and took away what this one was at."""
    with suppress(AugftError):
        return is_packed(final) and open_packed(final).manifest.recipe == recipe
    return False


@contextmanager
def _kept(site: Site) -> Iterator[Site]:
    """A site that is left as it is where something is noted, and taken away where nothing is or the input is wrong.

    A set that is whole stays, whatever went wrong here: another process made it, and took away the notes.
    """
    files = site.files()
    try:
        yield site
    except BaseException as error:
        with suppress(AugftError, OSError):  # what went wrong first counts
            is_wrong = isinstance(error, InputError) and not isinstance(error, UnreadableError)
            names = files.list()
            if MANIFEST not in names and (is_wrong or not files.list(site.notes)):
                for name in names:
                    if name != _LOCK:
                        files.remove(name)
        raise


@contextmanager
def _hidden(parent: Path, name: str, recipe: str) -> Iterator[Path]:
    """The hidden folder of a packing, which no other process is at: else one of this process's own.

    It goes away if it is left empty.
    """
    shared = parent / f".{name}.packing-{recipe[:16]}"
    own = parent / f".{name}.packing-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    for folder in (shared, own):
        folder.mkdir(exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            if not _locked(lock.fileno()):
                continue
            try:
                yield folder
            finally:
                with suppress(OSError):
                    if not [entry for entry in os.listdir(folder) if entry != _LOCK]:
                        (folder / _LOCK).unlink()
                        folder.rmdir()
                if folder == own:
                    shutil.rmtree(own, ignore_errors=True)
        return


def _locked(descriptor: int) -> bool:
    """Whether the lock is this process's now; where a file system has no locks, as if it were."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


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
    return f"{_PACKING}{recipe[:32]}"


def _rename(folder: Path, final: Path, recipe: str) -> None:
    try:
        os.rename(folder, final)
    except OSError:
        if not is_done(final, recipe, owned=False):  # unless another process made the same meanwhile
            raise
        shutil.rmtree(folder)


def _remove_stale(parent: Path, name: str, recipe: str) -> None:
    """Remove what packings left that nobody will go on with.

    That is, of this set, what another source or other options made; and of others, folders that a dead process of
    this machine had for itself, and what lies for long where sets are kept by what went into them.
    """
    mine = f".packing-{socket.gethostname()}-"
    for folder in parent.glob(f".{glob.escape(name)}.packing-*"):
        if folder.name.rpartition("-")[2] != recipe[:16] and "-" not in folder.name.rpartition(".packing-")[2]:
            _remove_unlocked(folder)
    for folder in parent.glob(f".{'[0-9a-f]' * 32}.packing-{'[0-9a-f]' * 16}"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _FORGOTTEN_S:
                _remove_unlocked(folder)
    for folder in parent.glob(f".*{mine}*"):
        with suppress(ValueError, PermissionError):
            pid = int(folder.name.rpartition(mine)[2].split("-")[0])
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)


def _remove_unlocked(folder: Path) -> None:
    with suppress(OSError), (folder / _LOCK).open("w") as lock:
        if _locked(lock.fileno()):
            shutil.rmtree(folder, ignore_errors=True)
