"""Packing: what is written, that it is the same each time, and that it is written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from augft.data import assemble, pack, parts, shards
from augft.data.pack import pack as pack_source
from augft.data.packed import open_packed
from augft.data.split import carve, few_labels
from augft.errors import DataError, StorageError
from tests.small_disk import mounted_disk


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(num_per_class: int = 12, size: int = 6, classes: str = "abc") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    names = [f"train/{c}/{i:03d}.png" for c in classes for i in range(num_per_class)]
    names += [f"test/{c}/{i:03d}.png" for c in classes for i in range(2)]
    return {name: rng.integers(0, 256, (size, size, 3), np.uint8) for name in names}


def write(root: Path, files: dict[str, np.ndarray | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(content) if isinstance(content, np.ndarray) else content)
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what is written -------------------------------------------------------------------------------------


def test_rows_are_in_sorted_source_order(tmp_path: Path) -> None:
    made = pictures()
    out = pack_source(str(write(tmp_path / "s", made)), tmp_path / "out")
    manifest = open_packed(out).manifest
    assert manifest.classes == ("a", "b", "c")
    assert manifest.image_shape == (6, 6, 3)
    for split, num_rows in (("train", 36), ("test", 6)):
        table = pq.read_table(out / f"{split}-00000.parquet")
        assert table.schema.types == [pa.int64(), pa.int32(), pa.fixed_shape_tensor(pa.uint8(), (6, 6, 3))]
        assert table["sample_id"].to_pylist() == list(range(num_rows))
        names = sorted(name for name in made if name.startswith(split))
        assert table["label"].to_pylist() == ["abc".index(name.split("/")[1]) for name in names]
        images = table["image"].combine_chunks().to_numpy_ndarray()
        assert np.array_equal(images, np.stack([made[name] for name in names]))


def test_mean_and_std_are_of_train(tmp_path: Path) -> None:
    made = pictures()
    manifest = open_packed(pack_source(str(write(tmp_path / "s", made)))).manifest
    train = np.stack([made[name] for name in made if name.startswith("train")]) / 255
    np.testing.assert_allclose(manifest.mean, train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest.std, train.std((0, 1, 2)), rtol=1e-12)


def test_shards_and_row_groups_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MAX_ROW_GROUP", 4)
    monkeypatch.setattr(shards, "_SHARD_BYTES", 13 * 108)
    made = pictures()
    out = pack_source(str(write(tmp_path / "s", made)), tmp_path / "out")
    split = open_packed(out).manifest.splits["train"]
    assert [(s.file, s.first_id, s.num_rows) for s in split.shards] == [
        ("train-00000.parquet", 0, 12),
        ("train-00001.parquet", 12, 12),
        ("train-00002.parquet", 24, 12),
    ]
    assert pq.ParquetFile(out / "train-00002.parquet").metadata.num_row_groups == 3
    assert pq.read_table(out / "train-00002.parquet")["sample_id"].to_pylist() == list(range(24, 36))


def test_digits_pack_to_the_size_asked_for() -> None:
    manifest = open_packed(pack_source("digits", image_size=16)).manifest
    assert manifest.image_shape == (16, 16, 3)
    assert manifest.source == "digits"
    assert {name: split.num_rows for name, split in manifest.splits.items()} == {"test": 359, "train": 1438}


def test_val_is_carved_by_the_seed(tmp_path: Path) -> None:
    source = str(write(tmp_path / "s", pictures()))
    one = open_packed(pack_source(source, val_fraction=0.25, seed=1))
    other = open_packed(pack_source(source, val_fraction=0.25, seed=2))
    assert one.splits == ("test", "train", "val")
    assert np.bincount(one.split("val").labels).tolist() == [3, 3, 3]
    assert np.bincount(one.split("train").labels).tolist() == [9, 9, 9]
    assert one.manifest.digest != other.manifest.digest
    seen = [s.gather(np.arange(s.num_rows))[0].reshape(-1, 108) for s in map(one.split, ("train", "val"))]
    assert len(np.unique(np.concatenate(seen), axis=0)) == 36
    with pytest.raises(DataError, match="leaves val empty"):
        pack_source(source, val_fraction=0.01)


def test_a_val_of_its_own_is_kept(tmp_path: Path) -> None:
    made = pictures() | {"val/a/x.png": np.zeros((6, 6, 3), np.uint8)}
    packed = open_packed(pack_source(str(write(tmp_path / "s", made)), val_fraction=0.5))
    assert packed.split("val").num_rows == 1
    assert packed.split("train").num_rows == 36


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    pack_source(str(write(tmp_path / "s", pictures())), progress=lambda *call: calls.append(call))
    assert calls[-1] == (42, 42)
    assert calls == sorted(calls)


# ---- the same each time, and once ------------------------------------------------------------------------


def test_the_same_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PIECE", 3)
    monkeypatch.setattr(shards, "_MAX_ROW_GROUP", 4)
    monkeypatch.setattr(shards, "_SHARD_BYTES", 13 * 108)
    made = pictures(num_per_class=30)
    source = str(write(tmp_path / "s", made))
    one = pack_source(source, tmp_path / "one", image_size=5, num_threads=1)
    four = pack_source(source, tmp_path / "four", image_size=5, num_threads=4)
    assert files_of(one) == files_of(four)


def test_an_archive_in_another_order_has_the_same_digest(tmp_path: Path) -> None:
    made, digests = pictures(), set()
    for name, order in (("one", list(made)), ("other", list(reversed(made)))):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            for member in order:
                info = tarfile.TarInfo(member)
                info.size = len(png(made[member]))
                tar.addfile(info, io.BytesIO(png(made[member])))
        digests.add(open_packed(pack_source(str(tmp_path / name))).manifest.digest)
    digests.add(open_packed(pack_source(str(write(tmp_path / "s", made)))).manifest.digest)
    assert len(digests) == 1


def test_the_cache_knows_content_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "s", pictures())
    first = pack_source(str(source), seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(pack, "open_source", lambda source: pytest.fail("packed twice"))
        assert pack_source(str(source), seed=7) == first
    assert pack_source(str(source), image_size=5) != first
    assert pack_source(str(source), on_bad="skip") != first
    write(source, {"train/a/000.png": np.zeros((6, 6, 3), np.uint8)})
    assert pack_source(str(source)) != first


def test_a_damaged_set_in_the_cache_is_made_again(tmp_path: Path) -> None:
    source = str(write(tmp_path / "s", pictures()))
    folder = pack_source(source)
    whole = files_of(folder)
    (folder / "train-00000.parquet").write_bytes(b"cut")
    assert pack_source(source) == folder
    assert files_of(folder) == whole


def test_a_packed_set_is_handed_back(tmp_path: Path) -> None:
    folder = pack_source(str(write(tmp_path / "s", pictures())), tmp_path / "out")
    assert pack_source(str(folder)) == folder
    assert pack_source(str(folder), folder, image_size=6) == folder
    with pytest.raises(DataError, match="is packed at 6x6, not at image_size=32"):
        pack_source(str(folder), image_size=32)
    with pytest.raises(DataError, match="is packed already"):
        pack_source(str(folder), tmp_path / "elsewhere")


def test_out_is_never_overwritten(tmp_path: Path) -> None:
    source = str(write(tmp_path / "s", pictures()))
    out = tmp_path / "out"
    out.mkdir()
    assert pack_source(source, out) == out  # an empty folder is as good as none
    before = files_of(out)
    assert pack_source(source, out) == out
    with pytest.raises(DataError, match="exists and is not this source packed in this way"):
        pack_source(source, out, image_size=4)
    assert files_of(out) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="remove it, or choose another folder"):
        pack_source(source, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_out_is_a_link_a_disk_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = str(write(tmp_path / "s", pictures()))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert pack_source(source, tmp_path / "link") == tmp_path / "real"
    assert open_packed(tmp_path / "link").splits == ("test", "train")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match="the folder that this command runs in: give a new one, as packed"):
        pack_source(source, Path())
    with mounted_disk(tmp_path / "disk", 1) as disk:
        with pytest.raises(DataError, match=r"is a disk of its own, .*: give .*/disk/packed"):
            pack_source(source, disk)
        assert open_packed(pack_source(source, disk / "packed")).splits == ("test", "train")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        "disk", "here", "link", "real", "s",
    ]  # fmt: skip


def test_a_manifest_of_something_else(tmp_path: Path) -> None:
    root = write(tmp_path / "s", pictures())
    (root / "manifest.json").write_text('{"name": "my app"}')
    assert open_packed(pack_source(str(root))).splits == ("test", "train")


# ---- bad input -------------------------------------------------------------------------------------------


def with_bad(tmp_path: Path) -> str:
    made: dict[str, np.ndarray | bytes] = dict(pictures())
    good = png(np.zeros((6, 6, 3), np.uint8))
    return str(write(tmp_path / "s", made | {"train/b/000.png": good[:40], "train/c/005.png": b"text"}))


def test_bad_pictures_fail_with_the_first_and_their_number(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"train/b/000.png' .*\(2 bad of 42\).*--on-bad skip") as error:
        pack_source(with_bad(tmp_path))
    assert "\n" not in str(error.value)
    assert not list((cache / "packed").iterdir())


def test_bad_pictures_are_skipped_and_listed(tmp_path: Path) -> None:
    packed = open_packed(pack_source(with_bad(tmp_path), on_bad="skip"))
    assert [r.path for r in packed.manifest.rejected] == ["train/b/000.png", "train/c/005.png"]
    assert packed.manifest.rejected[1].reason == "is not a picture of a known kind"
    assert np.bincount(packed.split("train").labels).tolist() == [12, 11, 11]
    assert packed.split("train").gather(np.arange(34))[0].any(axis=(1, 2, 3)).all()  # no holes


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"a/1.png": 6, "a/2.png": 6}, {}, "has one class only, 'a'"),
        ({"a/1.png": 6, "b/2.png": 8}, {}, "'a/1.png' 6x6 and 'b/2.png' 8x8: give --image-size N"),
        ({"train/a/1.png": 6, "train/b/x.txt": 6}, {}, "class 'b' has no usable picture in train"),
        ({"a/1.png": 6, "b/2.png": 0}, {"on_bad": "skip"}, "class 'b' has no usable picture in train"),
        ({"a/1.png": 0, "b/2.png": 0}, {"on_bad": "skip"}, "no usable picture is left in train"),
        ({"a/1.png": 6, "b/2.png": 6}, {"image_size": 0}, "image_size=0 must be 1 to 4096"),
        (
            {"a/1.png": 6, "b/2.png": 6},
            {"val_fraction": 1.0},
            "val_fraction=1.0 must be at least 0 and below 1",
        ),
        ({"notes.txt": 0}, {}, "holds no pictures"),
    ],
)
def test_sets_that_cannot_be_trained_on(
    tmp_path: Path, cache: Path, files: dict[str, int], options: dict[str, object], message: str
) -> None:
    made = {name: np.full((s, s, 3), 9, np.uint8) if s else b"bad" for name, s in files.items()}
    with pytest.raises(DataError, match=message) as error:
        pack_source(str(write(tmp_path / "s", made)), **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not (cache / "packed").exists() or not list((cache / "packed").iterdir())


def test_names_that_cannot_be_printed_stay_on_one_line(tmp_path: Path) -> None:
    made = {"a/1.png": np.zeros((6, 6, 3), np.uint8), "b/two\nlines.png": b"bad"}
    with pytest.raises(DataError, match=r"b/two\\nlines.png") as error:
        pack_source(str(write(tmp_path / "s", made)))
    assert "\n" not in str(error.value)


def test_class_names_must_be_text(tmp_path: Path) -> None:
    made = {f"{name}/1.png": np.zeros((6, 6, 3), np.uint8) for name in ("a", os.fsdecode(b"caf\xe9"))}
    with pytest.raises(DataError, match=r"class name 'caf\\udce9' is no printable text"):
        pack_source(str(write(tmp_path / "s", made)))


# ---- whole or not at all ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("module", "place"), [(parts, "shard_parquet"), (assemble, "moments"), (pack, "MANIFEST")])
def test_a_failure_midway_leaves_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, module: ModuleType, place: str
) -> None:
    class Failing:
        def __getattribute__(self, name: str) -> object:
            raise error

        def __call__(self, *args: object) -> None:
            raise error

        def __str__(self) -> str:
            raise error

    source, out = str(write(tmp_path / "s", pictures())), tmp_path / "sets" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(module, place, Failing())
        with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
            pack_source(source, out)
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
        assert "\n" not in str(raised.value)
    left = [path.name for path in out.parent.iterdir()]
    assert left == [] if place == "shard_parquet" else len(left) == 1 and left[0].startswith(".out.packing-")
    pack_source(source, out)
    assert list(out.parent.iterdir()) == [out]


_IN_ANOTHER_PROCESS = """
import os, resource, signal, sys
from augft.data.pack import pack
from augft.errors import AugftError
source, out, how, on_bad = sys.argv[1:]
def progress(done, total):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
if how.startswith("limit"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(how[5:]),) * 2)
try:
    pack(source, out, on_bad=on_bad, progress=progress)
