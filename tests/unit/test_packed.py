"""Reading a packed set: rows by sample id, the node's cache, and sets that are damaged."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augft.data import packed, shards
from augft.data.manifest import Manifest, Split, set_digest
from augft.data.pack import pack
from augft.data.packed import PackedDataset, cache_dir, is_packed, open_packed
from augft.errors import DataError

NUM_ROWS = 60


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 5, 5, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards of train: classes a (20 rows), b (20), c (20)."""
    monkeypatch.setattr(shards, "_MAX_ROW_GROUP", 8)
    monkeypatch.setattr(shards, "_SHARD_BYTES", 24 * 75)
    for i, image in enumerate(images):
        path = tmp_path / "s" / "abc"[i // 20] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return pack(str(tmp_path / "s"), tmp_path / "out")


def test_gather_in_any_order_with_repeats(folder: Path, images: np.ndarray) -> None:
    split = open_packed(folder).split("train")
    assert split.num_rows == NUM_ROWS
    assert split.labels.dtype == np.int32
    assert split.labels.tolist() == [i // 20 for i in range(NUM_ROWS)]
    rng = np.random.default_rng(1)
    for ids in (
        np.arange(NUM_ROWS),
        np.arange(NUM_ROWS)[::-1],
        rng.integers(0, NUM_ROWS, 500),
        np.array([59]),
        np.array([3, 3, 3]),
        np.array([23, 24, 47, 48]),  # on both sides of the borders of shards
        np.array([], np.int64),
    ):
        got, labels = split.gather(ids)
        assert got.dtype == np.uint8
        assert labels.dtype == np.int32
        assert got.flags.writeable
        assert got.flags.c_contiguous
        assert np.array_equal(got, images[ids])
        assert np.array_equal(labels, split.labels[ids])


@pytest.mark.parametrize("bad", [-1, NUM_ROWS, 2**60])
def test_ids_out_of_range(folder: Path, bad: int) -> None:
    with pytest.raises(DataError, match=rf"sample id {bad} is not in 0 to 59 of 'train'"):
        open_packed(folder).split("train").gather(np.array([5, bad, 7]))


def test_splits_are_named(folder: Path) -> None:
    dataset = open_packed(folder)
    assert dataset.splits == ("train",)
    assert dataset.has("train")
    assert not dataset.has("val")
    with pytest.raises(DataError, match="has no split 'val': it has train"):
        dataset.split("val")


def test_pickles_as_a_path(folder: Path) -> None:
    dataset = open_packed(folder)
    split = dataset.split("train")
    split.gather(np.arange(NUM_ROWS))
    assert len(pickle.dumps(split)) < 1_000
    again = pickle.loads(pickle.dumps(split))
    assert np.array_equal(again.gather(np.arange(7))[0], split.gather(np.arange(7))[0])
    assert pickle.loads(pickle.dumps(dataset)).manifest == dataset.manifest


# ---- the node's cache ------------------------------------------------------------------------------------


def count_decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    decoded: list[str] = []
    real = packed._decode_shard

    def counted(dataset: PackedDataset, shard: packed.Shard) -> np.ndarray:
        decoded.append(shard.file)
        return real(dataset, shard)

    monkeypatch.setattr(packed, "_decode_shard", counted)
    return decoded


def test_a_shard_is_decoded_once_a_node(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    decoded = count_decoding(monkeypatch)
    everything = np.arange(NUM_ROWS)
    open_packed(folder).split("train").gather(np.array([0]))
    assert decoded == ["train-00000.parquet"]
    with ThreadPoolExecutor(4) as pool:
        splits = [open_packed(folder).split("train") for _ in range(4)]
        for got, _ in pool.map(lambda split: split.gather(everything), splits):
            assert np.array_equal(got, images)
    assert sorted(decoded) == [f"train-0000{i}.parquet" for i in range(3)]
    assert len(list((cache / "raw").iterdir())) == 3  # no temporary files, no locks
    raw = next((cache / "raw").glob("*.npy"))
    raw.write_bytes(raw.read_bytes()[:-1])
    assert np.array_equal(open_packed(folder).split("train").gather(everything)[0], images)
    assert len(decoded) == 4


def test_processes_at_once(folder: Path, images: np.ndarray, cache: Path) -> None:
    code = (
        "import sys, numpy, hashlib; from augft.data.packed import open_packed;"
        "images, _ = open_packed(sys.argv[1]).split('train').gather(numpy.arange(60));"
        "print(hashlib.sha256(images).hexdigest())"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)
    assert len(list((cache / "raw").iterdir())) == 3


def test_without_a_cache_rows_come_from_memory(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "file"))
    decoded = count_decoding(monkeypatch)
    split = open_packed(folder).split("train")
    for _ in range(2):
        assert np.array_equal(split.gather(np.arange(NUM_ROWS))[0], images)
    assert len(decoded) == 3


def test_a_full_disk_leaves_no_half_file(
    folder: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def full(file: object, array: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed.np, "save", full)
    assert np.array_equal(open_packed(folder).split("train").gather(np.arange(NUM_ROWS))[0], images)
    assert not list((cache / "raw").iterdir())


def test_what_a_killed_process_left_is_removed(folder: Path, cache: Path) -> None:
    sha256 = open_packed(folder).manifest.splits["train"].shards[0].sha256
    (cache / "raw").mkdir(parents=True)
    (cache / "raw" / f".{sha256}.npy.0123.part").write_bytes(b"half")
    (cache / "raw" / f".{sha256}.npy.lock").touch()
    open_packed(folder).split("train").gather(np.array([0]))
    assert [path.name for path in (cache / "raw").iterdir()] == [f"{sha256}.npy"]


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("AUGFT_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "augft"


# ---- damaged sets ----------------------------------------------------------------------------------------


def read_all(folder: Path) -> None:
    open_packed(folder).split("train").gather(np.arange(NUM_ROWS))


def test_a_missing_or_cut_shard_is_told_when_opened(folder: Path) -> None:
    shard = folder / "train-00001.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"damaged: shard train-00001.parquet has .*; pack the source again"):
        open_packed(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard train-00001.parquet is missing; pack the source again"):
        open_packed(folder)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.7, 0.999])
def test_flipped_bytes_are_told_when_read(folder: Path, place: float) -> None:
    shard = folder / "train-00001.parquet"
    content = bytearray(shard.read_bytes())
    at = int(place * len(content))
    content[at : at + 16] = bytes(255 - value for value in content[at : at + 16])
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged: .*train-00001.parquet.*pack the source again") as error:
        read_all(folder)
    assert "\n" not in str(error.value)


def rewrite(folder: Path, **changes: object) -> None:
    """Write the manifest with changes and a digest that fits them."""
    content = json.loads((folder / "manifest.json").read_text()) | changes
    splits = {name: Split.model_validate(split) for name, split in content["splits"].items()}
    digest = set_digest(tuple(content["classes"]), tuple(content["image_shape"]), splits)
    (folder / "manifest.json").write_text(json.dumps(content | {"digest": digest}))


def test_a_manifest_of_other_shards(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    content["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    rewrite(folder, splits=content["splits"])
    with pytest.raises(DataError, match=r"train-00000.parquet do not have the manifest's digest"):
        read_all(folder)


def test_a_manifest_with_other_rows(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    train = content["splits"]["train"]
    train["shards"][2]["num_rows"] -= 1
    train["num_rows"] -= 1
    rewrite(folder, splits=content["splits"])
    with pytest.raises(DataError, match=r"train-00002.parquet has 12 rows .*, the manifest says 11"):
        open_packed(folder).split("train").labels  # noqa: B018


def test_a_manifest_with_another_shape_or_fewer_classes(folder: Path) -> None:
    rewrite(folder, image_shape=[6, 6, 3])
    with pytest.raises(DataError, match=r"does not hold images of shape \(24, 6, 6, 3\)"):
        read_all(folder)
    rewrite(folder, image_shape=[5, 5, 3], classes=["a", "b"])
    with pytest.raises(DataError, match="has label 2, the manifest 2 classes"):
        read_all(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format version 99, this augft reads 1"),
        ({"classes": ["x", "y", "z"]}, "digest does not fit"),
        ({"image_shape": [5, 5, 4]}, "image_shape.2"),
        ({"mean": None}, "mean"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_manifests_that_do_not_hold_together(folder: Path, change: dict[str, object], message: str) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=message) as error:
        open_packed(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("file", "../../etc/passwd.parquet"), ("file", "/x.parquet"), ("first_id", 1)]
)
def test_manifests_that_point_elsewhere(folder: Path, field: str, value: object) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    content["splits"]["train"]["shards"][0][field] = value
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"is damaged: manifest.json"):
        open_packed(folder)


def test_what_is_no_packed_set(tmp_path: Path, folder: Path) -> None:
    assert is_packed(folder)
    assert not is_packed(tmp_path)
    with pytest.raises(DataError, match=r"is not a packed data set: it has no manifest.json"):
        open_packed(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        open_packed(tmp_path)


def test_the_manifest_is_typed(folder: Path) -> None:
    manifest = open_packed(folder).manifest
    assert isinstance(manifest, Manifest)
    assert manifest.classes == ("a", "b", "c")
    assert len(manifest.digest) == 64
    assert pq.read_schema(folder / "train-00000.parquet").names == ["sample_id", "label", "image"]


def test_a_shard_is_decoded_piece_by_piece(tmp_path: Path) -> None:
    """Parquet takes some 15 bytes for each of a pixel's that it decodes at a time."""
    dataset = open_packed(pack("digits", tmp_path / "set", image_size=64))
    [shard] = dataset.manifest.splits["train"].shards
    before, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(counted)
    try:
        pixels = packed._decode_shard(dataset, shard)
    finally:
        pa.set_memory_pool(before)
    assert pixels.nbytes == 1438 * 64 * 64 * 3
    assert 0 < counted.max_memory() < 2 * pixels.nbytes
