"""Runs and packed sets on object storage: an S3 server on this machine, and a line to it that can be cut."""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augft.cli import main
from augft.config import load_job
from augft.data import pack as module
from augft.data import packed, shards
from augft.data.destination import appearing
from augft.data.pack import pack
from augft.data.packed import cache_dir, is_packed, open_packed
from augft.display import Display
from augft.errors import DataError, RunDirectoryError, StorageError
from augft.prepare import prepare
from augft.storage import Storage, extend_uri
from augft.train.visibility import marked
from tests.object_store import Line, bucket_of_test, s3_server

OUTAGE_S = float(os.environ.get("AUGFT_TEST_OUTAGE_S", "8"))
"""Longer than the six seconds that pyarrow itself tries again."""
NUM_ROWS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def bucket(server: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URI of a bucket of this test's own; the server is named by the environment."""
    return bucket_of_test(server, monkeypatch, request)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def line(server: int) -> Iterator[Line]:
    made = Line(server)
    yield made
    made.close()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 5, 5, 3), np.uint8)


@pytest.fixture
def source(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pictures of three classes, to be packed in three shards."""
    monkeypatch.setattr(shards, "_MAX_ROW_GROUP", 8)
    monkeypatch.setattr(shards, "_SHARD_BYTES", 24 * 75)
    for i, image in enumerate(images):
        path = tmp_path / "s" / "abc"[i // 20] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return str(tmp_path / "s")


def through(line: Line, uri: str) -> str:
    return f"{uri}?endpoint_override=127.0.0.1:{line.port}&scheme=http"


# ---- a run directory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("named_by", ["environment", "uri"])
def test_write_read_list_remove(bucket: str, server: int, named_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{bucket}/runs"
    if named_by == "uri":
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        uri = f"{uri}?endpoint_override=127.0.0.1:{server}&scheme=http"
    storage = Storage(extend_uri(uri, "/one"))
    assert not storage.local
    assert not storage.exists()
    assert storage.list() == []
    storage.write("b.txt", b"one")
    storage.write("folder/deep/a.txt", b"two")
    storage.write("b.txt", b"three")
    assert storage.exists()
    assert storage.read("b.txt") == b"three"
    assert storage.list() == ["b.txt", "folder"]
    assert storage.sizes() == {"b.txt": 5}
    assert storage.list("folder/deep") == ["a.txt"]
    assert Storage(uri).list("one") == ["b.txt", "folder"]
    storage.remove("folder")
    storage.remove("b.txt")
    storage.remove("b.txt")  # again: nothing to do
    assert storage.list() == []
    with pytest.raises(StorageError, match=r"^s3://.*/runs/one/b.txt: cannot be read: No such file or directory$"):
        storage.read("b.txt")


def test_what_will_not_get_better_is_told_at_once() -> None:
    storage = Storage("s3://there-is-none/run", retry_s=60, on_retry=pytest.fail)
    with pytest.raises(StorageError, match=r"^s3://there-is-none/run/a: cannot be written: .*NO_SUCH_BUCKET"):
        storage.write("a", b"1")
    with pytest.raises(RunDirectoryError, match=r"^s3://b/x\?speed=high: .*speed"):
        Storage("s3://b/x?speed=high")


_BROKEN_OFF = """
import os, signal, sys, time
from augft.storage import Storage
storage = Storage(sys.argv[1])
class Interrupting:
    def open_output_stream(self, path):
        opened = real.open_output_stream(path)
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        time.sleep(0.2)
        return opened
real, storage._fs = storage._fs, Interrupting()
storage.write('state.pt', b'new')
"""


@pytest.mark.parametrize(("name", "content"), [("SIGINT", b"new"), ("SIGKILL", b"old")])
def test_a_write_that_is_broken_off(bucket: str, name: str, content: bytes) -> None:
    """Just after the file was opened: to close it then would be to commit an empty one."""
    storage = Storage(bucket)
    storage.write("state.pt", b"old")
    run = subprocess.run([sys.executable, "-c", _BROKEN_OFF, bucket, name], capture_output=True, text=True)
    assert run.returncode == -getattr(signal, name), run.stderr
    assert storage.read("state.pt") == content


def test_storage_that_fails_for_too_long(bucket: str, line: Line) -> None:
    """The line is cut in the middle of a large file, and does not come back in time."""
    storage = Storage(bucket)
    storage.write("state.pt", b"old")
    line.cut_after(20 * 2**20)
    fragile = Storage(through(line, bucket), retry_s=1)
    with pytest.raises(StorageError) as raised:
        fragile.write("state.pt", bytes(40 * 2**20))
    message = r"s3://.*/state.pt: cannot be written: .*NETWORK_CONNECTION.* \(tried for \d+ s\)"
    assert re.fullmatch(message, str(raised.value))
    assert storage.read("state.pt") == b"old"
    assert storage.list() == ["state.pt"]


def test_storage_that_fails_for_a_while(
    bucket: str, line: Line, source: str, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "RETRY_S", OUTAGE_S + 60)
    told: list[str] = []
    storage = Storage(through(line, bucket), retry_s=OUTAGE_S + 60, on_retry=told.append)
    storage.write("a", b"1")
    split = open_packed(through(line, str(pack(source, f"{bucket}/set")))).split("train")
    operations: dict[str, Callable[[], object]] = {
        "read": lambda: storage.read("a"),
        "written": lambda: storage.write("b", b"2"),
        "listed": lambda: storage.list("nothing"),
        "looked for": lambda: storage.exists("a"),
        "removed": lambda: storage.remove("c"),
    }
    line.cut(OUTAGE_S)
    began_at = time.monotonic()
    with ThreadPoolExecutor(len(operations) + 1) as pool:
        gathering = pool.submit(split.gather, np.arange(NUM_ROWS))
        results = list(pool.map(lambda operation: operation(), operations.values()))
        assert np.array_equal(gathering.result()[0], images)
    assert time.monotonic() - began_at > OUTAGE_S
    assert results == [b"1", None, [], True, None]
    assert Storage(bucket).read("b") == b"2"
    assert len(told) == len(operations)  # once each, not once a try
    for done in operations:
        assert any(f": cannot be {done} (" in text and "NETWORK_CONNECTION" in text for text in told)


# ---- a packed set ------------------------------------------------------------------------------------------


def files_in(uri: str) -> dict[str, bytes]:
    storage = Storage(uri)
    return {name: storage.read(name) for name in storage.list()}


def test_a_set_is_packed_and_read(bucket: str, source: str, images: np.ndarray, tmp_path: Path, cache: Path) -> None:
    uri = f"{bucket}/sets/mine"
    assert not is_packed(uri)
    assert pack(source, uri) == uri
    assert is_packed(uri)
    on_disk = pack(source, tmp_path / "out")
    assert isinstance(on_disk, Path)
    assert files_in(uri) == {path.name: path.read_bytes() for path in on_disk.iterdir()}
    assert not list((cache / "packed").iterdir())  # nor a scratch folder
    dataset = open_packed(uri)
    assert str(dataset.path) == uri
    split = pickle.loads(pickle.dumps(dataset)).split("train")
    assert split.labels.tolist() == [i // 20 for i in range(NUM_ROWS)]
    ids = np.random.default_rng(1).integers(0, NUM_ROWS, 500)
    assert np.array_equal(split.gather(ids)[0], images[ids])
    assert pack(uri) == uri  # as any packed set, it is handed back


def test_picture_files_are_packed_and_read(bucket: str, source: str, images: np.ndarray) -> None:
    uri = f"{bucket}/files"
    assert pack(source, uri, image_size=5, encoded=True) == uri
    assert Storage(uri).list() == ["manifest.json", "train-00000.parquet"]
    found, labels = open_packed(uri).split("train").gather(np.arange(NUM_ROWS))
    np.testing.assert_array_equal(found, images)
    assert labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20


def test_the_command_takes_a_uri(
    bucket: str, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["augft", "pack", source, f"{bucket}/set"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert f"{bucket}/set: train 60 pictures of 3 classes" in capsys.readouterr().err
    assert is_packed(f"{bucket}/set")


def test_a_node_reads_each_shard_once(
    bucket: str, source: str, images: np.ndarray, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = pack(source, f"{bucket}/set")
    open_packed(uri).split("train").gather(np.arange(NUM_ROWS))
    assert len(list((cache / "raw").glob("*.npy"))) == 6  # pixels and labels of three shards
    monkeypatch.setattr(packed, "_read", lambda *_: pytest.fail("read again"))
    got, labels = open_packed(uri).split("train").gather(np.arange(NUM_ROWS))
    assert np.array_equal(got, images)
    assert np.bincount(labels).tolist() == [20, 20, 20]


def test_a_set_larger_than_the_cache(
    bucket: str, source: str, images: np.ndarray, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUGFT_CACHE_MAX_BYTES", "4000")
    split = open_packed(pack(source, f"{bucket}/set")).split("train")
    for _ in range(2):
        assert np.array_equal(split.gather(np.arange(NUM_ROWS))[0], images)
    assert 0 < sum(path.stat().st_size for path in (cache / "raw").iterdir()) <= 4000


def test_the_same_set_is_found_done_and_another_is_refused(
    bucket: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{bucket}/set"
    pack(source, uri)
    before = files_in(uri)
    with monkeypatch.context() as patch:
        patch.setattr("augft.data.pack.open_source", lambda _: pytest.fail("packed again"))
        assert pack(source, uri) == uri
    with pytest.raises(DataError, match=r"^s3://.*/set exists and is not this source packed in this way"):
        pack(source, uri, image_size=4)
    Storage(f"{bucket}/other").write("notes.txt", b"mine")
    with pytest.raises(DataError, match="exists and is not this source"):
        pack(source, f"{bucket}/other")
    assert files_in(uri) == before


def test_an_upload_that_broke_off_is_no_set_and_is_gone_on_with(
    bucket: str, source: str, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    uri, written = f"{bucket}/set", []
    real = Storage.write

    def breaking(storage: Storage, name: str, data: bytes) -> None:
        if storage.local:
            return real(storage, name, data)
        if name == "train-00002.parquet" and not written.count("broken"):
            written.append("broken")
            raise StorageError("broken")
        written.append(name)
        return real(storage, name, data)

    monkeypatch.setattr(Storage, "write", breaking)
    with pytest.raises(StorageError, match="broken"):
        pack(source, uri)
    assert len(list((cache / "packed").iterdir())) == 1
    assert not is_packed(uri)
    with pytest.raises(DataError, match="is not a packed data set"):
        open_packed(uri)
    left = files_in(uri)
    with pytest.raises(
        DataError, match="holds what a packing of another source or with other options left unfinished: rem"
    ):
        pack(source, uri, image_size=4)
    assert files_in(uri) == left
    written.clear()
    written.append("broken")
    pack(source, uri)
    assert not list((cache / "packed").iterdir())
    assert written[2:] == ["train-00002.parquet", "manifest.json"]  # after the marker; the others are there
    assert sorted(files_in(uri)) == ["manifest.json", *(f"train-0000{i}.parquet" for i in range(3))]
    assert np.array_equal(open_packed(uri).split("train").gather(np.arange(NUM_ROWS))[0], images)


def test_what_is_not_ours_is_not_called_unfinished(bucket: str, source: str) -> None:
    files = Storage(f"{bucket}/theirs")
    for name in (f".packing-{'0' * 32}", "train-00000.parquet", "train-00000-of-00001.parquet"):
        files.write(name, b"")
    with pytest.raises(DataError, match="exists and is not this source packed in this way"):
        pack(source, f"{bucket}/theirs")


def test_what_a_killed_look_at_the_place_left_is_not_in_the_way(bucket: str, source: str) -> None:
    with marked(f"{bucket}/set") as name:
        assert Storage(f"{bucket}/set").list() == [name]
        pack(source, f"{bucket}/set")
    assert open_packed(f"{bucket}/set").split("train").num_rows == NUM_ROWS


def test_what_another_finished_outlives_a_packer_that_fails(bucket: str, source: str, tmp_path: Path) -> None:
    uri = f"{bucket}/set"

    def failing() -> None:
        with appearing(uri, "0" * 64, tmp_path, directly=True):
            pack(source, uri)  # another process, meanwhile
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert open_packed(uri).split("train").num_rows == NUM_ROWS


def test_a_folder_packed_before_is_uploaded(bucket: str, source: str, tmp_path: Path) -> None:
    folder = pack(source, tmp_path / "out")
    uri = pack(str(folder), f"{bucket}/set")
    assert uri == f"{bucket}/set"
    assert open_packed(uri).manifest == open_packed(folder).manifest
    assert pack(str(folder), uri) == uri
    with pytest.raises(DataError, match="is packed already"):
        pack(uri, tmp_path / "elsewhere")


def test_damage_is_told(bucket: str, source: str) -> None:
    uri, storage = pack(source, f"{bucket}/set"), Storage(f"{bucket}/set")
    content = bytearray(storage.read("train-00001.parquet"))
    content[100:116] = bytes(255 - value for value in content[100:116])
    storage.write("train-00001.parquet", bytes(content))
    with pytest.raises(DataError, match=r"packed data set s3://.* is damaged: .*train-00001"):
        open_packed(uri).split("train").gather(np.arange(NUM_ROWS))
    storage.remove("train-00001.parquet")
    with pytest.raises(DataError, match=r"shard train-00001.parquet is missing; pack the source again"):
        open_packed(uri)


# ---- pictures on object storage ----------------------------------------------------------------------------


def copy_to(uri: str, folder: str) -> str:
    for path in Path(folder).rglob("*.*"):
        Storage(uri).write(str(path.relative_to(folder)), path.read_bytes())
    return uri


def test_class_folders_on_object_storage(bucket: str, source: str, tmp_path: Path) -> None:
    uri = copy_to(f"{bucket}/pictures", source)
    local, remote = pack(source, tmp_path / "one"), pack(uri, tmp_path / "two")
    before, after = files_in(str(local)), files_in(str(remote))
    assert open_packed(remote).manifest.digest == open_packed(local).manifest.digest
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}  # which names the source
    copy_to(f"{bucket}/pictures", source)  # at another time
    time.sleep(1.1 - time.time() % 1)  # an S3 tells whole seconds
    Storage(uri).write("a/00.png", Path(source, "a", "01.png").read_bytes())
    assert pack(uri) != pack(source)
    with pytest.raises(DataError, match="exists and is not this source"):
        pack(uri, tmp_path / "two")


def test_parquet_on_object_storage(bucket: str, source: str, images: np.ndarray) -> None:
    for split, rows in (("train", range(48)), ("test", range(48, 60))):
        contents = [Path(source, "abc"[i // 20], f"{i:02d}.png").read_bytes() for i in rows]
        table = pa.table({"image": contents, "label": [i % 3 for i in rows]})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=10)
        Storage(bucket).write(f"data/{split}-00000.parquet", buffer.getvalue())
    train = open_packed(pack(f"{bucket}/data")).split("train")
    order = sorted(range(48), key=lambda i: (i % 3, i))
    assert np.array_equal(train.gather(np.arange(48))[0], images[order])
    one = open_packed(pack(f"{bucket}/data/train-00000.parquet"))
    assert one.manifest.splits["train"] == open_packed(pack(f"{bucket}/data")).manifest.splits["train"]


def test_what_is_no_source_on_object_storage(bucket: str) -> None:
    Storage(bucket).write("pictures.tar", b"x" * 1000)
    with pytest.raises(DataError, match=r"s3://.*/pictures.tar is no folder: .* get an archive to a disk"):
        pack(f"{bucket}/pictures.tar")
    with pytest.raises(DataError, match=r"s3://.*/nothing holds no pictures"):
        pack(f"{bucket}/nothing")
    with pytest.raises(DataError, match=r"s3://.*/nothing.parquet .*: get it again"):
        pack(f"{bucket}/nothing.parquet")
    Storage(bucket).write("train/a/1.png", b"")
    with pytest.raises(DataError, match=r"has one class only, 'a'"):
        pack(bucket)


# ---- sets that all nodes see -------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> str:
    return str(tmp_path / "shared/.packed") if request.param == "folder" else f"{bucket}/runs/.packed"


def test_what_is_not_packed_goes_where_all_nodes_see_it(root: str, source: str, cache: Path) -> None:
    made = pack(source, root=root)
    assert str(made).startswith(root)
    assert not (cache / "packed").exists() or not list((cache / "packed").iterdir())
    assert pack(source, root=root) == made
    assert open_packed(made).manifest == open_packed(pack(source)).manifest


def test_what_the_cache_has_is_copied(root: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = pack(source)
    assert isinstance(cached, Path)
    assert cached.parent == cache_dir() / "packed"
    monkeypatch.setattr("augft.data.pack.open_source", lambda _: pytest.fail("packed again"))
    made = pack(source, root=root)
    assert files_in(str(made)) == {path.name: path.read_bytes() for path in cached.iterdir()}


def test_a_damaged_set_at_the_root_is_made_again(root: str, source: str) -> None:
    made = pack(source, root=root)
    whole = files_in(str(made))
    Storage(made).write("train-00000.parquet", b"cut")
    assert pack(source, root=root) == made
    assert files_in(str(made)) == whole


def test_two_drivers_at_once(root: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked and found nothing before either writes."""
    both, real = threading.Barrier(2), module._write_set

    def together(*arguments: object) -> None:
        both.wait(30)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write_set", together)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: pack(source, root=root), range(2))
    assert one == other
    assert open_packed(one).split("train").num_rows == NUM_ROWS
    assert len(Storage(root).list()) == 1


def test_a_job_is_prepared_for_all_nodes(root: str) -> None:
    job = load_job(None, ["data.image_size=12"])
    prepared = prepare(job, Display(), packed_root=root)
    assert str(prepared.dataset.path).startswith(root)
    again = load_job(None, [f"data.source={prepared.dataset.path}", "data.image_size=12"])
    assert prepare(again, Display(), packed_root="/nowhere").dataset.path == prepared.dataset.path