except AugftError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def run(source: str, out: Path, how: str, on_bad: str = "fail") -> subprocess.CompletedProcess[str]:
    arguments = [source, str(out), how, on_bad]
    return subprocess.run([sys.executable, "-c", _IN_ANOTHER_PROCESS, *arguments], capture_output=True, text=True)


def test_killed_while_packing(tmp_path: Path) -> None:
    source, out = str(write(tmp_path / "s", pictures())), tmp_path / "sets" / "out"
    assert run(source, out, "kill").returncode == -signal.SIGKILL
    left = list(out.parent.iterdir())
    assert len(left) == 1
    assert left[0].name.startswith(".out.packing-")
    pack_source(source, out)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_a_file_system_that_takes_no_more(tmp_path: Path, on_bad: str) -> None:
    """A limit on file size stands in for a full disk: in a shard, or in a part with pixels."""
    made = pictures()
    assert sum(image.nbytes for image in made.values()) > 3_000
    source, out = str(write(tmp_path / "s", made)), tmp_path / "sets" / "out"
    done = run(source, out, "limit3000", on_bad)
    assert done.stderr.startswith("StorageError: packed data set"), done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()
    pack_source(source, out, on_bad=on_bad)  # type: ignore[arg-type]
    assert list(out.parent.iterdir()) == [out]


