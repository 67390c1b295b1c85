"""Parquet files with a column of pictures, as Hugging Face's `datasets` writes them; packed sets of augft."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from augft.data import hf_parquet
from augft.data.packed import PackedDataset, open_packed, set_files
from augft.data.picture import to_pixels
from augft.errors import DataError
from augft.prediction.files import table_of
from augft.prediction.listing import UNIT_BYTES
from augft.storage import Place, extend_uri, place

_PARQUET_SCHEMA = pa.schema(
    [
        ("name", pa.large_binary()),
        ("group", pa.int64()),
        ("first", pa.int64()),
        ("num", pa.int64()),
        ("bytes", pa.int64()),
        ("size", pa.int64()),
        ("modified", pa.int64()),
    ]
)
_PACKED_SCHEMA = pa.schema(
    [("split", pa.string()), ("first", pa.int64()), ("num", pa.int64()), ("digest", pa.string())]
)


class ParquetFiles:
    """Parquet files, sorted by name; a row's path is FILE#ROW. Labels are not looked at.

    A row group is read in one go, whatever its size.

    Args:
        where: the folder, or the one file; a path or a URI.
        names: of the files in the folder; none for the one file.
    """

    def __init__(self, where: str, names: tuple[str, ...]) -> None:
        self.where = where
        self._names = names

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetFiles, (self.where, ())

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        for name in sorted(self._names) or [""]:
            size, modified = set_files(self._file(name)).stamp()
            with hf_parquet.opened(self._file(name)) as parquet:
                hf_parquet.image_column(self._file(name), parquet.schema_arrow)
                groups = [parquet.metadata.row_group(number) for number in range(parquet.metadata.num_row_groups)]
                sizes = [(group.num_rows, group.total_byte_size) for group in groups]
            start = 0
            for number, (num_rows, num_bytes) in enumerate(sizes):
                step = max(1, min(max_rows, UNIT_BYTES * num_rows // max(1, num_bytes)))
                for first in range(start, start + num_rows, step):
                    num = min(step, start + num_rows - first)
                    row = ([os.fsencode(name)], [number], [first], [num], [num_bytes], [size], [modified])
                    yield pa.RecordBatch.from_arrays([pa.array(cell) for cell in row], schema=_PARQUET_SCHEMA)
                start += num_rows

    def count(self, unit: pa.RecordBatch) -> int:
        """See `Source`."""
        return int(unit["num"][0].as_py())

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """See `Source`."""
        return bool(before["name"][0] == unit["name"][0] and before["group"][0] == unit["group"][0])

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """See `Source`."""
        spans = [
            (unit["first"][0].as_py(), unit["num"][0].as_py(), os.fsdecode(unit["name"][0].as_py())) for unit in units
        ]
        if not spans:
            return
        row, _, name = spans[0]
        shown_name = name or Path(self.where.partition("?")[0]).name
        images = hf_parquet.read_images(self._file(name), row, spans[-1][0] + spans[-1][1])
        for first, num, _ in spans:
            for _ in islice(images, first - row):  # of units that are done
                pass
            contents = list(islice(images, num))
            row = first + num
            if len(contents) != num:
                raise DataError(f"{self._file(name)} is not what it was when it was listed; start again with --force")
            names = pa.array([os.fsencode(f"{shown_name}#{number:09d}") for number in range(first, row)])
            yield table_of(names, contents)

    def _file(self, name: str) -> Place:
        root = place(self.where)
        if not name:
            return root
        return root / name if isinstance(root, Path) else extend_uri(root, f"/{name}")


class Packed:
    """A packed set: its splits, sorted by name, and in each the sample ids in order.

    Args:
        where: a path or a URI.
        picture_size: side of the squares that are wanted.
    """

    def __init__(self, where: str, picture_size: int) -> None:
        self.where = where
        self._picture_size = picture_size

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        manifest = open_packed(self.where).manifest
        for name in sorted(manifest.splits):
            num_rows = manifest.splits[name].num_rows
            for first in range(0, num_rows, max_rows):
                row = ([name], [first], [min(max_rows, num_rows - first)], [manifest.digest])
                yield pa.RecordBatch.from_arrays([pa.array(cell) for cell in row], schema=_PACKED_SCHEMA)

    def count(self, unit: pa.RecordBatch) -> int:
        """See `Source`."""
        return int(unit["num"][0].as_py())

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """See `Source`."""
        return False

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """See `Source`."""
        for unit in units:
            split, first, num = (unit[name][0].as_py() for name in ("split", "first", "num"))
            ids = np.arange(first, first + num)
            images, _ = _open(self.where).split(split).gather(ids)
            pixels = [to_pixels(image, self._picture_size).tobytes() for image in images]
            yield pa.table(
                {
                    "split": pa.array([split] * num, pa.string()),
                    "sample_id": pa.array(ids),
                    "pixels": pa.array(pixels, pa.large_binary()),
                    "reason": pa.nulls(num, pa.string()),
                }
            )


@lru_cache(maxsize=1)
def _open(where: str) -> PackedDataset:
    """A process opens a set once, not for each unit."""
    return open_packed(where)
