"""Parts of a packed set in the making: decoded pixels of some records, and finished shards.

Each part is made by a job that any process can do, is written under its own name, and then noted. A note tells what
there is, so a pack that broke off goes on with what is noted; a job that is done twice writes the same bytes twice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from augft.data.manifest import Shard, rows_digest
from augft.data.packed import set_files
from augft.data.picture import BadPictureError, to_pixels
from augft.data.portions import Picture, Portion
from augft.data.shards import channel_sums, shard_parquet
from augft.data.tree import read_files
from augft.storage import Storage, extend_uri

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
Example = tuple[int, Shape]
"""Index of a record, and the height, width and 3 of its picture."""

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


# ---- pixels of some records ------------------------------------------------------------------------------


class PixelsNote(BaseModel):
    """What became of a portion's records."""

    name: str
    rejected: dict[int, str] = {}
    """The reason why, by index of record, of those that could not be decoded."""
    differing: Example | None = None
    """One whose size is not that of the others."""


@dataclass(frozen=True)
class PixelsJob:
    """Decode a portion to plain pixels: rows in its order, zeros where one was rejected."""

    site: Site
    name: str
    portion: Portion
    image_size: int | None
    example: Example

    def __call__(self, pieces: Executor | None) -> PixelsNote:
        decoded = _decode(self.portion, self.image_size, self.example, pieces)
        note = PixelsNote(name=self.name, rejected=decoded.rejected, differing=decoded.differing)
        if note.differing is None:
            files = self.site.files()
            files.write(f"{self.site.notes}/{self.name}", decoded.pixels.tobytes())
            files.write(f"{self.site.notes}/{self.name}.json", note.model_dump_json().encode())
        return note


@dataclass
class Laid:
    """Where the pixels of records lie among parts."""

    site: Site
    shape: Shape
    parts: Int32Array
    """int32 (N,): number of the part, by index of record."""
    rows: Int32Array
    """int32 (N,): row within it."""

    @classmethod
    def of(cls, site: Site, shape: Shape, num_records: int) -> Laid:
        return cls(site, shape, np.zeros(num_records, np.int32), np.zeros(num_records, np.int32))

    @staticmethod
    def name(part: int) -> str:
        return f"pixels-{part:06d}"

    def put(self, part: int, indices: Int64Array) -> None:
        """Say that a part holds these records."""
        self.parts[indices] = part
        self.rows[indices] = np.arange(len(indices))

    def pick(self, indices: Int64Array) -> LaidPixels:
        return LaidPixels(self.site, self.shape, self.parts[indices], self.rows[indices])


@dataclass(frozen=True)
class LaidPixels:
    """Pixels of some records, to be read from the parts that hold them."""

    site: Site
    shape: Shape
    parts: Int32Array
    rows: Int32Array

    def read(self) -> UInt8Array:
        """uint8 (rows, H, W, 3), a copy of its own.

        Raises:
            StorageError: a part cannot be read.
        """
        files, row_bytes = self.site.files(), math.prod(self.shape)
        pixels = np.empty((len(self.rows), row_bytes), np.uint8)
        ranges = list(self._ranges())

        def fetch(part: int, first: int, places: Int64Array) -> None:
            name = f"{self.site.notes}/{Laid.name(part)}"

            def once() -> bytes:
                with files.open(name) as file:
                    content: bytes = file.read_at(len(places) * row_bytes, first * row_bytes)
                return content

            pixels[places] = np.frombuffer(files.attempt("read", name, once), np.uint8).reshape(-1, row_bytes)

        if files.local:
            mapped = {
                part: np.memmap(Path(files.uri, self.site.notes, Laid.name(part)), np.uint8, "r").reshape(-1, row_bytes)
                for part in np.unique(self.parts).tolist()
            }
            for part, first, places in ranges:
                pixels[places] = mapped[part][first : first + len(places)]
        else:
            with ThreadPoolExecutor(_FETCHES, thread_name_prefix="ranges") as pool:
                for _ in pool.map(lambda each: fetch(*each), ranges):
                    pass
        return pixels.reshape(-1, *self.shape)

    def _ranges(self) -> Iterator[tuple[int, int, Int64Array]]:
        """(part, first row, where they go) of rows that lie one after another."""
        order = np.lexsort((self.rows, self.parts))
        parts, rows = self.parts[order], self.rows[order]
        cuts = np.flatnonzero((np.diff(parts) != 0) | (np.diff(rows) != 1)) + 1
        for places in np.split(order, cuts):
            if len(places):
                yield int(self.parts[places[0]]), int(self.rows[places[0]]), places