def test_another_process_that_is_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = str(write(tmp_path / "s", pictures())), tmp_path / "out"
    real = assemble.moments

    def overtaken(*args: object) -> object:
        monkeypatch.setattr(assemble, "moments", real)
        pack_source(source, out)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(assemble, "moments", overtaken)
    assert pack_source(source, out) == out
    assert not list(tmp_path.glob(".out*"))


def test_folders_of_live_processes_are_left_alone(tmp_path: Path) -> None:
    source, mark = str(write(tmp_path / "s", pictures())), f".packing-{os.uname().nodename}-"
    alive = tmp_path / f".other{mark}{os.getpid()}-00000000"
    foreign = tmp_path / ".other.packing-elsewhere-1-00000000"
    alive.mkdir()
    foreign.mkdir()
    pack_source(source, tmp_path / "out")
    assert alive.exists()
    assert foreign.exists()


# ---- splits ----------------------------------------------------------------------------------------------

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(lambda x: np.array(x, np.int32))


@given(label_lists, st.floats(0, 1, exclude_max=True), st.integers(0, 2**40))
def test_carve_is_a_stratified_partition(labels: np.ndarray, fraction: float, seed: int) -> None:
    train, val = carve(labels, fraction, seed)
    assert train.dtype == val.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    for label in np.unique(labels):
        count = int((labels == label).sum())
        assert (labels[val] == label).sum() == min(round(fraction * count), count - 1)
    again = carve(labels, fraction, seed)
    assert np.array_equal(again[0], train)


