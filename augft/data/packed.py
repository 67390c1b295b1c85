"""Read a packed data set: what it holds (manifest) and rows by sample id (gather).

A set lies in a folder, or on object storage under a URI. Parquet is what is kept and shipped; it is no format for
random rows. So a shard is decoded once per node, checked against its digest, and laid down as plain pixels under
`$AUGFT_CACHE/raw/` (`~/.cache/augft/raw/`, bounded: see `node_cache`), where all processes of the node map it into
memory. Where that is not possible, each process holds its own copy.

A process keeps all shards that it has mapped, or, of a set that is read in windows, those that it works on and those
that it will want soon (`held`): the node's cache can then let go of the others.
"""

from __future__ import annotations

import logging
import math
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augft.data.held import Held
from augft.data.manifest import MANIFEST, Shard, damaged, read_manifest, rows_digest
from augft.data.node_cache import env_max_bytes, shared_array
from augft.errors import DataError
from augft.storage import Storage, place, reason

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

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
    return set_files(path).exists(MANIFEST)


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
        self._pixels: dict[int, UInt8Array] = {}
        self._held: Held | None = None
        if dataset.in_windows:
            self._held = Held(lambda number: _pixels(dataset, self._shards[number]), self._shard_bytes, env_max_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedSplit, (self.dataset, self.name)

    @property
    def num_rows(self) -> int:
        return self.dataset.manifest.splits[self.name].num_rows

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of each picture."""
        return self.dataset.manifest.image_shape

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
            Images uint8 (B, H, W, 3), a copy of its own, and labels int32 (B,).

        Raises:
            DataError: an id is out of range, or a shard is damaged.
        """
        ids = np.asarray(sample_ids, np.int64)
        if ids.size and not 0 <= (worst := int(ids.min() if ids.min() < 0 else ids.max())) < self.num_rows:
            raise DataError(f"sample id {worst} is not in 0 to {self.num_rows - 1} of '{self.name}'")
        shard_of = self._shards_of(ids)
        touched = np.unique(shard_of).tolist()
        if len(touched) == 1:
            return self._shard(touched[0]).take(ids - self._first_ids[touched[0]], axis=0), self.labels[ids]
        images = np.empty((len(ids), *self.dataset.manifest.image_shape), np.uint8)
        for number in touched:
            rows = np.flatnonzero(shard_of == number)
            images[rows] = self._shard(number)[ids[rows] - self._first_ids[number]]
        return images, self.labels[ids]

    def _shards_of(self, sample_ids: Int64Array) -> Int64Array:
        shards: Int64Array = np.searchsorted(self._first_ids, sample_ids, side="right") - 1
        return shards

    def _shard_bytes(self, number: int) -> int:
        return self._shards[number].num_rows * math.prod(self.image_shape)

    def _shard(self, number: int) -> UInt8Array:
        """Pixels of a shard, uint8 (rows, H, W, 3), read-only and mostly memory-mapped."""
        if self._held is not None:
            return self._held.get(number)
        if number not in self._pixels:
            self._pixels[number] = _pixels(self.dataset, self._shards[number])
        return self._pixels[number]


def _pixels(dataset: PackedDataset, shard: Shard) -> UInt8Array:
    target = cache_dir() / "raw" / f"{shard.sha256}.npy"
    shape = (shard.num_rows, *dataset.manifest.image_shape)
    return shared_array(target, shape, np.uint8, lambda: _decode_shard(dataset, shard))


def _labels(dataset: PackedDataset, shard: Shard) -> Int32Array:
    def read() -> Int32Array:
        column: Int32Array = _read_columns(dataset, shard, ["label"])["label"].to_numpy().astype(np.int32)
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


def _read_columns(dataset: PackedDataset, shard: Shard, columns: list[str]) -> pa.Table:
    files = dataset.files

    def read() -> pa.Table:
        with files.open(shard.file) as file:
            return pq.ParquetFile(file, pre_buffer=not files.local).read(columns=columns)

    try:
        table = files.attempt("read", shard.file, read)
    except (OSError, pa.ArrowException) as error:
        raise damaged(dataset.path, f"shard {shard.file} cannot be read ({reason(error)})") from error
    if table.column_names != columns or table.num_rows != shard.num_rows:
        raise damaged(
            dataset.path,
            f"shard {shard.file} has {table.num_rows} rows of {table.column_names}, "
            f"the manifest says {shard.num_rows} of {columns}",
        )
    return table


def _decode_shard(dataset: PackedDataset, shard: Shard) -> UInt8Array:
    """Parquet to pixels, uint8 (rows, H, W, 3); checked against the shard's digest."""
    table = _read_columns(dataset, shard, ["sample_id", "label", "image"])
    shape = (shard.num_rows, *dataset.manifest.image_shape)
    try:
        storage = table["image"].combine_chunks().storage
        pixels: UInt8Array = storage.flatten().to_numpy(zero_copy_only=True).reshape(shape)
    except (AttributeError, ValueError, pa.ArrowException) as error:
        raise damaged(dataset.path, f"shard {shard.file} does not hold images of shape {shape}") from error
    if not np.array_equal(table["sample_id"].to_numpy() - shard.first_id, np.arange(shard.num_rows)):
        raise damaged(dataset.path, f"sample ids of shard {shard.file} are not dense from {shard.first_id}")
    digest = rows_digest(table["label"].to_numpy())
    digest.update(pixels)
    if digest.hexdigest() != shard.sha256:
        raise damaged(dataset.path, f"the rows of shard {shard.file} do not have the manifest's digest")
    return pixels