# ---- shards ----------------------------------------------------------------------------------------------


class ShardNote(BaseModel):
    """A finished shard, or why there is none."""

    file: str
    num_rows: int
    shard: Shard | None = None
    sums: tuple[list[int], list[int]] = ([], [])
    """Of red, green and blue: sum of the values and of their squares."""
    rejected: dict[int, str] = {}
    differing: Example | None = None


@dataclass(frozen=True)
class ShardJob:
    """Make a shard of pictures that are decoded here, or of pixels that lie among parts."""

    site: Site
    file: str
    first_id: int
    labels: Int32Array
    pictures: Portion | LaidPixels
    image_size: int | None
    example: Example

    def __call__(self, pieces: Executor | None) -> ShardNote:
        if isinstance(self.pictures, LaidPixels):
            pixels = self.pictures.read()
        else:
            decoded = _decode(self.pictures, self.image_size, self.example, pieces)
            if decoded.rejected or decoded.differing is not None:
                return ShardNote(
                    file=self.file,
                    num_rows=len(self.labels),
                    rejected=decoded.rejected,
                    differing=decoded.differing,
                )
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
        note = ShardNote(file=self.file, num_rows=len(self.labels), shard=shard, sums=channel_sums(pixels))
        files = self.site.files()
        files.write(self.file, content)
        files.write(f"{self.site.notes}/{self.file}.json", note.model_dump_json().encode())
        return note


# ---- decoding --------------------------------------------------------------------------------------------


@dataclass
class _Decoded:
    pixels: UInt8Array
    rejected: dict[int, str] = field(default_factory=dict)
    differing: Example | None = None


def _decode(portion: Portion, image_size: int | None, example: Example, pieces: Executor | None) -> _Decoded:
    """Pixels uint8 (rows, H, W, 3) of a portion; as far as the first that differs from the example in size."""
    decoded = _Decoded(np.zeros((len(portion.indices), *example[1]), np.uint8))
    made = _made(portion.read(), image_size, pieces)
    for row, (index, pixels) in enumerate(zip(portion.indices.tolist(), made, strict=True)):
        if isinstance(pixels, str):
            decoded.rejected[index] = pixels
        elif pixels.shape != example[1]:
            height, width, _ = pixels.shape
            decoded.differing = index, (height, width, 3)
            break
        else:
            decoded.pixels[row] = pixels
    return decoded


def _made(pictures: Iterable[Picture], image_size: int | None, pieces: Executor | None) -> Iterator[UInt8Array | str]:
    """Pixels of each picture in order, or why there are none; by the executor, a few pieces ahead."""
    if pieces is None:
        yield from (_pixels(picture, image_size) for picture in pictures)
        return
    pending: deque[Future[list[UInt8Array | str]]] = deque()
    coming = iter(pictures)
    while piece := list(islice(coming, _PIECE)):
        pending.append(pieces.submit(lambda some: [_pixels(picture, image_size) for picture in some], piece))
        if len(pending) > _FETCHES:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _pixels(picture: Picture, image_size: int | None) -> UInt8Array | str:
    try:
        return to_pixels(picture, image_size)
    except BadPictureError as error:
        return str(error)
