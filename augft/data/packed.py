"""Read a packed data set: what it holds (manifest) and rows by sample id (gather).

A set lies in a folder, or on object storage under a URI. Parquet is what is kept and shipped; it is no format for
random rows. So a shard is decoded once per node, checked against its digest, and laid down as plain pixels under
`$AUGFT_CACHE/raw/` (`~/.cache/augft/raw/`, bounded: see `node_cache`), where all processes of the node map it into
memory. Where that is not possible, each process holds its own copy.

Of a set of picture files (`encoded`) a shard's files are laid down as they are, and rows are decoded when asked for.

A process keeps all shards that it has mapped, or, of a set that is read in windows, those that it works on and those
that it will want soon (`held`): the node's cache can then let go of the others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augft.data.encoded import COLUMNS, EncodedPicture, from_table, laid_out_bytes, pictures_of, plain_views
from augft.data.held import Held
from augft.data.manifest import MANIFEST, Shard, damaged, is_manifest, read_manifest, rows_digest
from augft.data.node_cache import env_max_bytes, shared_array
from augft.errors import DataError
from augft.storage import Storage, place, reason

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

T = TypeVar("T")

_PIXEL_COLUMNS = ["sample_id", "label", "image"]
RETRY_S = 60.0
"""For how long a set is waited for while its storage fails."""


def cache_dir() -> Path:
    """`$AUGFT_CACHE`, or `~/.cache/augft`."""
    return Path(os.environ.get("AUGFT_CACHE") or "~/.cache/augft").expanduser()


def set_files(path: str | Path) -> Storage:
    """The files of a packed set, or of where one shall be."""
    return Storage(path, retry_s=RETRY_S, on_retry=logging.getLogger("augft").warning)


def is_packed(path: str | Path) -> bool:
    """Whether there is a packed data set at a path or URI.

    Raises:
        StorageError: it cannot be told.
    """
    files = set_files(path)
    return files.exists(MANIFEST) and is_manifest(files.read(MANIFEST))


def open_packed(path: str | Path, *, in_windows: bool = False) -> PackedDataset:
    """Open a packed data set by its path or URI; reads the manifest and looks at the size of each shard.

    Args:
        path: of the set.
        in_windows: hold few of its shards at a time, as `PackedSplit.expect` says.

    Raises:
        DataError: there is none, or manifest and shards do not belong together.
        StorageError: its storage fails.
    """
    return PackedDataset(path, in_windows)


class PackedDataset:
    """A packed data set. Pickles as its path, and is opened anew where it arrives."""

    def __init__(self, path: str | Path, in_windows: bool = False) -> None:
        self.path = place(path)
        self.in_windows = in_windows
        self.files = set_files(path)
        self.manifest = read_manifest(self.path, self.files)
        sizes = self.files.sizes()
        for split in self.manifest.splits.values():
            for shard in split.shards:
                size = sizes.get(shard.file)
                if size is None:
                    raise damaged(self.path, f"shard {shard.file} is missing")
                if size != shard.num_bytes:
                    raise damaged(self.path, f"shard {shard.file} has {size} bytes instead of {shard.num_bytes}")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        return tuple(sorted(self.manifest.splits))

    def has(self, split: str) -> bool:
        return split in self.manifest.splits

    def split(self, name: str) -> PackedSplit:
        """Rows of a split.

        Raises:
            DataError: there is no such split.
        """
        if not self.has(name):
            raise DataError(f"{self.path} has no split '{name}': it has {', '.join(self.splits)}")
        return PackedSplit(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedDataset, (self.path, self.in_windows)


class PackedSplit:
    """One split of a packed data set: rows by sample id."""

    def __init__(self, dataset: PackedDataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self._shards = dataset.manifest.splits[name].shards
        self._first_ids = np.array([shard.first_id for shard in self._shards], np.int64)
        self._arrays: dict[int, UInt8Array] = {}
        self._held: Held | None = None
        if dataset.in_windows:
            self._held = Held(
                lambda number: _laid_down(dataset, self._shards[number]),
                lambda number: prod(_shape(dataset, self._shards[number])),
                env_max_bytes(),
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedSplit, (self.dataset, self.name)

    @property
    def num_rows(self) -> int:
        return self.dataset.manifest.splits[self.name].num_rows

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each picture, as `gather` gives it."""
        return self.dataset.manifest.image_shape

    @property
    def num_bytes(self) -> int:
        """Of all its shards as a node lays them down."""
        return sum(prod(_shape(self.dataset, shard)) for shard in self._shards)

    @cached_property
    def labels(self) -> Int32Array:
        """int32 (N,), the label of each sample id. Raises DataError as `gather` does."""
        labels = np.concatenate([_labels(self.dataset, shard) for shard in self._shards])
        labels.flags.writeable = False
        return labels

    @property
    def first_ids(self) -> Int64Array:
        """int64 (S,): the sample id that each shard begins with, ascending."""
        return self._first_ids

    def expect(self, now: Int64Array, soon: Int64Array) -> None:
        """Say which samples will be gathered next and which after those: their shards are loaded beforehand.

        Args:
            now, soon: int64, any sample ids, in the order in which they will be wanted.
        """
        if self._held is not None:
            self._held.expect(self._shards_of(now).tolist(), self._shards_of(soon).tolist())

    def gather(self, sample_ids: Int64Array) -> tuple[UInt8Array, Int32Array]:
        """Rows by sample id.

        Args:
            sample_ids: int64 (B,), 0 to num_rows - 1, in any order, repeated at will.

        Returns:
            Images uint8 (B, H, W, 3), a copy of its own, of picture files their plain views; and labels int32 (B,).

        Raises:
            DataError: an id is out of range, or a shard is damaged.
        """
        ids = self._checked(sample_ids)
        if self.dataset.manifest.encoded:
            return plain_views(self.pictures(ids), self.image_shape[0]), self.labels[ids]
        shard_of = self._shards_of(ids)
        touched = np.unique(shard_of).tolist()
        if len(touched) == 1:
            return self._shard(touched[0]).take(ids - self._first_ids[touched[0]], axis=0), self.labels[ids]
        images = np.empty((len(ids), *self.dataset.manifest.image_shape), np.uint8)
        for number in touched:
            rows = np.flatnonzero(shard_of == number)
            images[rows] = self._shard(number)[ids[rows] - self._first_ids[number]]
        return images, self.labels[ids]

    def pictures(self, sample_ids: Int64Array) -> list[EncodedPicture]:
        """The picture files of some samples, of a set that has such. Arguments and errors as `gather`."""
        ids = self._checked(sample_ids)
        found: dict[int, EncodedPicture] = {}
        shard_of = self._shards_of(ids)
        for number in np.unique(shard_of).tolist():
            places = np.flatnonzero(shard_of == number)
            names = [f"sample {sample_id} of '{self.name}'" for sample_id in ids[places].tolist()]
            shard = self._shards[number]
            pictures = pictures_of(
                self._shard(number), ids[places] - shard.first_id, shard.num_rows, names, self.dataset.path
            )
            found.update(zip(places.tolist(), pictures, strict=True))
        return [found[place] for place in range(len(ids))]

    def _checked(self, sample_ids: Int64Array) -> Int64Array:
        ids = np.asarray(sample_ids, np.int64)
        if ids.size and not 0 <= (worst := int(ids.min() if ids.min() < 0 else ids.max())) < self.num_rows:
            raise DataError(f"sample id {worst} is not in 0 to {self.num_rows - 1} of '{self.name}'")
        return ids

    def _shards_of(self, sample_ids: Int64Array) -> Int64Array:
        shards: Int64Array = np.searchsorted(self._first_ids, sample_ids, side="right") - 1
        return shards

    def _shard(self, number: int) -> UInt8Array:
        """A shard's pixels, uint8 (rows, H, W, 3), or what `lay_out` makes of its files; mostly memory-mapped."""
        if self._held is not None:
            return self._held.get(number)
        if number not in self._arrays:
            self._arrays[number] = _laid_down(self.dataset, self._shards[number])
        return self._arrays[number]