def test_carve_is_keyed_by_seed_and_grows_with_the_fraction() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 100)
    small, large = carve(labels, 0.1, 0)[1], carve(labels, 0.3, 0)[1]
    assert set(small) < set(large)
    assert set(small) != set(carve(labels, 0.1, 1)[1])
    assert set(small) != set(carve(labels, 0.1, 0, stream="other")[1])
    with pytest.raises(DataError, match="val_fraction=1"):
        carve(labels, 1.0, 0)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_few_labels_are_nested(one: int, other: int, seed: int) -> None:
    labels = np.arange(200, dtype=np.int32) % 7
    candidates = carve(labels, 0.2, seed)[0]
    chosen = [few_labels(labels, candidates, n, seed) for n in sorted((one, other))]
    for ids, n in zip(chosen, sorted((one, other)), strict=True):
        assert ids.dtype == np.int64
        assert (np.diff(ids) > 0).all()
        assert np.bincount(labels[ids]).tolist() == [n] * 7
        assert set(ids) <= set(candidates)
    assert set(chosen[0]) <= set(chosen[1])
    assert np.array_equal(few_labels(labels, candidates[::-1], one, seed), few_labels(labels, candidates, one, seed))


def test_few_labels_are_no_plain_prefix_and_tell_what_is_missing() -> None:
    labels = np.array([0] * 50 + [1] * 3, np.int32)
    assert few_labels(labels, np.arange(53), 3, 0).tolist()[:3] != [0, 1, 2]
    with pytest.raises(DataError, match="class 1 has 3 samples to choose from, fewer than labels_per_class=4"):
        few_labels(labels, np.arange(53), 4, 0)
    with pytest.raises(DataError, match="class 1 has 0 samples"):
        few_labels(labels, np.arange(50), 1, 0)
    with pytest.raises(DataError, match="labels_per_class=0 must be at least 1"):
        few_labels(labels, np.arange(53), 0, 0)


# ---- real pictures ---------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.skipif("AUGFT_TEST_DATA" not in os.environ, reason="AUGFT_TEST_DATA names no folder of real data")
def test_sixty_thousand_real_pictures() -> None:
    source = Path(os.environ["AUGFT_TEST_DATA"]) / "cifar10-jpeg.tar.gz"
    packed = open_packed(pack_source(str(source), image_size=32))
    assert len(packed.manifest.classes) == 10
    assert packed.manifest.image_shape == (32, 32, 3)
    assert np.bincount(packed.split("train").labels).tolist() == [5_000] * 10
    assert np.bincount(packed.split("test").labels).tolist() == [1_000] * 10
    np.testing.assert_allclose(packed.manifest.mean, (0.491, 0.482, 0.447), atol=2e-3)
    assert json.loads((packed.path / "manifest.json").read_text())["rejected"] == []
