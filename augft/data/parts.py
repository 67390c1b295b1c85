"""Parts of a packed set in the making: what is stored of some records' pictures, and finished shards.

Each part is made by a job that any process can do, is written under its own name, and then noted. A note tells what
there is, so a pack that broke off goes on with what is noted; a job that is done twice writes the same bytes twice.

Here are also the jobs of a set that stores pixels (`Pixels`); those of one that stores picture files are in
`encoded_parts`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from augft.data.manifest import EncodedShard, Shard, rows_digest
from augft.data.packed import set_files
from augft.data.picture import BadPictureError, to_pixels
from augft.data.portions import Picture, Portion
from augft.data.shards import channel_sums, rows_per_shard, shard_parquet
from augft.data.tree import read_files
from augft.data.work import Job
from augft.storage import Storage, extend_uri

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
Example = tuple[int, Shape]
"""Index of a record, and the height, width and 3 of its picture."""

T = TypeVar("T")

PART = "part-"
"""Begins the names of parts."""
_MAX_PART_ROWS = 4096
_PIECE = 32
_FETCHES = 16
"""Ranges that are read from an object store at the same time."""


@dataclass(frozen=True)
class Site:
    """Where a set is made; pickles."""

    place: str
    """Folder or URI of the shards."""
    notes: str
    """Name of a folder below it, of what goes away when the set is whole."""

    def files(self) -> Storage:
        return set_files(self.place)

    def noted(self, kind: str) -> dict[str, bytes]:
        """Content of the notes of a kind, by the name of their part."""
        names = [name for name in self.files().list(self.notes) if name.startswith(kind) and name.endswith(".json")]
        folder = extend_uri(self.place, f"/{self.notes}")
        found = read_files(folder if "://" in folder else Path(folder), names)
        return {name.removesuffix(".json"): content for name, content in found}


# ---- rows of some records --------------------------------------------------------------------------------


class PartNote(BaseModel):
    """What became of a portion's records."""

    name: str
    num_bytes: int = 0
    """Of the part, where there is one."""
    rejected: dict[int, str] = {}
    """The reason why, by index of record, of those that could not be decoded."""
    differing: Example | None = None
    """One whose size is not that of the others: there is no part then."""
    facts: list[list[int]] = []
    """What is to be known of each row beside its bytes, where there is anything."""


def write_part(site: Site, note: PartNote, content: bytes) -> PartNote:
    """Write a part, and then its note."""
    noted = note.model_copy(update={"num_bytes": len(content)})
    files = site.files()
    files.write(f"{site.notes}/{note.name}", content)
    files.write(f"{site.notes}/{note.name}.json", noted.model_dump_json().encode())
    return noted


@dataclass
class Laid:
    """Where the stored bytes of records lie among parts."""

    site: Site
    parts: Int32Array
    """int32 (N,): number of the part, by index of record."""
    begins: Int64Array
    """int64 (N,): the first byte within it."""
    lengths: Int64Array
    """int64 (N,): how many bytes."""

    @classmethod
    def of(cls, site: Site, num_records: int) -> Laid:
        return cls(site, np.zeros(num_records, np.int32), *np.zeros((2, num_records), np.int64))

    @staticmethod
    def name(part: int) -> str:
        return f"{PART}{part:06d}"

    def put(self, part: int, indices: Int64Array, lengths: Int64Array) -> None:
        """Say that a part holds these records, of so many bytes each, one after another."""
        self.parts[indices] = part
        self.begins[indices] = np.cumsum(lengths) - lengths
        self.lengths[indices] = lengths

    def pick(self, indices: Int64Array) -> LaidRows:
        return LaidRows(self.site, self.parts[indices], self.begins[indices], self.lengths[indices])


@dataclass(frozen=True)
class LaidRows:
    """Stored bytes of some records, to be read from the parts that hold them."""

    site: Site
    parts: Int32Array
    begins: Int64Array
    lengths: Int64Array

    def read(self) -> UInt8Array:
        """uint8 (bytes,), row after row, a copy of its own.

        Raises:
            StorageError: a part cannot be read.
        """
        files, ends = self.site.files(), np.cumsum(self.lengths)
        rows = np.empty(int(ends[-1]), np.uint8)

        def put(places: Int64Array, part: UInt8Array, first: int) -> None:
            """Copy rows out of a part's bytes from `first` on."""
            for end, begin, length in zip(
                ends[places].tolist(),
                (self.begins[places] - first).tolist(),
                self.lengths[places].tolist(),
                strict=True,
            ):
                rows[end - length : end] = part[begin : begin + length]

        def fetch(places: Int64Array) -> None:
            """Read rows that lie one after another."""
            name = f"{self.site.notes}/{Laid.name(self.parts[places[0]])}"
            first, num_bytes = int(self.begins[places[0]]), int(self.lengths[places].sum())

            def once() -> bytes:
                with files.open(name) as file:
                    content: bytes = file.read_at(num_bytes, first)
                return content

            put(places, np.frombuffer(files.attempt("read", name, once), np.uint8), first)

        if files.local:
            for part in np.unique(self.parts):
                mapped = np.memmap(Path(files.uri, self.site.notes, Laid.name(part)), np.uint8, "r")
                put(np.flatnonzero(self.parts == part), mapped, 0)
        else:
            with ThreadPoolExecutor(_FETCHES, thread_name_prefix="ranges") as pool:
                for _ in pool.map(fetch, self._ranges()):
                    pass
        return rows

    def _ranges(self) -> Iterator[Int64Array]:
        """Places, int64, of rows that lie one after another in a part."""
        order = np.lexsort((self.begins, self.parts))
        parts, begins = self.parts[order], self.begins[order]
        follows = (np.diff(parts) == 0) & (begins[1:] == begins[:-1] + self.lengths[order][:-1])
        yield from np.split(order, np.flatnonzero(~follows) + 1)


