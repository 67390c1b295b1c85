"""Files of a run directory: a write is whole or it did not happen."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from augft.errors import RunDirectoryError, StorageError
from augft.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "run")


def test_write_read_list_remove(storage: Storage, tmp_path: Path) -> None:
    assert not storage.exists()
    assert storage.list() == []
    storage.write("b.txt", b"one")
    storage.write("folder/deep/a.txt", b"two")
    storage.write("b.txt", b"three")
    assert storage.exists()
    assert storage.read("b.txt") == b"three"
    assert (tmp_path / "run/folder/deep/a.txt").read_bytes() == b"two"
    assert storage.list() == ["b.txt", "folder"]
    assert storage.list("folder/deep") == ["a.txt"]
    assert storage.list("nothing") == []
    storage.remove("folder")
    storage.remove("b.txt")
    storage.remove("b.txt")  # again: nothing to do
    assert storage.list() == []
    assert not storage.exists("b.txt")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    storage.write("state.pt", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(StorageError, match=r"run/state\.pt: cannot be written: No space left on device$"):
            storage.write("state.pt", b"new")
        with pytest.raises(StorageError):
            storage.write("other.pt", b"new")
    assert storage.read("state.pt") == b"old"
    assert storage.list() == ["state.pt"]


def test_an_interrupted_write_leaves_nothing(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write("state.pt", b"new")
    assert storage.list() == []


def test_bytes_are_on_disk_before_the_name_is(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    storage.write("a", b"1")
    assert calls == ["fsync", "replace"]


def test_what_is_missing_says_so(storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"run/nothing: cannot be read"):
        storage.read("nothing")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert not Storage(tmp_path / "file").exists("config.yaml")
    with pytest.raises(RunDirectoryError, match=r"file: is a file; give a folder"):
        Storage(tmp_path / "file").list()


def test_names_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage("runs/a").uri == str(tmp_path / "runs/a")
    assert Storage("~/a").uri == str(tmp_path / "home/a")
    by_uri = Storage(f"file://{tmp_path}/new/run")
    by_uri.write("folder/a", b"1")
    assert (tmp_path / "new/run/folder/a").read_bytes() == b"1"
    with pytest.raises(RunDirectoryError, match=r"gopher://x: .*; give a folder, s3:// or gs://"):
        Storage("gopher://x")


def test_other_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow's in-memory file system stands for an object store."""
    storage = Storage("mock:///")
    assert not storage.local
    storage.write("config.yaml", b"a: 1")
    storage.write("config.yaml", b"a: 2")
    assert storage.read("config.yaml") == b"a: 2"
    assert storage.exists("config.yaml")
    assert storage.list() == ["config.yaml"]
    storage.remove("config.yaml")
    storage.remove("config.yaml")
    assert storage.list() == []
    with pytest.raises(StorageError, match="cannot be read"):
        storage.read("config.yaml")
