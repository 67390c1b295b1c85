"""Sources and pictures: layouts, modes, and input that is broken or hostile."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from augft.data import picture, sources
from augft.data.pack import pack
from augft.data.picture import BadPictureError, to_pixels
from augft.data.sources import Source, open_source, source_digest
from augft.errors import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUGFT_CACHE", str(tmp_path / "cache"))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(value: int = 0, size: int = 4) -> bytes:
    return encoded(Image.new("RGB", (size, size), (value, value, value)))


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def listing(source: Source) -> list[tuple[str, str, str]]:
    return [(r.split, source.classes[r.label], r.path) for r in source.records]


def contents(source: Source) -> dict[str, bytes]:
    return {source.records[i].path: bytes(content) for i, content in source.read()}


SPLIT_FILES = {
    "train/dog/b.png": png(1),
    "train/cat/z.png": png(2),
    "train/cat/a.JPG": png(3),
    "train/cat/sub/c.png": png(4),
    "test/dog/a.png": png(5),
    "validation/cat/v.png": png(6),
    "train/cat/notes.txt": b"no picture",
    "train/cat/.hidden.png": b"hidden",
    "__MACOSX/train/cat/._a.png": b"mac",
    ".DS_Store": b"mac",
}
SPLIT_LISTING = [
    ("test", "dog", "test/dog/a.png"),
    ("train", "cat", "train/cat/a.JPG"),
    ("train", "cat", "train/cat/sub/c.png"),
    ("train", "cat", "train/cat/z.png"),
    ("train", "dog", "train/dog/b.png"),
    ("val", "cat", "validation/cat/v.png"),
]


# ---- class folders and archives of them ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tgz", "tar.xz", "zip"])
def test_splits_and_classes_of_each_container(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "folder":
        write_folder(path, SPLIT_FILES)
    elif kind == "zip":
        write_zip(path, SPLIT_FILES)
    else:
        write_tar(path, SPLIT_FILES, {"tar": "w", "tar.xz": "w:xz"}.get(kind, "w:gz"))
    source = open_source(str(path))
    assert source.classes == ("cat", "dog")
    assert listing(source) == SPLIT_LISTING
    assert contents(source) == {name: SPLIT_FILES[name] for _, _, name in SPLIT_LISTING}


@pytest.mark.parametrize("names", [("Train", "VAL", "Test"), ("training", "validation", "testing")])
def test_splits_by_other_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    train, val, test = names
    files = {f"{split}/{label}/a.png": png() for split in names for label in ("cat", "dog")}
    source = open_source(str(write_folder(tmp_path / "s", files)))
    assert source.classes == ("cat", "dog")
    assert {record.path.split("/")[0]: record.split for record in source.records} == {
        train: "train",
        val: "val",
        test: "test",
    }


def test_a_zip_that_parts_names_by_backslashes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "s.zip", {"photos\\cat\\a.png": png(1), "photos\\dog\\b.png": png(2)})
    source = open_source(str(path))
    assert listing(source) == [("train", "cat", "photos/cat/a.png"), ("train", "dog", "photos/dog/b.png")]
    assert contents(source) == {"photos/cat/a.png": png(1), "photos/dog/b.png": png(2)}


def test_a_class_has_one_name_however_it_is_composed(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    files = {f"train/{composed}/a.png": png(), "train/x/a.png": png(), f"test/{decomposed}/a.png": png()}
    source = open_source(str(write_folder(tmp_path / "s", files)))
    assert source.classes == (composed, "x")


def test_pictures_of_kinds_that_are_not_read_are_not_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "s", {"cat/a.png": png(), "cat/b.HEIC": b"ftypheic", "dog/c.png": png()})
    assert [record.path for record in open_source(str(root)).records] == ["cat/a.png", "cat/b.HEIC", "dog/c.png"]
    with pytest.raises(DataError, match=r"'cat/b\.HEIC' is not a picture of a known kind \(1 bad of 3\)"):
        pack(str(root), tmp_path / "out")


def test_order_does_not_depend_on_the_archive(tmp_path: Path) -> None:
    backwards = dict(reversed(SPLIT_FILES.items()))
    one = open_source(str(write_tar(tmp_path / "one.tar.gz", SPLIT_FILES)))
    other = open_source(str(write_tar(tmp_path / "other.tar.gz", backwards)))
    assert one.records == other.records
    assert contents(one) == contents(other)


@pytest.mark.parametrize("prefix", ["", "./", "outer/", "outer/inner/"])
def test_flat_layout_inside_of_outer_folders(tmp_path: Path, prefix: str) -> None:
    files = {f"{prefix}cat/a.png": png(), f"{prefix}train/a.png": png(), f"{prefix}dog/a.png": png()}
    source = open_source(str(write_tar(tmp_path / "flat.tar", files, "w")))
    assert source.classes == ("cat", "dog", "train")
    assert {record.split for record in source.records} == {"train"}


def test_names_are_sorted_byte_by_byte(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "s", {f"{name}/a.png": png() for name in ("b", "B", "é", "a10", "a9")})
    assert open_source(str(root)).classes == ("B", "a10", "a9", "b", "é")


def test_a_class_folder_without_pictures_is_still_a_class(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "s", {"train/cat/a.png": png(), "train/empty/readme.txt": b""})
    assert open_source(str(root)).classes == ("cat", "empty")


def test_folder_links_are_followed_and_loops_are_found(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "s", {"cat/a.png": png()})
    write_folder(tmp_path / "elsewhere", {"a.png": png()})
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    assert open_source(str(root)).classes == ("cat", "dog")
    (root / "cat" / "loop").symlink_to(root)
    with pytest.raises(DataError, match="link to a folder that it lies in"):
        open_source(str(root))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, "holds no pictures"),
        ({"test/cat/a.png": png(), "val/cat/a.png": png()}, "no train folder"),
        (
            {"train/cat/a.png": png(), "test/dog/a.png": png()},
            "class 'dog' of 'test/dog/a.png' is not in train",
        ),
        ({"train/cat/a.png": png(), "extra/cat/a.png": png()}, "mixes train/<class>/… with extra"),
        ({"cat/a.png": png(), "dog/a.png": png(), "val/cat/a.png": png()}, "mixes val/<class>/… with cat, dog"),
        ({"cat/a.png": png(), "logo.png": png()}, "'logo.png' lies in no class folder"),
    ],
)
def test_layouts_that_cannot_be_told(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        open_source(str(write_folder(tmp_path / "s", files)))
    assert "\n" not in str(error.value)


def test_sources_that_are_not_there_or_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: give digits, cifar10"):
        open_source(str(tmp_path / "nowhere"))
    (tmp_path / "text").write_text("hello")
    for empty in ("text", "empty"):
        (tmp_path / empty).touch()
        with pytest.raises(DataError, match=r"is no folder, .tar"):
            open_source(str(tmp_path / empty))


def test_the_digest_is_of_content(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", SPLIT_FILES)
    two = write_folder(tmp_path / "two", dict(reversed(SPLIT_FILES.items())))
    assert source_digest(str(one)) == source_digest(str(two))
    (two / "train/cat/a.JPG").write_bytes(png(99))
    assert source_digest(str(one)) != source_digest(str(two))
    assert source_digest("digits") == source_digest("digits")


# ---- hostile and damaged archives ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x.png", "cat/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_paths_that_climb_out_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    path = write(tmp_path / "a", {"cat/a.png": png(), "dog/a.png": png(), name: png()})
    with pytest.raises(DataError, match="is refused: its member") as error:
        open_source(str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", {"cat/a.png": png(), "dog/a.png": png()}, "w")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("dog/passwd.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match=r"'dog/passwd.png' is a link or a device"):
        open_source(str(path))


def test_links_in_a_zip_and_encrypted_zips_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("dog/passwd.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="is a link or a device"):
        open_source(str(tmp_path / "a.zip"))
    content = bytearray(write_zip(tmp_path / "b.zip", {"cat/a.png": png()}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(DataError, match="is encrypted"):
        open_source(str(tmp_path / "b.zip"))


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"cat/a.png": png(), "./cat/a.png": png()})
    with pytest.raises(DataError, match="is there twice"):
        open_source(str(path))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_cut_short_is_told(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    files = {f"{c}/{i}.png": encoded(Image.fromarray(noise)) for c in "ab" for i in range(4)}
    path = write_tar(tmp_path / "a.tar", files, mode)
    whole = path.read_bytes()
    for part in (0.3, 0.6):
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match="damaged or cut short"):
            open_source(str(path))
    if mode == "w:gz":  # only the checksum is gone
        path.write_bytes(whole[:-4])
        with pytest.raises(DataError, match="damaged or cut short"):
            open_source(str(path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_tar_with_a_damaged_header_is_not_read_in_part(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{c}/{i}.png": png(i) for c in "ab" for i in range(3)}, "w")
    whole, third = path.read_bytes(), 2 * 1024  # a header and a block of content each
    end = 6 * 1024
    damaged = {
        "a wrong byte": whole[:third] + b"\xff" + whole[third + 1 :],
        "zeros": whole[:third] + bytes(512) + whole[third + 512 :],
        "cut in a header": whole[: third + 100],
        "cut between members": whole[:third],
        "no end": whole[:end],
    }
    for how, content in damaged.items():
        path.write_bytes(pack(content))
        with pytest.raises(DataError, match="damaged or cut short"):
            pytest.fail(f"{how}: {len(open_source(str(path)).records)} records")
    path.write_bytes(pack(whole[: end + 512]))  # a lone block of zeros
    assert len(open_source(str(path)).records) == 6


@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_a_wrong_byte_in_a_compressed_tar_is_told_as_damage(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).bytes(600_000)  # so that bz2 has more than one block
    path = write_tar(tmp_path / "a.tar", {f"{c}/a.png": noise for c in "ab"}, f"w:{ending}")
    content = bytearray(path.read_bytes())
    content[-6 if ending == "gz" else -10_000] ^= 0xFF  # the checksum; a block
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged or cut short"):
        contents(open_source(str(path)))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_spoils_no_other(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("cat/a.png", png(1))
        archive.writestr("dog/a.png", png(2))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for at in range(50, 70):
        content[at] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    assert contents(open_source(str(tmp_path / "a.zip"))) == {"cat/a.png": b"", "dog/a.png": png(2)}


def test_a_zip_cut_short_and_one_with_a_damaged_member(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"cat/a.png": png(1), "dog/a.png": png(2)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match="damaged or cut short"):
        open_source(str(path))
    damaged = bytearray(whole)
    damaged[45] ^= 0xFF
    path.write_bytes(damaged)
    assert contents(open_source(str(path))) == {"cat/a.png": b"", "dog/a.png": png(2)}


def test_pickled_cifar_is_never_loaded(tmp_path: Path) -> None:
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    names = ("data_batch_1", "test_batch", "batches.meta")
    path = write_tar(tmp_path / "a.tar.gz", {f"cifar-10-batches-py/{n}": bomb for n in names})
    with pytest.raises(DataError, match="get the binary version"):
        open_source(str(path))
    assert not (tmp_path / "ran").exists()


# ---- pictures --------------------------------------------------------------------------------------------


def pixel(content: bytes) -> list[int]:
    pixels = to_pixels(content, None)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    return pixels[0, 0].tolist()


def test_every_mode_becomes_rgb() -> None:
    assert pixel(encoded(Image.new("1", (4, 4), 1))) == [255] * 3
    assert pixel(encoded(Image.new("L", (4, 4), 77))) == [77] * 3
    assert pixel(encoded(Image.new("LA", (4, 4), (100, 0)))) == [255] * 3
    assert pixel(encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 255)))) == [10, 20, 30]
    assert pixel(encoded(Image.new("RGBA", (4, 4), (0, 100, 200, 51)))) == [204, 224, 244]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert pixel(encoded(palette)) == [200, 100, 50]
    assert pixel(encoded(palette, transparency=1)) == [255] * 3
    assert pixel(encoded(palette, "GIF")) == [200, 100, 50]
    assert pixel(encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF")) == [0, 255, 255]
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))
    assert red < 8
    assert min(green, blue) > 247
    assert pixel(encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "WEBP", lossless=True)) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("value", [0, 128, 129, 257, 30_000, 65_535])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, value: int) -> None:
    deep = Image.fromarray(np.full((4, 4), value, np.uint16))
    assert pixel(encoded(deep, kind)) == [round(value * 255 / 65_535)] * 3


def test_values_without_agreed_range_are_bad() -> None:
    with pytest.raises(BadPictureError, match="outside of 16 bits"):
        to_pixels(encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), None)
    with pytest.raises(BadPictureError, match="float pixels"):
        to_pixels(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), None)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.zeros((32, 16, 3), np.uint8)
    upright[:16, :8] = 255
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    pixels = to_pixels(content, None)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 8
    assert to_pixels(content, 8).shape == (8, 8, 3)


def test_damaged_exif_spoils_no_picture() -> None:
    content = png(7)
    body = b"eXIf" + b"garbage"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    assert (to_pixels(content[:33] + chunk + content[33:], None) == 7).all()


def test_resize_keeps_the_central_square() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    content = encoded(Image.fromarray(wide))
    assert (to_pixels(content, 20) == 200).all()
    assert (to_pixels(content, 7)[:, 1:-1] == 200).all()
    assert to_pixels(content, 33).shape == (33, 33, 3)
    assert np.array_equal(to_pixels(wide, 7), to_pixels(content, 7))


def test_resize_agrees_with_shorter_side_then_centre_crop() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 192, 3), np.uint8))
    expected = np.asarray(noise.resize((64, 32), Image.Resampling.BILINEAR))[:, 16:48]
    assert np.array_equal(to_pixels(encoded(noise), 32), expected)


def test_large_jpegs_decode_reduced_to_the_same_picture() -> None:
    y, x = np.mgrid[0:512, 0:512]
    smooth = Image.fromarray(np.stack([y // 2, x // 2, (x + y) // 4], -1).astype(np.uint8))
    exact = np.asarray(smooth.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(to_pixels(encoded(smooth, "JPEG", quality=95), 32) - exact).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_pictures_cut_short_are_bad(kind: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    content = encoded(noise, kind)
    with pytest.raises(BadPictureError) as error:
        to_pixels(content[: int(len(content) * part)], None)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)  # an address would make manifests differ


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "is not a picture"),
        (png()[:30] + b"\xff" * 40 + png()[70:], "cannot be decoded|is not a picture"),
    ],
)
def test_what_is_no_picture_is_bad(content: bytes, reason: str) -> None:
    with pytest.raises(BadPictureError, match=reason):
        to_pixels(content, None)


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 30_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    with pytest.raises(BadPictureError, match=f"more than {picture.MAX_PIXELS:,}"):
        to_pixels(bomb(side, side), 32)


def test_files_too_large_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_FILE_BYTES", 2**20)
    with pytest.raises(BadPictureError, match="larger than 1 MiB"):
        to_pixels(bytes(2**20 + 1), None)


# ---- digits and CIFAR-10 ---------------------------------------------------------------------------------


def test_digits() -> None:
    source = open_source("digits")
    assert source.classes == tuple("0123456789")
    assert len(source.records) == 1797
    assert source.records == sorted(source.records)
    test = [r.label for r in source.records if r.split == "test"]
    train = [r.label for r in source.records if r.split == "train"]
    for label in range(10):
        whole = test.count(label) + train.count(label)
        assert test.count(label) == round(0.2 * whole)
    images = np.stack([content for _, content in source.read()])
    assert images.shape == (1797, 8, 8, 3)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)


def cifar_files(rows: int = 20) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {"cifar-10-batches-bin/batches.meta.txt": "\n".join(sources.CIFAR10_CLASSES).encode() + b"\n\n"}
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        batch = rng.integers(0, 256, (rows, 3073), np.uint8)
        batch[:, 0] = np.arange(rows) % 10
        files[f"cifar-10-batches-bin/{name}.bin"] = batch.tobytes()
    return files


@pytest.mark.parametrize("kind", ["archive", "outer folder", "folder"])
def test_cifar_binary_layout(tmp_path: Path, kind: str) -> None:
    files = cifar_files()
    if kind == "archive":
        path = write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
    else:
        path = write_folder(tmp_path / "s", files)
        path = path / "cifar-10-batches-bin" if kind == "folder" else path
    source = open_source(str(path))
    assert source.classes == sources.CIFAR10_CLASSES
    assert [r.split for r in source.records].count("train") == 40
    assert [r.split for r in source.records].count("test") == 20
    pictures = {source.records[i].path: (source.records[i].label, content) for i, content in source.read()}
    row = np.frombuffer(files["cifar-10-batches-bin/data_batch_2.bin"], np.uint8).reshape(-1, 3073)[13]
    label, image = pictures["data_batch_2.bin#00013"]
    assert label == row[0] == 3
    assert image[5, 7].tolist() == [row[1 + 5 * 32 + 7], row[1025 + 5 * 32 + 7], row[2049 + 5 * 32 + 7]]


def test_cifar_damage_is_told(tmp_path: Path) -> None:
    files = cifar_files()
    name = "cifar-10-batches-bin/data_batch_1.bin"
    with pytest.raises(DataError, match="no multiple of 3073"):
        open_source(str(write_tar(tmp_path / "a.tar", files | {name: files[name][:-5]})))
    with pytest.raises(DataError, match="label 11, but there are 10 classes"):
        open_source(str(write_tar(tmp_path / "b.tar", files | {name: b"\x0b" + files[name][1:]})))


def test_cifar10_is_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_tar(tmp_path / "served.tar.gz", cifar_files())
    monkeypatch.setattr(sources, "CIFAR10_URL", archive.as_uri())
    with pytest.raises(DataError, match=r"published MD5.*--set data.source=/path/cifar-10-binary.tar.gz"):
        open_source("cifar10")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(sources, "CIFAR10_MD5", sources._md5(archive))
    assert len(open_source("cifar10").records) == 60
    archive.unlink()
    assert len(open_source("cifar10").records) == 60
    (tmp_path / "cache" / "cifar-10-binary.tar.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match="is not the official archive"):
        open_source("cifar10")


def test_cifar10_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CIFAR10_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match=r"--set data.source=/path/cifar-10-binary.tar.gz") as error:
        open_source("cifar10")
    assert "\n" not in str(error.value)


# ---- Parquet ---------------------------------------------------------------------------------------------


def write_parquet(
    path: Path,
    pictures: list[bytes | None],
    labels: list[object],
    names: list[str] | None = None,
    **columns: str,
) -> Path:
    image, label = columns.get("image", "image"), columns.get("label", "label")
    cells = [{"bytes": content, "path": None} for content in pictures]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, image_type), label: labels})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("folder", ["", "data/", "plain_text/"])
def test_hugging_face_folder(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "s"
    names = ["cat", "dog"]
    for number in range(2):
        write_parquet(
            root / f"{folder}train-0000{number}-of-00002.parquet",
            [png(number), png(9)],
            [1, 0],
            names,
            image="img",
        )
    write_parquet(root / f"{folder}test-00000-of-00001.parquet", [png(7)], [1], names, image="img")
    source = open_source(str(root))
    assert source.classes == ("cat", "dog")
    assert [(r.split, r.label) for r in source.records] == [("test", 1)] + [("train", 0)] * 2 + [("train", 1)] * 2
    got = {(source.records[i].path): content for i, content in source.read()}
    assert got["train-00001-of-00002.parquet#000000000"] == png(1)
    assert got["test-00000-of-00001.parquet#000000000"] == png(7)


def test_split_folders_and_plain_binary_and_other_labels(tmp_path: Path) -> None:
    root = tmp_path / "s"
    for split in ("train", "validation"):
        (root / split).mkdir(parents=True)
        table = pa.table({"image": [png(1), png(2)], "fine_label": pa.array([0, 1], pa.uint8())})
        pq.write_table(table, root / split / "0000.parquet")
    source = open_source(str(root))
    assert source.classes == ("0", "1")
    assert {r.split for r in source.records} == {"train", "val"}


def test_a_single_file_with_text_labels_and_a_row_without_bytes(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(1), None, png(3)], ["dog", "cat", "cat"])
    source = open_source(str(path))
    assert source.classes == ("cat", "dog")
    assert contents(source) == {
        "a.parquet#000000000": png(1),
        "a.parquet#000000001": b"",
        "a.parquet#000000002": png(3),
    }


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2], ["cat", "dog"], "label 2 of a.parquet#000000001 is not one of train's 2 classes"),
        ([0, -1], ["cat", "dog"], "label -1"),
        ([0, 2**40], None, "label 1099511627776"),
        ([0, None], ["cat", "dog"], "neither integers nor text, or some are missing"),
        ([0.5, 1.5], None, "neither integers nor text"),
    ],
)
def test_labels_out_of_range(tmp_path: Path, labels: list[object], names: list[str], message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(), png()], labels, names)
    with pytest.raises(DataError, match=message):
        open_source(str(path))


def test_a_table_about_pictures_is_no_source(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    pq.write_table(pa.table({"file_name": ["cat/1.jpg", "dog/1.jpg"], "label": [0, 1]}), tmp_path / "metadata.parquet")
    assert open_source(str(tmp_path)).classes == ("cat", "dog")
    pq.write_table(pa.table({"image": [b""] * 3, "label": ["eel", "fox", "gnu"]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"metadata.parquet tells no split"):
        open_source(str(tmp_path))
    (tmp_path / "metadata.parquet").unlink()
    assert open_source(str(tmp_path)).classes == ("eel", "fox", "gnu")


def test_parquet_that_is_damaged_or_holds_no_pictures(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [png(), png()], [0, 1])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a.parquet is damaged or cut short") as error:
        open_source(str(path))
    assert "\n" not in str(error.value)
    pq.write_table(pa.table({"x": [1], "label": [0]}), path)
    with pytest.raises(DataError, match="has no column image or img: it has x, label"):
        open_source(str(path))
    pq.write_table(pa.table({"image": [1], "label": [0]}), path)
    with pytest.raises(DataError, match="column image is int64, not the bytes"):
        open_source(str(path))
    root = tmp_path / "named"
    for split in ("train", "test"):
        write_parquet(root / f"cifar10-{split}.parquet", [png()], [0])
    assert [record.split for record in open_source(str(root)).records] == ["test", "train"]
    root = tmp_path / "s"
    write_parquet(root / "train.parquet", [png()], [0])
    write_parquet(root / "more.parquet", [png()], [0])
    with pytest.raises(DataError, match=r"more.parquet tells no split"):
        open_source(str(root))


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "s", {"cat/a.png": png(), "dog/a.png": png()})
    source = open_source(str(root))
    os.unlink(root / "cat/a.png")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(source.read())
