"""What a source holds, in units: each picture once, in order, read as it is; whatever kind of source it is."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augft.data.picture import MAX_FILE_BYTES
from augft.errors import DataError, StorageError
from augft.prediction import archives, files, listing
from augft.prediction.listing import Catalogue, Source, max_rows, read_listing, write_listing
from augft.prediction.source import open_source
from augft.storage import Storage
from tests.object_store import bucket_by_uri

FILES = {
    f"{folder}{number}.jpg": f"{folder}{number}".encode() * 9 for folder in ("", "b/", "a/deep/") for number in range(5)
}
OTHERS = {"notes.txt": b"no picture", "a/.hidden.jpg": b"hidden"}


def folder(root: Path) -> Path:
    for name, content in (FILES | OTHERS).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar(path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in reversed((FILES | OTHERS).items()):  # in no order that anyone wants
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def lzma_alone(path: Path) -> Path:
    """As `xz --format=lzma` and old programs pack: without anything at its start that tells it."""
    plain = tar(path.with_suffix(""))
    with lzma.open(path, "wb", format=lzma.FORMAT_ALONE) as file:
        file.write(plain.read_bytes())
    return path


def zipped(path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in reversed((FILES | OTHERS).items()):
            archive.writestr(name, content)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda root: folder(root / "pictures"),
    "tar": lambda root: tar(root / "pictures.tar"),
    "tar.gz": lambda root: tar(root / "pictures.tar.gz", "w:gz"),
    "tar.xz": lambda root: tar(root / "pictures.tar.xz", "w:xz"),
    "tar.bz2": lambda root: tar(root / "pictures.tar.bz2", "w:bz2"),
    "tar.lzma": lambda root: lzma_alone(root / "pictures.tar.lzma"),
    "zip": lambda root: zipped(root / "pictures.zip"),
    "stored zip": lambda root: zipped(root / "pictures.zip", zipfile.ZIP_STORED),
    "lzma zip": lambda root: zipped(root / "pictures.zip", zipfile.ZIP_LZMA),
}


def listed(source: Source, root: Path, rows: int = 4) -> Catalogue:
    return write_listing(source, root / listing.LISTING, rows)


def read_all(source: Source, root: Path, goes: list[list[int]]) -> dict[int, pa.Table]:
    storage = Storage(root)
    found = {}
    for units in goes:
        found.update(zip(units, source.read(read_listing(storage, units)), strict=True))
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_each_picture_is_read_once_and_as_it_is(tmp_path: Path, kind: str) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)), 8)
    catalogue = listed(source, tmp_path)
    assert catalogue.num_pictures == len(FILES)
    assert max(catalogue.counts) <= 4
    units = read_all(source, tmp_path, catalogue.goes(frozenset()))
    rows = pa.concat_tables([units[number] for number in range(len(catalogue.counts))])
    if "rank" in rows.column_names:
        assert rows["path"].to_pylist() != sorted(FILES)
        rows = rows.sort_by("rank")
    assert rows["path"].to_pylist() == sorted(FILES)
    assert rows["content"].to_pylist() == [FILES[name] for name in sorted(FILES)]


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_done_is_passed_over(tmp_path: Path, kind: str) -> None:
    source = open_source(str(MAKERS[kind](tmp_path)), 8)
    catalogue = listed(source, tmp_path)
    whole = read_all(source, tmp_path, catalogue.goes(frozenset()))
    rest = read_all(source, tmp_path, catalogue.goes(frozenset({0, 2})))
    assert rest.keys() == whole.keys() - {0, 2}
    assert all(rest[unit].equals(whole[unit]) for unit in rest)


def test_only_a_compressed_tar_is_read_in_one_go(tmp_path: Path) -> None:
    for kind, make in MAKERS.items():
        (tmp_path / kind).mkdir()
        catalogue = listed(open_source(str(make(tmp_path / kind)), 8), tmp_path / kind)
        assert (len(catalogue.starts) == 1) == kind.startswith("tar."), kind


def test_a_unit_is_bounded_in_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_rows(32) == listing.MAX_ROWS
    assert max_rows(4096) == listing.MIN_ROWS
    assert max_rows(224) * 224 * 224 * 3 <= listing.UNIT_BYTES
    monkeypatch.setattr(listing, "UNIT_BYTES", 10)
    sizes = [4, 4, 4, 100, 1, 1, 1, 1]
    table = pa.table({"name": list("abcdefgh"), "size": sizes})
    assert [unit["size"].to_pylist() for unit in listing.cut(table, 3)] == [[4, 4], [4], [100], [1, 1, 1], [1]]


def test_a_listing_of_many_names_is_sorted_across_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_CHUNK_ROWS", 7)
    names = [f"{number:03d}".encode() for number in np.random.default_rng(0).permutation(100)]
    schema = pa.schema([("name", pa.large_binary()), ("size", pa.int64())])
    table = listing.by_name(listing.as_table(((name, 1) for name in names), schema))
    assert table["name"].to_pylist() == sorted(names)


def test_a_listing_tells_whether_the_source_has_changed(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures")

    def digest() -> str:
        return listed(open_source(str(pictures), 8), tmp_path).digest

    before = digest()
    assert digest() == before
    (pictures / "notes.txt").write_bytes(b"other notes")
    assert digest() == before
    (pictures / "b" / "1.jpg").write_bytes(b"x" * len(FILES["b/1.jpg"]))
    changed = digest()
    assert changed != before
    (pictures / "b" / "1.jpg").unlink()
    assert digest() not in (before, changed)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parquet"])
def test_a_file_that_was_replaced_is_another_source(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pictures.parquet"
    if kind == "parquet":
        parquet(path, 5, 5)
    else:
        path = MAKERS[kind](tmp_path)

    def digest() -> str:
        return listed(open_source(str(path), 8), tmp_path).digest

    os.utime(path, ns=(5, 5))
    before = digest()
    assert digest() == before
    os.utime(path, ns=(5, 6))  # other pictures, perhaps, of the same sizes at the same places
    assert digest() != before


# ---- Parquet and packed ----------------------------------------------------------------------------------


def parquet(path: Path, num: int, group_rows: int) -> None:
    images = [{"bytes": f"{path.stem}{row}".encode(), "path": None} for row in range(num)]
    pq.write_table(pa.table({"image": images}), path, row_group_size=group_rows)


def test_parquet_is_read_by_row_groups(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    parquet(root / "b.parquet", 25, 10)
    parquet(root / "deep" / "a.parquet", 3, 10)
    source = open_source(str(root), 8)
    catalogue = listed(source, tmp_path)
    assert catalogue.counts.tolist() == [4, 4, 2, 4, 4, 2, 4, 1, 3]
    assert catalogue.starts.tolist() == [0, 3, 6, 8]
    whole = read_all(source, tmp_path, catalogue.goes(frozenset()))
    rows = pa.concat_tables(whole.values())
    paths = [f"b.parquet#{row:09d}" for row in range(25)] + [f"deep/a.parquet#{row:09d}" for row in range(3)]
    assert rows["path"].to_pylist() == paths
    assert rows["content"].to_pylist() == [f"b{row}".encode() for row in range(25)] + [b"a0", b"a1", b"a2"]
    rest = read_all(source, tmp_path, catalogue.goes(frozenset({1, 3})))
    assert rest.keys() == whole.keys() - {1, 3}
    assert all(rest[unit].equals(whole[unit]) for unit in rest)
    alone = open_source(str(root / "b.parquet"), 8)
    first = next(iter(alone.read(read_listing(Storage(tmp_path), [0])))) if listed(alone, tmp_path) else None
    assert first is not None
    assert first["path"][0].as_py() == "b.parquet#000000000"


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_picture_by_itself(tmp_path: Path, place: str) -> None:
    (tmp_path / "others").mkdir()
    for name in ("a 100% cat.JPG", "b.jpg"):
        (tmp_path / "others" / name).write_bytes(name.encode())
    with bucket_by_uri() if place == "bucket" else nullcontext() as bucket:
        if bucket:
            Storage(bucket("")).write("b.jpg", b"b.jpg")
            Storage(bucket("")).write("a 100% cat.JPG", b"a 100% cat.JPG")
        where = bucket("/a%20100%25%20cat.JPG") if bucket else str(tmp_path / "others" / "a 100% cat.JPG")
        source = pickle.loads(pickle.dumps(open_source(where, 8)))
        catalogue = listed(source, tmp_path)
        rows = read_all(source, tmp_path, catalogue.goes(frozenset()))[0]
        missing = bucket("/none.jpg") if bucket else str(tmp_path / "none.jpg")
        with pytest.raises(DataError, match="does not exist"):
            open_source(missing, 8)
    assert source.where == where
    assert rows["path"].to_pylist() == ["a 100% cat.JPG"]
    assert rows["content"].to_pylist() == [b"a 100% cat.JPG"]


def test_a_table_about_pictures_is_passed_over(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures")
    pq.write_table(pa.table({"file_name": sorted(FILES)}), pictures / "metadata.parquet")
    assert listed(open_source(str(pictures), 8), tmp_path).num_pictures == len(FILES)
    pq.write_table(pa.table({"image": [b"jpeg"] * 2}), pictures / "metadata.parquet")
    assert listed(open_source(str(pictures), 8), tmp_path).num_pictures == 2


def test_a_packed_set_keeps_its_ids(tmp_path: Path, digits: Path) -> None:
    source = open_source(str(digits), 16)
    catalogue = listed(source, tmp_path, rows=200)
    assert catalogue.counts.tolist() == [200, 159, *[200] * 7, 38]
    [unit] = read_all(source, tmp_path, [[1]]).values()
    assert unit["split"].unique().to_pylist() == ["test"]
    assert unit["sample_id"].to_pylist() == list(range(200, 359))
    assert {len(pixels) for pixels in unit["pixels"].to_pylist()} == {16 * 16 * 3}


# ---- what is wrong ---------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_one_bad_picture(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures")
    source = open_source(str(pictures), 8)
    catalogue = listed(source, tmp_path)
    (pictures / "b" / "1.jpg").unlink()
    units = read_all(source, tmp_path, catalogue.goes(frozenset()))
    rows = pa.concat_tables(units.values())
    reasons = dict(zip(rows["path"].to_pylist(), rows["reason"].to_pylist(), strict=True))
    assert {name for name, why in reasons.items() if why} == {"b/1.jpg"}
    assert reasons["b/1.jpg"] == "cannot be read (No such file or directory)"


def test_a_file_that_vanishes_while_it_is_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = folder(tmp_path / "pictures")

    def vanishing(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
        for name, entry in real_walk(root):
            if name == "b/1.jpg":
                (root / name).unlink()
            yield name, entry

    real_walk = files.walk
    monkeypatch.setattr(files, "walk", vanishing)
    with pytest.raises(DataError, match=r"pictures/b/1.jpg cannot be read: No such file or directory$"):
        listed(open_source(str(pictures), 8), tmp_path)


def test_whether_the_source_or_the_listing_is_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(folder(tmp_path / "pictures")), 8)
    with pytest.raises(
        StorageError, match=r"nowhere/listing.arrow: cannot be written: .*; free some space, or set TMPDIR"
    ):
        listed(source, tmp_path / "nowhere")

    def failing(_: int) -> Iterator[pa.RecordBatch]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(source, "units", failing)
    with pytest.raises(DataError, match=r"pictures cannot be read: Input/output error$"):
        listed(source, tmp_path)


def test_a_folder_that_is_gone_is_no_heap_of_bad_pictures(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures")
    source = open_source(str(pictures), 8)
    catalogue = listed(source, tmp_path)
    pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="No such file or directory"):
        read_all(source, tmp_path, catalogue.goes(frozenset()))


def test_an_empty_folder_where_pictures_were_is_no_heap_of_bad_pictures(tmp_path: Path) -> None:
    pictures = folder(tmp_path / "pictures")
    source = open_source(str(pictures), 8)
    catalogue = listed(source, tmp_path)
    pictures.rename(tmp_path / "elsewhere")
    pictures.mkdir()  # as a node sees it that has not mounted the disk
    with pytest.raises(DataError, match=r"pictures holds none of 4 pictures that were listed, from '0.jpg' on: is its"):
        read_all(source, tmp_path, catalogue.goes(frozenset()))


def test_a_damaged_member_of_bz2_is_one_bad_picture(tmp_path: Path) -> None:
    path = zipped(tmp_path / "pictures.zip", zipfile.ZIP_BZIP2)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("b/1.jpg").header_offset + 30 + len("b/1.jpg")
    content = bytearray(path.read_bytes())
    content[at + 4] ^= 0xFF
    path.write_bytes(content)
    source = open_source(str(path), 8)
    catalogue = listed(source, tmp_path)
    rows = pa.concat_tables(read_all(source, tmp_path, catalogue.goes(frozenset())).values())
    [bad] = rows.filter(pa.compute.is_valid(rows["reason"])).to_pylist()
    assert bad == {"path": "b/1.jpg", "content": None, "reason": "cannot be unpacked (Invalid data stream)"}


def test_a_damaged_member_is_one_bad_picture(tmp_path: Path) -> None:
    path = zipped(tmp_path / "pictures.zip", zipfile.ZIP_STORED)
    content = path.read_bytes()
    path.write_bytes(content.replace(FILES["b/1.jpg"], FILES["b/1.jpg"][::-1]))
    source = open_source(str(path), 8)
    catalogue = listed(source, tmp_path)
    rows = pa.concat_tables(read_all(source, tmp_path, catalogue.goes(frozenset())).values())
    [bad] = rows.filter(pa.compute.is_valid(rows["reason"])).to_pylist()
    assert bad == {"path": "b/1.jpg", "content": None, "reason": "cannot be unpacked (Bad CRC-32 for file 'b/1.jpg')"}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_no_more_is_read_of_a_member_than_a_picture_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert archives.MAX_FILE_BYTES == MAX_FILE_BYTES
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 10)
    source = open_source(str(MAKERS[kind](tmp_path)), 8)
    rows = pa.concat_tables(read_all(source, tmp_path, listed(source, tmp_path).goes(frozenset())).values())
    assert max(len(content) for content in rows["content"].to_pylist()) == 11


def hostile(path: Path, **fields: Any) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        for name, value in fields.items():
            setattr(member, name, value)
        archive.addfile(member)
    return path


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": "../a.jpg"}, "climbs out of the archive"),
        ({"name": "/etc/a.jpg"}, "is an absolute path"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link or a device"),
        ({"type": tarfile.FIFOTYPE}, "is a link or a device"),
    ],
)
def test_a_hostile_archive_is_refused_whole(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        listed(open_source(str(hostile(tmp_path / "a.tar", **fields)), 8), tmp_path)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged or cut short"):
        listed(open_source(str(path), 8), tmp_path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_tar_with_a_damaged_header_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tar(tmp_path / "pictures.tar")
    whole, third = path.read_bytes(), 2 * 1024  # a header and a block of content each
    damaged = (
        whole[:third] + b"\xff" + whole[third + 1 :],
        whole[:third] + bytes(512) + whole[third + 512 :],
        whole[: third + 100],
        whole[:third],
    )
    for content in damaged:
        path.write_bytes(pack(content))
        with pytest.raises(DataError, match="is damaged or cut short"):
            listed(open_source(str(path), 8), tmp_path)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source 'nowhere' does not exist: give the path or URI of a folder"):
        open_source("nowhere", 8)
    (tmp_path / "text").write_bytes(b"no archive" * 200)
    with pytest.raises(DataError, match="is no folder, "):
        listed(open_source(str(tmp_path / "text"), 8), tmp_path)
    (tmp_path / "empty").mkdir()
    assert listed(open_source(str(tmp_path / "empty"), 8), tmp_path).num_pictures == 0
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no column image or img"):
        listed(open_source(str(tmp_path / "a.parquet"), 8), tmp_path)
