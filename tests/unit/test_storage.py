"""Files of a run directory: a write is whole or it did not happen."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from augft.errors import RunDirectoryError, StorageError
from augft.storage import Storage, extend_uri, place
from tests.small_disk import mounted_disk


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


def test_two_may_remove_the_same(storage: Storage) -> None:
    for i in range(200):
        storage.write(f"folder/{i}", b"")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(storage.remove, ["folder"] * 4))
    assert storage.list() == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    storage.write("state.pt", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(
            StorageError, match=r"run/state\.pt: .* No space left on device; free some space and go on \(.*--resume\)$"
        ):
            storage.write("state.pt", b"new")
        with pytest.raises(StorageError):
            storage.write("other.pt", b"new")
    assert storage.read("state.pt") == b"old"
    assert storage.list() == ["state.pt"]


def test_an_upload_that_fails_leaves_the_old_file(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").write_bytes(b"new" * 9)
    storage.upload("folder/listing", tmp_path / "new")
    assert storage.read("folder/listing") == b"new" * 9
    storage.write("folder/listing", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        storage.upload("folder/listing", tmp_path / "new")
    assert storage.read("folder/listing") == b"old"
    assert os.listdir(tmp_path / "run/folder") == ["listing"]


def test_a_stamp_tells_a_file_that_was_replaced(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"123")
    os.utime(tmp_path / "run/a", ns=(5, 7))
    assert storage.stamp("a") == Storage(tmp_path / "run/a").stamp() == (3, 7)
    with pytest.raises(StorageError, match=r"run/b: cannot be looked at: No such file or directory$"):
        storage.stamp("b")


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
    with pytest.raises(StorageError, match=r"run/nothing: cannot be read: No such file or directory$"):
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


@pytest.mark.parametrize(
    ("given", "ending", "extended"),
    [
        ("runs", "/name", "runs/name"),
        ("/runs/", "/name", "/runs/name"),
        ("/what?/runs", "-baseline", "/what?/runs-baseline"),
        ("s3://b/runs/", "/name", "s3://b/runs/name"),
        (
            "s3://b/runs?endpoint_override=h:9000&scheme=http",
            "/a/b",
            "s3://b/runs/a/b?endpoint_override=h:9000&scheme=http",
        ),
    ],
)
def test_a_place_below_another(given: str, ending: str, extended: str) -> None:
    assert extend_uri(given, ending) == extended


def test_a_uri_is_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("s3://bucket/a") == "s3://bucket/a"
    assert place("file:///a/b") == Path("/a/b")
    assert place("~/a") == tmp_path / "a"


# ---- storage that fails for a while ----------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augft.storage._FIRST_PAUSE_S", 0.02)


def failing(monkeypatch: pytest.MonkeyPatch, target: object, name: str, number: int, times: int) -> list[str]:
    """Let a function fail so often; what is returned has an entry for each call."""
    real, calls = getattr(target, name), []

    def flaky(*arguments: object, **named: object) -> object:
        calls.append(name)
        if len(calls) <= times:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(target, name, flaky)
    return calls


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("function", ["makedirs", "fsync", "replace"])
def test_a_write_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    told: list[str] = []
    storage = Storage(tmp_path / "run", retry_s=30, on_retry=told.append)
    calls = failing(monkeypatch, os, function, number, times=2)
    storage.write("a", b"1")
    assert len(calls) == 3
    assert storage.list() == ["a"]
    assert os.listdir(tmp_path / "run") == ["a"]  # nor a temporary file
    assert told == [f"{tmp_path}/run/a: cannot be written ({os.strerror(number)}): trying again for 30 s"]


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        (lambda storage: storage.read("a"), b"1"),
        (lambda storage: storage.exists("a"), True),
        (lambda storage: storage.list(), ["a"]),
        (lambda storage: storage.sizes(), {"a": 1}),
        (lambda storage: storage.remove("a"), None),
    ],
    ids=["read", "exists", "list", "sizes", "remove"],
)
def test_whatever_is_done_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Callable[[Storage], object], result: object
) -> None:
    told: list[str] = []
    (tmp_path / "a").write_bytes(b"1")
    storage = Storage(tmp_path, retry_s=30, on_retry=told.append)
    failing(monkeypatch, storage, "_check_there", errno.EIO, times=2)
    assert operation(storage) == result
    assert len(told) == 1
    hasty = Storage(tmp_path)
    failing(monkeypatch, hasty, "_check_there", errno.EIO, times=1)
    with pytest.raises(StorageError, match=r": cannot be [a-z ]+: Input/output error$"):
        operation(hasty)


def test_pauses_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("augft.storage._FIRST_PAUSE_S", 0.25)
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    failing(monkeypatch, os, "replace", errno.EIO, times=7)
    Storage(tmp_path, retry_s=60).write("a", b"1")
    assert len(pauses) == 7
    assert all(
        least <= pause <= least + 0.25 for pause, least in zip(pauses, (0.25, 0.5, 1, 2, 4, 5, 5), strict=True)
    ), pauses


def test_a_try_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path, retry_s=0.6)
    storage.write("a", b"old")
    calls = failing(monkeypatch, os, "replace", errno.EIO, times=99)
    with pytest.raises(StorageError, match=r"/a: cannot be written: Input/output error \(tried for \d s\)$"):
        storage.write("a", b"new")
    assert 2 <= len(calls) < 9
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read("a") == b"old"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOSPC, errno.EDQUOT])
def test_what_will_not_get_better_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    storage = Storage(tmp_path, retry_s=60, on_retry=pytest.fail)
    calls = failing(monkeypatch, os, "replace", number, times=99)
    with pytest.raises(StorageError, match=re.escape(f"/a: cannot be written: {os.strerror(number)}")) as raised:
        storage.write("a", b"new")
    assert len(calls) == 1
    assert ("free some space" in str(raised.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    with pytest.raises(StorageError):
        storage.read("missing")


def test_a_folder_that_vanished_is_neither_empty_nor_made_again(tmp_path: Path) -> None:
    root = tmp_path / "mount/run"
    made_here = Storage(root)
    made_here.write("a", b"1")
    found = Storage(root)
    (tmp_path / "mount").rename(tmp_path / "away")
    for storage in (made_here, found):
        for operation in (
            lambda storage: storage.write("a", b"2"),
            lambda storage: storage.read("a"),
            lambda storage: storage.exists("a"),
            lambda storage: storage.list(),
            lambda storage: storage.remove("a"),
        ):
            with pytest.raises(StorageError, match=r"mount/run is not there: is its disk mounted on"):
                operation(storage)
    assert not root.exists()
    threading.Timer(0.3, (tmp_path / "away").rename, [tmp_path / "mount"]).start()
    patient = Storage(root, retry_s=30, must_exist=True)
    assert patient.read("a") == b"1"


def test_a_folder_that_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"run is not there: is its disk mounted on"):
        Storage(tmp_path / "run", must_exist=True).write("a", b"1")
    assert not (tmp_path / "run").exists()


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from augft.storage import Storage;"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "Storage(sys.argv[1]).write('a', b'1')"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    assert Storage(tmp_path).list() == []
    alive = f".a.{socket.gethostname()}-{os.getpid()}-00000000.tmp"
    elsewhere, old = ".a.elsewhere-1-00000000.tmp", ".a.elsewhere-2-00000000.tmp"
    for name in (alive, elsewhere, old, ".mine.tmp"):
        (tmp_path / name).touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / old, (two_days_ago, two_days_ago))
    Storage(tmp_path).write("b", b"1")
    assert sorted(os.listdir(tmp_path)) == sorted([alive, elsewhere, ".mine.tmp", "b"])


# ---- a full disk -----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    with mounted_disk(tmp_path / "disk", 1) as folder:
        yield folder


def test_a_full_disk(small_disk: Path) -> None:
    storage = Storage(small_disk / "run", retry_s=60, on_retry=pytest.fail)
    storage.write("state.pt", b"old" * 1000)
    (small_disk / "filler").write_bytes(bytes(900_000))
    for name in ("state.pt", "deep/state.pt"):
        with pytest.raises(
            StorageError,
            match=rf"run/{name}: .*: No space left on device; free some space and go on \(.*--resume\)$",
        ):
            storage.write(name, bytes(200_000))
    assert storage.read("state.pt") == b"old" * 1000
    assert {path.name for path in small_disk.rglob("*") if path.is_file()} == {"state.pt", "filler"}
    (small_disk / "filler").unlink()
    storage.write("state.pt", bytes(200_000))
    assert storage.read("state.pt") == bytes(200_000)
