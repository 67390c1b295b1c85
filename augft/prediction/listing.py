"""What a source holds, cut into units: some hundred pictures that are read, predicted and written together.

The listing is an Arrow file with one record batch a unit. It lies beside the part files, where each reading task looks
up its own unit; so tasks are a few integers, and the driver holds nothing of millions of names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from augft.data.tree import reading
from augft.errors import StorageError
from augft.storage import Storage, reason

IntArray = npt.NDArray[np.int64]

LISTING = "listing.arrow"
MAX_ROWS, MIN_ROWS = 1024, 16
UNIT_BYTES = 32 * 2**20
"""Of a unit's picture files, and of its pixels, each: what a task holds in memory."""
_CHUNK_ROWS = 2**16


class Source(Protocol):
    """Pictures. Pickles as what it is made from, and is opened anew where it arrives."""

    @property
    def where(self) -> str:
        """As the person named it; absolute, if it is a path."""
        ...

    def units(self, max_rows: int) -> Iterator[pa.RecordBatch]:
        """Each unit's entry of the listing, in order; all of one schema.

        Raises:
            DataError: the source is damaged or hostile.
        """
        ...

    def count(self, unit: pa.RecordBatch) -> int:
        """How many pictures a unit has."""
        ...

    def goes_on(self, before: pa.RecordBatch, unit: pa.RecordBatch) -> bool:
        """Whether a unit is read best by whoever has read the one before, in one go."""
        ...

    def read(self, units: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """A table for each of some units of one go, a row a picture.

        Its columns are those that name a picture (`path`, or `split` and `sample_id`), in a source that is not read in
        its order `rank`, and `content` (a picture file, or null) with `reason` (text where there is none), or `pixels`.

        Raises:
            DataError: the source is not what it was, or is damaged so that nothing can be read.
        """
        ...


@dataclass(frozen=True)
class Catalogue:
    """What a driver keeps of a listing."""

    counts: IntArray
    """int64 (U,), pictures of each unit."""
    starts: IntArray
    """int64, the units with which a go begins."""
    digest: str
    """SHA-256 in hex of the listing."""

    @property
    def num_pictures(self) -> int:
        return int(self.counts.sum())

    def goes(self, done: frozenset[int]) -> list[list[int]]:
        """The units that are not done, by goes."""
        ends = [*self.starts[1:].tolist(), len(self.counts)]
        goes = ([unit for unit in range(*span) if unit not in done] for span in zip(self.starts, ends, strict=True))
        return [units for units in goes if units]


def max_rows(picture_size: int) -> int:
    """How many pictures a unit has at most, by the side of the squares that they become."""
    return int(np.clip(UNIT_BYTES // (3 * picture_size**2), MIN_ROWS, MAX_ROWS))


def write_listing(source: Source, path: Path, rows: int) -> Catalogue:
    """List a source into a file.

    Raises:
        DataError: as `Source.units`, or the source cannot be read.
        StorageError: the file cannot be written.
    """
    counts, starts = [], []
    before: pa.RecordBatch | None = None
    writer: Any = None
    for number, unit in enumerate(_units(source, rows)):
        with _writing(path):
            writer = writer or pa.ipc.new_file(path, unit.schema)
            writer.write_batch(unit)
        counts.append(source.count(unit))
        if before is None or not source.goes_on(before, unit):
            starts.append(number)
        before = unit
    if writer is None:
        return Catalogue(np.zeros(0, np.int64), np.zeros(0, np.int64), "")
    with _writing(path):
        writer.close()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Catalogue(np.array(counts, np.int64), np.array(starts, np.int64), digest)


def _units(source: Source, rows: int) -> Iterator[pa.RecordBatch]:
    """What goes wrong in here is the source's fault, not that of the file that is written meanwhile."""
    with reading(source.where):
        yield from source.units(rows)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {reason(error)}; free some space, or set TMPDIR") from error


def read_listing(storage: Storage, units: Sequence[int]) -> list[pa.RecordBatch]:
    """The entries of some units."""

    def once() -> list[pa.RecordBatch]:
        with storage.open(LISTING) as file, pa.ipc.open_file(file) as listing:
            return [listing.get_batch(unit) for unit in units]

    return storage.attempt("read", LISTING, once)


# ---- what sources of files share -------------------------------------------------------------------------


def as_table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows, gathered a chunk at a time: a million names as Python's own strings would take ten times as much."""
    batches, rows = [], iter(rows)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        batches.append(
            pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*chunk, strict=True)], schema=schema)
        )
    return pa.Table.from_batches(batches, schema)


def by_name(table: pa.Table) -> pa.Table:
    """Sorted by the column `name`."""
    return table.take(pc.sort_indices(table, sort_keys=[("name", "ascending")]))


def cut(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """Units of at most so many rows and, by the column `size`, `UNIT_BYTES`; but one row at least."""
    ends = np.cumsum(table["size"].to_numpy())
    first = 0
    while first < len(ends):
        so_far = ends[first - 1] if first else 0
        last = max(first + 1, min(first + rows, int(np.searchsorted(ends, so_far + UNIT_BYTES, side="right"))))
        yield table.slice(first, last - first).combine_chunks().to_batches()[0]
        first = last