def _laid_down(dataset: PackedDataset, shard: Shard) -> UInt8Array:
    target = cache_dir() / "raw" / f"{shard.sha256}.npy"
    return shared_array(target, _shape(dataset, shard), np.uint8, lambda: _decode_shard(dataset, shard))


def _shape(dataset: PackedDataset, shard: Shard) -> tuple[int, ...]:
    if dataset.manifest.encoded:
        return (laid_out_bytes(shard),)
    return (shard.num_rows, *dataset.manifest.image_shape)


def _labels(dataset: PackedDataset, shard: Shard) -> Int32Array:
    def read() -> Int32Array:
        column: Int32Array = (
            _read(dataset, shard, ["label"], lambda parquet: parquet.read(columns=["label"]))["label"]
            .to_numpy()
            .astype(np.int32)
        )
        return column

    if dataset.files.local:
        labels = read()
    else:  # they lie between the pixels, a request for each row group
        labels = shared_array(cache_dir() / "raw" / f"{shard.sha256}.labels.npy", (shard.num_rows,), np.int32, read)
    if labels.min() < 0 or labels.max() >= len(dataset.manifest.classes):
        raise damaged(
            dataset.path,
            f"shard {shard.file} has label {labels.min() if labels.min() < 0 else labels.max()}, "
            f"the manifest {len(dataset.manifest.classes)} classes",
        )
    return labels


