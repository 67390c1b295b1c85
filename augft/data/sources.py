"""A source to records: which pictures there are, their labels and splits, and how to read them.

| source | what it is |
|---|---|
| `digits` | scikit-learn's 1,797 handwritten digits, 8x8 grey; a fixed fifth of each class is `test` |
| `cifar10` | the official binary archive, from the cache folder or downloaded |
| a folder or archive with `data_batch_1.bin` | CIFAR-10's binary layout |
| a Parquet file, or a folder of them | columns `image` and `label`, as Hugging Face writes them |
| a folder, `.tar`, `.tar.gz` or `.zip` | `train/<class>/…` with `val/` and `test/`, or `<class>/…` |
| a URI, as `s3://bucket/folder` | class folders or Parquet files there; no archive |

Records are sorted by split, class and path, byte by byte: where a file stands in an archive or folder
changes nothing. An already packed set is no source; `pack` hands it back.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from augft.data import hf_parquet
from augft.data.packed import cache_dir
from augft.data.picture import is_picture
from augft.data.portions import Files, Picture, Portion, Rows, loaded
from augft.data.split import carve
from augft.data.tree import FolderTree, RemoteTree, Tree, open_tree, tree_digest
from augft.data.work import Crew
from augft.errors import DataError
from augft.storage import Place, place, split_uri

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR_FILE = re.compile(r"data_batch_\d+\.bin|test_batch\.bin|batches\.meta\.txt")
_CIFAR_ROW_BYTES = 1 + 3 * 32 * 32
_PORTION = 256
_SPLIT_OF_FOLDER = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


class Record(NamedTuple):
    """One picture. Records compare in the order of the source."""

    split: str
    """`train`, `val` or `test`."""
    label: int
    """Index into the source's classes."""
    path: str
    """Its name inside the source."""


@dataclass(frozen=True)
class Source:
    """What there is to pack."""

    classes: tuple[str, ...]
    """Class names; they may be without pictures."""
    records: list[Record]
    """Sorted."""
    portions: Callable[[int], Iterator[Portion]]
    """All records once, in an order that is cheap to read and always the same, up to so many at a time."""
    pick: Callable[[Int64Array], Portion] | None = None
    """Any records, by index, in any order; None where that is not cheap."""

    def read(self) -> Iterator[tuple[int, Picture]]:
        """(index of record, picture) for each record, in the order of `portions`."""
        for portion in self.portions(_PORTION):
            yield from zip(portion.indices.tolist(), portion.read(), strict=True)


class NotForTrainingError(DataError):
    """It cannot be trained on; it can perhaps be looked at."""


def open_source(source: str, *, for_training: bool = True) -> Source:
    """List what a source holds.

    Args:
        source: see above.
        for_training: whether class folders have to have a `train`, which then names the classes.

    Raises:
        DataError: there is no such source, it is damaged, hostile, or laid out in no known way.
    """
    if source == "digits":
        return _digits()
    path = _locate(source)
    is_file = path.is_file() if isinstance(path, Path) else _parquet_file(path) is not None
    if is_file and (parquet := hf_parquet.find(path)):
        return _parquet(parquet)
    tree = open_tree(path)
    if isinstance(tree, FolderTree | RemoteTree) and (parquet := hf_parquet.find(path, tree.files)):
        return _parquet(parquet)
    names = {name.rpartition("/")[2] for name in tree.files}
    if "data_batch_1.bin" in names:
        return _cifar(path, tree)
    if {"data_batch_1", "test_batch"} <= names:
        raise DataError(
            f"{path} is CIFAR-10 as Python pickles, which can run any code when loaded: "
            f"get the binary version, {CIFAR10_URL}"
        )
    return _class_folders(path, tree, for_training)


def source_digest(source: str, crew: Crew | None = None) -> str:
    """SHA-256 in hex of a source's content, without listing it.

    Of an archive or file: its bytes; of a folder: `tree_digest`; of the digits: pixels and labels. Of a URI, of which
    nothing is read: names, sizes and times (`RemoteTree.digest`).

    Args:
        source: as `open_source` takes it.
        crew: reads the files of a folder; None for this thread.
    """
    if source == "digits":
        images, labels = _load_digits()
        return hashlib.sha256(b"digits" + images.tobytes() + labels.tobytes()).hexdigest()
    path = _locate(source)
    if isinstance(path, str) and (found := _parquet_file(path)):
        return RemoteTree(found[0]).digest({found[1]})
    return tree_digest(path, crew)


