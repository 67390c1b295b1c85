"""The folder of what is unfinished, and the predictions that are put together from it; without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augft.errors import ConfigError, RunDirectoryError, RunError, StorageError
from augft.prediction import result
from augft.prediction.listing import LISTING, Catalogue
from augft.prediction.result import Target, put_together
from augft.prediction.unfinished import Identity, PredictionLease, Unfinished, lease_uri, part_name
from augft.run import LEASE
from augft.storage import Storage
from augft.train import lease as lease_module
from tests.object_store import bucket_by_uri
from tests.small_disk import mounted_disk

IDENTITY = Identity(source="/pictures", pictures="abc", model="def")
CLASSES = ("cat", "dog", "eel")
COUNTS = (3, 3, 2)
BAD = ("1", "7")


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / LISTING
    path.parent.mkdir()
    path.write_bytes(b"a listing")
    return path


@pytest.fixture
def out(tmp_path: Path) -> str:
    (tmp_path / "out").mkdir()
    return str(tmp_path / "out" / "p.parquet")


def catalogue() -> Catalogue:
    return Catalogue(np.array(COUNTS), np.arange(len(COUNTS)), "abc")


def part(names: list[int], ranks: list[int] | None = None) -> pa.Table:
    """Rows whose class and probabilities tell their name."""
    probabilities = np.array([[name, name / 2, 0] for name in names], np.float32)
    columns = {
        "path": [str(name) for name in names],
        "reason": pa.array(["is bad" if str(name) in BAD else None for name in names], pa.string()),
        "class_index": pa.array([name % 3 for name in names], pa.int32()),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), 3),
    }
    return pa.table(({"rank": ranks} if ranks else {}) | columns)


def begun(out: str, listing: Path) -> Unfinished:
    unfinished = Unfinished(out)
    assert unfinished.begin(IDENTITY, listing, force=False) == frozenset()
    return unfinished


def all_done(out: str, listing: Path) -> Unfinished:
    unfinished = begun(out, listing)
    for unit, names in enumerate(([0, 1, 2], [3, 4, 5], [6, 7])):
        unfinished.write(unit, part(names))
    return unfinished


def assert_whole(rows: pa.Table) -> None:
    good = [name for name in range(8) if str(name) not in BAD]
    assert rows.schema.names == ["path", "label", "class_index", "probabilities"]
    assert rows["path"].to_pylist() == [str(name) for name in good]
    assert rows["label"].to_pylist() == [CLASSES[name % 3] for name in good]
    assert rows["probabilities"].to_pylist() == [[name, name / 2, 0] for name in good]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- what is unfinished ----------------------------------------------------------------------------------


def test_what_is_begun_is_gone_on_with(out: str, listing: Path) -> None:
    unfinished = begun(out, listing)
    unfinished.write(2, part([6, 7]))
    assert unfinished.begin(IDENTITY, listing, force=False) == {2}
    assert unfinished.read(2).equals(part([6, 7]))
    assert unfinished.begin(IDENTITY, listing, force=True) == frozenset()
    assert unfinished.done() == frozenset()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Identity("/other", "abc", "def"), "another source"),
        (Identity("/pictures", "xyz", "def"), "other pictures"),
        (Identity("/pictures", "abc", "xyz"), "another model"),
        (Identity("/pictures", "abc", "def", format=2), "another format"),
    ],
)
def test_another_prediction_is_refused(out: str, listing: Path, other: Identity, words: str) -> None:
    begun(out, listing).write(2, part([6, 7]))
    with pytest.raises(ConfigError, match=rf"p.parquet.partial: holds an unfinished prediction of {words}; finish"):
        Unfinished(out).begin(other, listing, force=False)
    assert Unfinished(out).done() == {2}
    assert Unfinished(out).begin(other, listing, force=True) == frozenset()
    assert Unfinished(out).done() == frozenset()


def test_what_is_none_of_ours_is_never_removed(out: str, listing: Path) -> None:
    folder = Path(f"{out}.partial")
    folder.mkdir()
    (folder / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match=r"p.parquet.partial: holds thesis.txt, which is no prediction's; give"):
        Unfinished(out).begin(IDENTITY, listing, force=True)
    (folder / "thesis.txt").rename(folder / "part-0000001.parquet")
    assert Unfinished(out).begin(IDENTITY, listing, force=False) == frozenset()
    Unfinished(out).remove()
    folder.write_text("a file")
    with pytest.raises(RunDirectoryError, match="is a file; give a folder"):
        Unfinished(out).begin(IDENTITY, listing, force=True)
    assert folder.exists()


def test_killed_before_its_listing_was_there(out: str, listing: Path) -> None:
    unfinished = begun(out, listing)
    unfinished.storage.remove(LISTING)
    unfinished.begin(IDENTITY, listing, force=False)
    assert unfinished.storage.read(LISTING) == b"a listing"


def test_what_a_killed_one_has_left_is_cleared(out: str, listing: Path) -> None:
    unfinished = begun(out, listing)
    unfinished.storage.write("assembling-x/assembled/part-00000.parquet", b"")
    unfinished.storage.write(LISTING, b"a li")
    unfinished.write(2, part([6, 7]))
    assert unfinished.begin(IDENTITY, listing, force=False) == {2}
    assert unfinished.storage.list() == [LISTING, part_name(2), "prediction.json"]
    assert unfinished.storage.read(LISTING) == b"a listing"


def test_one_that_was_begun_by_force_is_gone_on_with(out: str, listing: Path) -> None:
    put_together(all_done(out, listing), catalogue(), CLASSES, Target(out))
    unfinished = Unfinished(out)
    unfinished.begin(IDENTITY, listing, force=True)
    for unit, names in enumerate(([0, 1, 2], [3, 4, 5], [6, 7])):
        unfinished.write(unit, part(names))
    Target(out).check(force=False)
    assert unfinished.begin(IDENTITY, listing, force=False) == {0, 1, 2}
    put_together(unfinished, catalogue(), CLASSES, Target(out))
    assert files(Path(out).parent) == ["p.parquet", "p.rejected.jsonl"]


def test_a_damaged_part_is_told(out: str, listing: Path) -> None:
    unfinished = all_done(out, listing)
    path = Path(unfinished.uri) / part_name(1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"part-0000001.parquet: is damaged .*; remove it, and give the same command"):
        put_together(unfinished, catalogue(), CLASSES, Target(out))
    assert files(Path(out).parent) == sorted(f"p.parquet.partial/{name}" for name in unfinished.storage.list())


# ---- one at a time ---------------------------------------------------------------------------------------


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.01)
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.05)


@pytest.mark.usefixtures("_quick")
def test_who_is_at_it_is_named_and_not_harmed(out: str, listing: Path) -> None:
    with PredictionLease(out) as lease:
        unfinished = all_done(out, listing)
        unfinished.storage.write("assembling-x/ranked", b"")
        before = files(Path(unfinished.uri))
        match = rf"--out {out}: another `augft predict` is at it \(process {os.getpid()} on .*\); wait for it, stop it"
        with pytest.raises(RunDirectoryError, match=match) as caught, PredictionLease(out):
            pass
        assert caught.value.exit_code == 2
        assert files(Path(unfinished.uri)) == before
        assert not lease.lost


@pytest.mark.usefixtures("_quick")
def test_whoever_was_killed_keeps_nobody_waiting(out: str) -> None:
    code = (
        "import os, sys; from augft.prediction.unfinished import PredictionLease\n"
        "PredictionLease(sys.argv[1]).__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, out]).returncode == -9
    assert files(Path(out).parent) == [f"p.parquet.lease/{LEASE}"]
    said: list[str] = []
    with PredictionLease(out, said.append) as lease:
        lease.check()
    assert said == []
    assert list(Path(out).parent.iterdir()) == []


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_heartbeat_brings_nothing_back(out: str, listing: Path, place: str) -> None:
    with bucket_by_uri() if place == "bucket" else nullcontext() as bucket:
        target = Target(bucket("/p.parquet") if bucket else out)
        with PredictionLease(target.uri) as lease:
            put_together(all_done(target.uri, listing), catalogue(), CLASSES, target)
            time.sleep(0.2)
            assert Storage(lease_uri(target.uri)).list() == [LEASE]
            assert not Unfinished(target.uri).storage.exists()
            lease.check()
        time.sleep(0.05)
        assert target.parent.list() == ["p.parquet", "p.rejected.jsonl"]


@pytest.mark.usefixtures("_quick")
def test_whoever_has_lost_it_ends(out: str) -> None:
    lease = PredictionLease(out)
    with lease:
        path = Path(lease_uri(out)) / LEASE
        for _ in range(500):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"token": "another's"}))
            time.sleep(0.02)
            if lease.lost:
                break
        with pytest.raises(RunError, match=r"p.parquet: another process has taken over this prediction; this one ends"):
            lease.check()
    assert path.exists()


# ---- the predictions -------------------------------------------------------------------------------------


def test_one_file(out: str, listing: Path) -> None:
    made = put_together(all_done(out, listing), catalogue(), CLASSES, Target(out))
    assert (made.num_rows, made.num_rejected) == (6, 2)
    assert files(Path(out).parent) == ["p.parquet", "p.rejected.jsonl"]
    assert_whole(pq.read_table(out))
    lines = Path(out).with_name("p.rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"path": name, "reason": "is bad"} for name in BAD]


def test_row_groups_do_not_depend_on_units(out: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_GROUP_BYTES", 4 * 3 * 4)
    put_together(all_done(out, listing), catalogue(), CLASSES, Target(out))
    assert_whole(pq.read_table(out))
    metadata = pq.read_metadata(out)
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [4, 2]


def test_a_folder_of_files(out: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_GROUP_BYTES", 2 * 3 * 4)
    monkeypatch.setattr(result, "_FILE_BYTES", 5 * 3 * 4)
    folder = out.removesuffix(".parquet")
    put_together(all_done(folder, listing), catalogue(), CLASSES, Target(folder))
    assert files(Path(out).parent) == ["p.rejected.jsonl", "p/part-00000.parquet", "p/part-00001.parquet"]
    assert_whole(pq.read_table(folder))
    assert pq.read_metadata(f"{folder}/part-00000.parquet").num_rows == 5


def test_rows_that_come_in_another_order_are_ordered(out: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_GROUP_BYTES", 3 * 3 * 4)
    unfinished = begun(out, listing)
    for unit, names in enumerate(([5, 0, 7], [3, 4, 1], [6, 2])):
        unfinished.write(unit, part(names, ranks=names))
    put_together(unfinished, catalogue(), CLASSES, Target(out))
    assert_whole(pq.read_table(out))
    lines = Path(out).with_name("p.rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == list(BAD)


def test_no_good_picture_at_all(out: str, listing: Path) -> None:
    unfinished = begun(out, listing)
    unfinished.write(0, part([1]))
    made = put_together(unfinished, Catalogue(np.array([1]), np.array([0]), ""), CLASSES, Target(out))
    assert (made.num_rows, made.num_rejected) == (0, 1)
    assert pq.read_table(out).num_rows == 0


def test_a_list_of_before_does_not_stay(out: str, listing: Path) -> None:
    Path(out).with_name("p.rejected.jsonl").write_text("old")
    unfinished = begun(out, listing)
    unfinished.write(0, part([0, 2]))
    put_together(unfinished, Catalogue(np.array([2]), np.array([0]), ""), CLASSES, Target(out))
    assert files(Path(out).parent) == ["p.parquet"]


@pytest.mark.parametrize("name", ["p.parquet", "p"])
def test_what_is_there_is_kept_unless_forced(tmp_path: Path, listing: Path, name: str) -> None:
    out = str(tmp_path / name)
    Target(out).check(force=False)
    put_together(all_done(out, listing), catalogue(), CLASSES, Target(out))
    with pytest.raises(ConfigError, match=rf"--out {out}: is there already; give another name, or --force"):
        Target(out).check(force=False)
    Target(out).check(force=True)
    put_together(all_done(out, listing), catalogue(), CLASSES, Target(out))
    assert_whole(pq.read_table(out))


def _write(path: Path, table: pa.Table | None) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path) if table else path.write_bytes(b"something")


FOREIGN = pa.table({"a": [1]})
OURS = FOREIGN.replace_schema_metadata({"augft": "{}"})


@pytest.mark.parametrize(
    ("name", "there", "why"),
    [
        ("p.parquet", {"p.parquet": None}, "is no file of predictions"),
        ("p.parquet", {"p.parquet": FOREIGN}, "is no file of predictions"),
        ("p.parquet", {"p.parquet/part-00000.parquet": OURS}, "is no file of predictions"),
        ("p", {"p": OURS}, "is a file, not a folder of predictions"),
        ("p", {"p/a.jpg": None}, "holds a.jpg"),
        ("p", {"p/part-00000.parquet": OURS, "p/part-00001.parquet": FOREIGN}, "holds part-00001.parquet"),
        ("p", {"p/part-00000.parquet": OURS, "p/b/c.jpg": None}, "holds b"),
    ],
)
def test_nothing_but_predictions_is_written_over(
    tmp_path: Path, name: str, there: dict[str, pa.Table | None], why: str
) -> None:
    for path, table in there.items():
        _write(tmp_path / path, table)
        if (tmp_path / path).parent.name == "b":
            _write(tmp_path / "p/part-00000.parquet", OURS)
    with pytest.raises(ConfigError, match=rf"{name}: {why}, and only predictions are written over; give another name"):
        Target(str(tmp_path / name)).check(force=True)


def test_predictions_of_many_files_are_written_over(tmp_path: Path) -> None:
    for number in range(2):
        _write(tmp_path / f"p/part-0000{number}.parquet", OURS)
    Target(str(tmp_path / "p")).check(force=True)


def test_what_cannot_be_replaced_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "p").symlink_to(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"p: is a link; give the place that it points to"):
        Target(str(tmp_path / "p")).check(force=True)
    with (
        mounted_disk(tmp_path / "small", 1) as disk,
        pytest.raises(ConfigError, match=r"small: is a disk of its own, not to be replaced; give a name in it"),
    ):
        Target(str(disk)).check(force=False)


@pytest.mark.parametrize(
    ("out", "others", "how"),
    [
        ("pictures", ["pictures"], "pictures: is .*pictures,"),
        ("pictures/p.parquet", ["pictures"], r"p.parquet: lies in .*pictures,"),
        ("link/p.parquet", ["pictures"], r"p.parquet: lies in .*pictures,"),
        ("all", ["run", "all/pictures"], "all: holds .*all/pictures,"),
        ("p", ["run", "p.partial/pictures"], "p: its .*/p.partial holds .*pictures,"),
        ("p", ["p.lease"], "p: its .*/p.lease is .*p.lease,"),
        ("p.parquet", ["p.rejected.jsonl"], "p.parquet: its .*p.rejected.jsonl is .*p.rejected.jsonl,"),
        ("run/p.parquet", ["pictures", "run"], r"p.parquet: lies in .*run,"),
        ("pictures.parquet", ["pictures", "pictures-2", "run"], None),
    ],
)
def test_what_is_read_is_apart_from_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, others: list[str], how: str | None
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)  # paths may be relative
    if how is None:
        Target(out).check_apart(*others)
        return
    with pytest.raises(ConfigError, match=f"{how} which is read; give another place$"):
        Target(out).check_apart(*others)


def test_places_on_an_object_store() -> None:
    query = "?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    for out in ("s3://bucket/a/p/", "s3://bucket/a/p"):
        target = Target(out + query)
        assert (target.uri, target.name) == (f"s3://bucket/a/p{query}", "p")
    with pytest.raises(ConfigError, match=r"us-east-1: lies in s3://key:word@bucket/a"):
        target.check_apart("/a", f"s3://bucket/a/p-2{query}", f"s3://key:word@bucket/a/{query}")
    with pytest.raises(
        ConfigError, match=r"names no file or folder; give one, as s3://bucket/predictions.parquet\?end"
    ):
        Target(f"s3://bucket/{query}")
    with pytest.raises(ConfigError, match=r"--out /: names no file or folder; give one, as /predictions.parquet"):
        Target("/")


def test_an_empty_folder_may_be_filled(tmp_path: Path, listing: Path) -> None:
    (tmp_path / "p").mkdir()
    Target(str(tmp_path / "p")).check(force=False)
    put_together(all_done(str(tmp_path / "p"), listing), catalogue(), CLASSES, Target(str(tmp_path / "p")))
    assert_whole(pq.read_table(tmp_path / "p"))


def test_killed_while_it_was_put_in_place(out: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = all_done(out, listing)

    def killed(_: Unfinished) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            put_together(unfinished, catalogue(), CLASSES, Target(out))
    assert Path(out).exists()
    Target(out).check(force=False)  # the same command ends what it has begun
    assert unfinished.begin(IDENTITY, listing, force=False) == {0, 1, 2}
    put_together(unfinished, catalogue(), CLASSES, Target(out))
    assert files(Path(out).parent) == ["p.parquet", "p.rejected.jsonl"]


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match=r"file: is a file; give a folder"):
        Target(str(tmp_path / "file" / "p.parquet")).check(force=False)
    with pytest.raises(RunDirectoryError, match="give a folder, s3:// or gs://"):
        Target("gopher://x/p.parquet")


def test_a_full_disk_keeps_the_parts(tmp_path: Path, listing: Path) -> None:
    with mounted_disk(tmp_path / "small", 1) as disk:
        out = str(disk / "p.parquet")
        unfinished = begun(out, listing)
        noise = np.random.default_rng(0).random((40_000, 3), np.float32)
        rows = {
            "path": [str(number) for number in range(len(noise))],
            "reason": pa.nulls(len(noise), pa.string()),
            "class_index": pa.array(np.zeros(len(noise), np.int32)),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(noise.reshape(-1)), 3),
        }
        unfinished.write(0, pa.table(rows))
        one = Catalogue(np.array([len(noise)]), np.array([0]), "")
        with pytest.raises(StorageError, match=r"p.parquet: cannot be written \(.*No space left on device\)"):
            put_together(unfinished, one, CLASSES, Target(out))
        assert unfinished.done() == {0}
        assert files(disk) == [f"p.parquet.partial/{name}" for name in unfinished.storage.list()]


def test_a_disk_that_is_full_of_what_is_put_in_order_is_told(tmp_path: Path, listing: Path) -> None:
    num = 200_000
    with mounted_disk(tmp_path / "small", 2) as disk:
        out = str(disk / "p.parquet")
        unfinished = begun(out, listing)
        rows = {
            "rank": np.arange(num),
            "path": ["a"] * num,
            "reason": pa.nulls(num, pa.string()),
            "class_index": np.zeros(num, np.int32),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * num, np.float32)), 3),
        }
        unfinished.write(0, pa.table(rows))
        one = Catalogue(np.array([num]), np.array([0]), "")
        with pytest.raises(StorageError, match=r"p.parquet: cannot be written \(No space left on device\)"):
            put_together(unfinished, one, CLASSES, Target(out))
        assert unfinished.done() == {0}