def _read(dataset: PackedDataset, shard: Shard, columns: list[str], use: Callable[[pq.ParquetFile], T]) -> T:
    """Use a shard's file, again where its storage fails; columns and rows are those of the manifest."""
    files = dataset.files

    def once() -> T:
        with files.open(shard.file) as file:
            parquet = pq.ParquetFile(file, pre_buffer=not files.local)
            names, num_rows = parquet.schema_arrow.names, parquet.metadata.num_rows
            if not set(columns) <= set(names) or num_rows != shard.num_rows:
                raise damaged(
                    dataset.path,
                    f"shard {shard.file} has {num_rows} rows of {names}, "
                    f"the manifest says {shard.num_rows} of {columns}",
                )
            return use(parquet)

    try:
        return files.attempt("read", shard.file, once)
    except (OSError, pa.ArrowException) as error:
        raise damaged(dataset.path, f"shard {shard.file} cannot be read ({reason(error)})") from error


def _decode_shard(dataset: PackedDataset, shard: Shard) -> UInt8Array:
    """Parquet to what a node lays down; checked against the shard's digest."""
    if dataset.manifest.encoded:
        table = _read(dataset, shard, COLUMNS, lambda parquet: parquet.read(columns=COLUMNS))
        array = from_table(table, dataset.path, shard)
        ids, labels = table["sample_id"].to_numpy(), table["label"].to_numpy()
    else:
        ids, labels, array = _read(dataset, shard, _PIXEL_COLUMNS, lambda parquet: _pixels(parquet, dataset, shard))
    if not np.array_equal(ids - shard.first_id, np.arange(shard.num_rows)):
        raise damaged(dataset.path, f"sample ids of shard {shard.file} are not dense from {shard.first_id}")
    digest = rows_digest(labels)
    digest.update(array)
    if digest.hexdigest() != shard.sha256:
        raise damaged(dataset.path, f"the rows of shard {shard.file} do not have the manifest's digest")
    return array


def _pixels(parquet: pq.ParquetFile, dataset: PackedDataset, shard: Shard) -> tuple[Int64Array, Int32Array, UInt8Array]:
    """Sample ids, labels and pixels, uint8 (rows, H, W, 3).

    Row group by row group: to read it whole, Parquet takes some 15 bytes for each of a pixel's.
    """
    shape = _shape(dataset, shard)
    pixels = np.empty(shape, np.uint8)
    ids, labels = np.empty(shard.num_rows, np.int64), np.empty(shard.num_rows, np.int32)
    first = 0
    for number in range(parquet.num_row_groups):
        table = parquet.read_row_group(number, columns=_PIXEL_COLUMNS)
        rows = slice(first, first + table.num_rows)
        first = rows.stop
        ids[rows], labels[rows] = table["sample_id"].to_numpy(), table["label"].to_numpy()
        try:
            flat = table["image"].combine_chunks().storage.flatten().to_numpy(zero_copy_only=True)
            pixels[rows] = flat.reshape(-1, *shape[1:])
        except (AttributeError, ValueError, pa.ArrowException) as error:
            raise damaged(dataset.path, f"shard {shard.file} does not hold images of shape {shape}") from error
    return ids, labels, pixels