# ---- shards ----------------------------------------------------------------------------------------------


class ShardNote(BaseModel):
    """A finished shard, or why there is none."""

    file: str
    num_rows: int
    shard: EncodedShard | Shard | None = None
    sums: tuple[list[int], list[int]] = ([], [])
    """Of red, green and blue: sum of the values and of their squares."""
    rejected: dict[int, str] = {}
    differing: Example | None = None


def write_shard(site: Site, note: ShardNote, content: bytes) -> ShardNote:
    """Write a shard, and then its note."""
    files = site.files()
    files.write(note.file, content)
    files.write(f"{site.notes}/{note.file}.json", note.model_dump_json().encode())
    return note


# ---- sets of pixels --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """Stores pixels of one size; a `Kind`."""

    site: Site
    image_size: int | None
    example: Example

    @property
    def shape(self) -> Shape:
        """Of each picture."""
        return self.example[1]

    @property
    def part_rows(self) -> int:
        """How many records a part has at most."""
        return min(_MAX_PART_ROWS, rows_per_shard(self.shape))

    def part(self, name: str, portion: Portion) -> Job[PartNote]:
        """Makes the part of a portion."""
        return _PixelsJob(self, name, portion)

    def learn(self, note: PartNote, indices: Int64Array) -> Int64Array:
        """int64 (rows,): bytes of each row of a part."""
        return np.full(len(indices), math.prod(self.shape))

    def cuts(self, indices: Int64Array) -> list[tuple[int, int]]:
        """First row and end of each shard of these rows."""
        step = rows_per_shard(self.shape)
        return [(first, min(first + step, len(indices))) for first in range(0, len(indices), step)]

    def shard(
        self, file: str, first_id: int, labels: Int32Array, indices: Int64Array, pictures: Portion | LaidRows
    ) -> Job[ShardNote]:
        """Makes a shard."""
        return _ShardJob(self, file, first_id, labels, pictures)


@dataclass(frozen=True)
class _PixelsJob:
    """Decode a portion to plain pixels: rows in its order, zeros where one was rejected."""

    kind: Pixels
    name: str
    portion: Portion

    def __call__(self, pieces: Executor | None) -> PartNote:
        decoded = _decode(self.portion, self.kind, pieces)
        note = PartNote(name=self.name, rejected=decoded.rejected, differing=decoded.differing)
        return note if note.differing is not None else write_part(self.kind.site, note, decoded.pixels.tobytes())


@dataclass(frozen=True)
class _ShardJob:
    """Make a shard of pictures that are decoded here, or of pixels that lie among parts."""

    kind: Pixels
    file: str
    first_id: int
    labels: Int32Array
    pictures: Portion | LaidRows

    def __call__(self, pieces: Executor | None) -> ShardNote:
        note = ShardNote(file=self.file, num_rows=len(self.labels))
        if isinstance(self.pictures, LaidRows):
            pixels = self.pictures.read().reshape(-1, *self.kind.shape)
        else:
            decoded = _decode(self.pictures, self.kind, pieces)
            if decoded.rejected or decoded.differing is not None:
                return note.model_copy(update={"rejected": decoded.rejected, "differing": decoded.differing})
            pixels = decoded.pixels
        digest = rows_digest(self.labels)
        digest.update(pixels)
        content = shard_parquet(self.first_id, self.labels, pixels)
        shard = Shard(
            file=self.file,
            first_id=self.first_id,
            num_rows=len(self.labels),
            num_bytes=len(content),
            sha256=digest.hexdigest(),
        )
        note = note.model_copy(update={"shard": shard, "sums": channel_sums(pixels)})
        return write_shard(self.kind.site, note, content)


@dataclass
class _Decoded:
    pixels: UInt8Array
    rejected: dict[int, str] = field(default_factory=dict)
    differing: Example | None = None


def _decode(portion: Portion, kind: Pixels, pieces: Executor | None) -> _Decoded:
    """Pixels uint8 (rows, H, W, 3) of a portion; as far as the first that differs from the example in size."""
    decoded = _Decoded(np.zeros((len(portion.indices), *kind.shape), np.uint8))
    made = each_picture(portion.read(), partial(to_pixels, image_size=kind.image_size), pieces)
    for row, (index, pixels) in enumerate(zip(portion.indices.tolist(), made, strict=True)):
        if isinstance(pixels, str):
            decoded.rejected[index] = pixels
        elif pixels.shape != kind.shape:
            height, width, _ = pixels.shape
            decoded.differing = index, (height, width, 3)
            break
        else:
            decoded.pixels[row] = pixels
    return decoded


# ---- decoding --------------------------------------------------------------------------------------------


def each_picture(
    pictures: Iterable[Picture], use: Callable[[Picture], T], pieces: Executor | None
) -> Iterator[T | str]:
    """What comes of each picture in order, or why it is bad; by the executor, a few pieces ahead.

    Args:
        pictures: in order.
        use: decodes one; raises BadPictureError where it cannot.
        pieces: who does some of them at a time; None: this thread.
    """

    def judged(picture: Picture) -> T | str:
        try:
            return use(picture)
        except BadPictureError as error:
            return str(error)

    if pieces is None:
        yield from map(judged, pictures)
        return
    pending: deque[Future[list[T | str]]] = deque()
    coming = iter(pictures)
    while piece := list(islice(coming, _PIECE)):
        pending.append(pieces.submit(lambda some: list(map(judged, some)), piece))
        if len(pending) > _FETCHES:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()