def _for_others(path: Place) -> Place:
    """As other processes find it, which have other working directories."""
    return path.absolute() if isinstance(path, Path) else path


def _parquet_file(uri: str) -> tuple[str, str] | None:
    """Folder and name of the Parquet file that a URI names; None if it names something else."""
    folder, name = split_uri(uri)
    return (folder, name) if name.endswith(".parquet") else None


def _locate(source: str) -> Place:
    if source == "cifar10":
        return _cifar10_archive()
    path = place(source)
    if isinstance(path, Path) and not path.exists():
        raise DataError(
            f"source '{source}' does not exist: give digits, cifar10, "
            f"or the path of a folder, an archive or a Parquet file"
        )
    return path


# ---- digits ----------------------------------------------------------------------------------------------


def _load_digits() -> tuple[UInt8Array, npt.NDArray[np.int32]]:
    """Images uint8 (1797, 8, 8, 3), 0 to 16 scaled to 0 to 255; labels int32 (1797,)."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    grey = ((bunch.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), bunch.target.astype(np.int32)


def _digits() -> Source:
    images, labels = _load_digits()
    _, test_ids = carve(labels, 0.2, seed=0, stream="data/digits/test")
    is_test = np.isin(np.arange(len(labels)), test_ids)
    records = [
        Record("test" if is_test[i] else "train", label, f"digits#{i:04d}") for i, label in enumerate(labels.tolist())
    ]
    return _from_arrays(tuple("0123456789"), records, list(images))


def _from_arrays(classes: tuple[str, ...], records: list[Record], images: list[UInt8Array]) -> Source:
    order = sorted(range(len(records)), key=records.__getitem__)
    return Source(
        classes,
        [records[i] for i in order],
        lambda num_rows: loaded(((position, images[i]) for position, i in enumerate(order)), num_rows),
    )


# ---- CIFAR-10 --------------------------------------------------------------------------------------------


def _cifar10_archive() -> Path:
    """The official archive in the cache folder, downloaded if need be; or its extracted folder there."""
    extracted = cache_dir() / "cifar-10-batches-bin"
    if extracted.is_dir():
        return extracted
    archive = cache_dir() / "cifar-10-binary.tar.gz"
    if archive.exists():
        if _md5(archive) != CIFAR10_MD5:
            raise DataError(f"{archive} is not the official archive or is cut short: remove it, start again")
        return archive
    download = archive.with_name(f".{archive.name}.{uuid.uuid4().hex}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(CIFAR10_URL, timeout=20) as reply, download.open("xb") as file:
            shutil.copyfileobj(reply, file)
        if _md5(download) != CIFAR10_MD5:
            raise OSError("what came does not have the published MD5")
        os.replace(download, archive)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"cifar10 is not in {archive.parent} and could not be downloaded ({reason}): get {CIFAR10_URL} "
            f"and pass it with --set data.source=/path/cifar-10-binary.tar.gz"
        ) from error
    finally:
        with suppress(OSError):
            download.unlink(missing_ok=True)
    return archive


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _cifar(path: Place, tree: Tree) -> Source:
    """The binary layout: 10,000 rows a file, each a label byte and the planes of red, green and blue."""
    classes: tuple[str, ...] = CIFAR10_CLASSES
    records: list[Record] = []
    images: list[UInt8Array] = []
    wanted = {name for name in tree.files if _CIFAR_FILE.fullmatch(PurePosixPath(name).name)}
    batches: dict[str, UInt8Array] = {}
    for name, content in tree.read(wanted):
        short = PurePosixPath(name).name
        if short == "batches.meta.txt":
            classes = tuple(content.decode("utf-8", "replace").split())
        elif not content or len(content) % _CIFAR_ROW_BYTES:
            raise DataError(f"{path}: {name} has {len(content)} bytes, no multiple of {_CIFAR_ROW_BYTES}: get it again")
        else:
            batches[short] = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_ROW_BYTES)
    for short, rows in batches.items():
        split = "test" if short == "test_batch.bin" else "train"
        if (highest := int(rows[:, 0].max())) >= len(classes):
            raise DataError(f"{path}: {short} has label {highest}, but there are {len(classes)} classes")
        images += list(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        records += [Record(split, label, f"{short}#{i:05d}") for i, label in enumerate(rows[:, 0].tolist())]
    return _from_arrays(classes, records, images)


# ---- class folders ---------------------------------------------------------------------------------------


def _class_folders(path: Place, tree: Tree, for_training: bool) -> Source:
    """`train/<class>/…` with `val/` and `test/`, or flat `<class>/…`; also inside of one outer folder."""
    pictures = {name: name.split("/") for name in tree.files if is_picture(name)}
    if not pictures:
        raise DataError(f"{path} holds no pictures: expected train/<class>/*.jpg or <class>/*.jpg")
    depth = _wrapping_folders(list(pictures.values()))
    wrapping = next(iter(pictures.values()))[:depth]
    folders = [parts[depth:] for folder in tree.folders if (parts := folder.split("/"))[:depth] == wrapping]
    tops = {parts[depth] for parts in pictures.values()}
    split_of = {top: split for top in tops if (split := _split_of(top))}
    by_split = tops == split_of.keys() and all(len(p) >= depth + 3 for p in pictures.values())
    if by_split and "train" not in split_of.values() and for_training:
        raise NotForTrainingError(f"{path} has {_listed(tops)} but no train folder with pictures")
    if not by_split and (mixed := {p[depth] for p in pictures.values() if len(p) >= depth + 3} & split_of.keys()):
        others = _listed(tops - split_of.keys()) or "pictures outside of class folders"
        raise DataError(f"{path} mixes {min(mixed)}/<class>/… with {others}: expected only train, val and test")
    if by_split:
        naming = {top for top in tops if split_of[top] == "train"} or tops
        class_names = {class_name(parts[1]) for parts in folders if len(parts) >= 2 and parts[0] in naming}
    else:
        class_names = {class_name(parts[0]) for parts in folders if parts}
    classes = tuple(sorted(class_names))
    label_of = {name: label for label, name in enumerate(classes)}
    records = []
    for name, parts in pictures.items():
        if len(parts) < depth + 2:
            raise DataError(f"{path}: picture '{name}' lies in no class folder: move it to one, or remove it")
        label_name = class_name(parts[depth + 1] if by_split else parts[depth])
        if label_name not in label_of:
            raise DataError(f"{path}: class '{label_name}' of '{name}' is not in train: add it, or remove it")
        split = split_of[parts[depth]] if by_split else "train"
        records.append(Record(split, label_of[label_name], name))
    records.sort()
    if isinstance(tree, FolderTree | RemoteTree):
        return _of_files(classes, records, _for_others(path))

    def portions(num_rows: int) -> Iterator[Portion]:
        index = {record.path: i for i, record in enumerate(records)}
        return loaded(((index[name], content) for name, content in tree.read(index)), num_rows)

    return Source(classes, records, portions)


def _of_files(classes: tuple[str, ...], records: list[Record], root: Place) -> Source:
    """Files are read each for itself, so any of them at any time."""

    def pick(indices: Int64Array) -> Portion:
        return Files(root, tuple(records[i].path for i in indices.tolist()), indices)

    def portions(num_rows: int) -> Iterator[Portion]:
        for first in range(0, len(records), num_rows):
            yield pick(np.arange(first, min(first + num_rows, len(records))))

    return Source(classes, records, portions, pick)


def _wrapping_folders(pictures: list[list[str]]) -> int:
    """How many leading folders all pictures share, beyond the split and class folders."""
    depth = 0
    while True:
        tops = {parts[depth] for parts in pictures}
        deep = all(len(parts) >= depth + 3 for parts in pictures)
        if len(tops) > 1 or not deep or all(map(_split_of, tops)):
            return depth
        depth += 1


def _split_of(folder: str) -> str | None:
    return _SPLIT_OF_FOLDER.get(folder.lower())


def class_name(written: str) -> str:
    """The same name has the same letters, however a file system composes them."""
    return unicodedata.normalize("NFC", written)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5])


# ---- Parquet ---------------------------------------------------------------------------------------------


def _parquet(files: Mapping[Place, str]) -> Source:
    classes, rows = hf_parquet.read_labels(files)
    records = [Record(*row) for row in rows]
    order = sorted(range(len(records)), key=records.__getitem__)
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))

    def portions(num_rows: int) -> Iterator[Portion]:
        begin = 0
        for file in files:
            end = 0
            for first, end in hf_parquet.row_ranges(file, num_rows):
                yield Rows(_for_others(file), first, position[begin + first : begin + end])
            begin += end

    return Source(classes, [records[i] for i in order], portions)
