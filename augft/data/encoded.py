"""Picture files in a packed set as they are: judged when they are packed, decoded where they are augmented.

A shard of such a set is what `lay_out` makes of its pictures, in Parquet's own columns: an index of where each file
begins and ends and of how high and wide its picture is, and the files one after another. A node lays the same down in
its cache, and each process maps it. The mean and deviation, and the plain view of a picture, are those of a set that
stores pixels of the size at which the pictures come out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from augft.data.manifest import EncodedShard, Shard, Split, damaged, rows_digest
from augft.data.picture import BadPictureError, square_and_size, to_pixels, to_rgb
from augft.data.shards import Triple, channel_sums, moments
from augft.errors import DataError
from augft.storage import Place

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

SHARD_BYTES = 64 * 2**20
_ROW_GROUP = 256
_INDEX_BYTES = 4 * 8
"""Of a row: begin, end, height and width, int64."""
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("label", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.binary()),
    ]
)
COLUMNS = list(_SCHEMA.names)


# ---- packing ---------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """A picture file that can be used, and what is to be known of it."""

    content: bytes
    size: tuple[int, int]
    """Height and width, upright."""
    sums: Int64Array
    """int64 (2, 3): of the plain view's red, green and blue, and of their squares."""


def judge(picture: bytes | UInt8Array, image_size: int) -> Judged:
    """Decode a picture file once, to see that it can be.

    Raises:
        BadPictureError: it cannot.
        DataError: it is no file, but pixels.
    """
    if isinstance(picture, np.ndarray):
        raise DataError("the source holds pixels and no picture files: pack it without --encoded (data.store: pixels)")
    pixels, size = square_and_size(picture, image_size)
    return Judged(picture, size, np.array(channel_sums(pixels[None]), np.int64))


class FileScratch:
    """Picture files of all records, one after another as they come, in a file; and what `judge` said of each."""

    def __init__(self, path: Path, num_records: int, image_size: int) -> None:
        self._path, self._image_size = path, image_size
        self._spans = np.zeros((num_records, 2), np.int64)
        self.sizes = np.zeros((num_records, 2), np.int64)
        """int64 (N, 2): height and width, by record."""
        self._sums = np.zeros((num_records, 2, 3), np.int64)
        self._end = 0

    def __enter__(self) -> FileScratch:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, *error: object) -> None:
        self._path.unlink()
        self._file.close()

    def write(self, index: int, judged: Judged) -> None:
        self._file.seek(self._end)
        self._file.write(judged.content)
        self._spans[index] = self._end, self._end + len(judged.content)
        self._end += len(judged.content)
        self.sizes[index], self._sums[index] = judged.size, judged.sums

    def content(self, index: int) -> bytes:
        begin, end = self._spans[index].tolist()
        self._file.seek(begin)
        return self._file.read(end - begin)

    def num_bytes(self, indices: Int64Array) -> Int64Array:
        """int64 (rows,), of the files of some records."""
        lengths: Int64Array = self._spans[indices, 1] - self._spans[indices, 0]
        return lengths

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of the pictures as they come out."""
        return self._image_size, self._image_size, 3

    def write_split(self, folder: Path, name: str, labels: Int64Array, indices: Int64Array) -> Split:
        """Write the shards of a split.

        Args:
            folder: where `<name>-00000.parquet` and so on are made.
            name: of the split.
            labels: int64 (rows,), in the order of sample ids.
            indices: int64 (rows,), which record each row is.

        Raises:
            OSError: a shard could not be written.
        """
        return _write_split(folder, name, labels, self, indices)

    def mean_std(self, indices: Int64Array) -> tuple[Triple, Triple]:
        """Of the plain views of some records."""
        totals, squares = self._sums[indices].sum(0).tolist()
        return moments(len(indices) * self._image_size**2, totals, squares)


def _write_split(folder: Path, name: str, labels: Int64Array, files: FileScratch, indices: Int64Array) -> Split:
    shards: list[EncodedShard] = []
    for first, last in _cuts(files.num_bytes(indices)):
        path = folder / f"{name}-{len(shards):05d}.parquet"
        rows = indices[first:last]
        contents = [files.content(index) for index in rows.tolist()]
        here = labels[first:last].astype(np.int32)
        digest = rows_digest(here)
        digest.update(lay_out(contents, files.sizes[rows]))
        height, width = files.sizes[rows].astype(np.int32).T
        columns = [np.arange(first, last), here, height, width, pa.array(contents, pa.binary())]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=_SCHEMA)
        # Over what a killed packing left. Files of pictures are compressed already.
        with path.open("wb") as file:
            pq.write_table(
                table, file, row_group_size=_ROW_GROUP, compression="none", use_dictionary=False, write_statistics=False
            )
        shards.append(
            EncodedShard(
                file=path.name,
                first_id=first,
                num_rows=last - first,
                num_bytes=path.stat().st_size,
                sha256=digest.hexdigest(),
                picture_bytes=sum(map(len, contents)),
            )
        )
    return Split(num_rows=len(labels), shards=tuple(shards))


def _cuts(lengths: Int64Array) -> list[tuple[int, int]]:
    """First row and end of each shard: as many files as `SHARD_BYTES` have room for, at least one."""
    cuts, first, held = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if row > first and held + length > SHARD_BYTES:
            cuts.append((first, row))
            first, held = row, 0
        held += length
    return [*cuts, (first, len(lengths))]


# ---- reading ---------------------------------------------------------------------------------------------


def lay_out(contents: Sequence[bytes], sizes: Int64Array) -> UInt8Array:
    """Picture files, and int64 (rows, 2) heights and widths, as one array: the index, then the files."""
    lengths = np.array([len(content) for content in contents], np.int64)
    return _with_index(lengths, sizes, np.frombuffer(b"".join(contents), np.uint8))


def _with_index(lengths: Int64Array, sizes: Int64Array, octets: UInt8Array) -> UInt8Array:
    ends = np.cumsum(lengths)
    index = np.column_stack([ends - lengths, ends, sizes]).astype("<i8")
    return np.concatenate([index.reshape(-1).view(np.uint8), octets])


def laid_out_bytes(shard: Shard) -> int:
    """Length of the array of a shard's rows."""
    assert isinstance(shard, EncodedShard)
    return shard.num_rows * _INDEX_BYTES + shard.picture_bytes


def from_table(table: pa.Table, path: Place, shard: Shard) -> UInt8Array:
    """The array that `lay_out` makes, of the columns `COLUMNS` of a shard.

    Raises:
        DataError: they are not such columns.
    """
    image = table["image"].combine_chunks()
    if table.schema.types != _SCHEMA.types or any(column.null_count for column in table.columns):
        raise damaged(path, f"shard {shard.file} does not hold picture files")
    _, offsets, octets = image.buffers()
    edges = np.frombuffer(offsets, np.int32)[image.offset : image.offset + len(image) + 1].astype(np.int64)
    sizes = np.column_stack([table["height"].to_numpy(), table["width"].to_numpy()]).astype(np.int64)
    laid_out = _with_index(np.diff(edges), sizes, np.frombuffer(octets, np.uint8)[edges[0] : edges[-1]])
    if len(laid_out) != laid_out_bytes(shard):
        raise damaged(path, f"shard {shard.file} has not as many bytes of pictures as the manifest says")
    return laid_out


class EncodedPicture(NamedTuple):
    """A picture file of a packed set."""

    content: UInt8Array
    height: int
    """Of the whole picture, upright, in pixels."""
    width: int
    name: str
    """What to call it in messages."""
    path: Place
    """Of the set."""

    def plain(self, image_size: int) -> UInt8Array:
        """What a set of pixels stores: the central square, resampled to uint8 (S, S, 3).

        Raises:
            DataError: it cannot be decoded.
        """
        try:
            return to_pixels(self.content.tobytes(), image_size)
        except BadPictureError as error:
            raise damaged(self.path, f"{self.name} {error}") from error

    def rgb(self, shrink: float) -> tuple[Image.Image, int]:
        """The whole picture, upright, and by which whole number its sides were divided and rounded up.

        Args:
            shrink: pixels that become one; they are averaged as far as whole numbers go. Where the file lies on its
                side, what is left over of its last row and column is counted at the other end: less than a pixel.

        Raises:
            DataError: it cannot be decoded, or has another size than when it was packed.
        """
        # Rounded up, so that no JPEG comes smaller than wanted.
        least = int(-(-min(self.height, self.width) // max(1.0, shrink)))
        try:
            image = to_rgb(self.content.tobytes(), max(1, least))
        except BadPictureError as error:
            raise damaged(self.path, f"{self.name} {error}") from error
        for divisor in (1, 2, 4, 8):
            if image.size == (-(-self.width // divisor), -(-self.height // divisor)):
                break
        else:
            raise damaged(self.path, f"{self.name} is not {self.width}x{self.height} any more, but {image.size}")
        if (rest := int(shrink / divisor)) > 1:
            rest = min(rest, *image.size)
            image, divisor = image.reduce(rest), divisor * rest
        return image, divisor


def pictures_of(
    laid_out: UInt8Array, rows: Int64Array, num_rows: int, names: list[str], path: Place
) -> list[EncodedPicture]:
    """Some rows of a shard, by what `lay_out` made of all its `num_rows`."""
    index = laid_out[: num_rows * _INDEX_BYTES].view("<i8").reshape(num_rows, 4)
    octets = laid_out[num_rows * _INDEX_BYTES :]
    return [
        EncodedPicture(octets[begin:end], height, width, name, path)
        for (begin, end, height, width), name in zip(index[rows].tolist(), names, strict=True)
    ]


def plain_views(pictures: Sequence[EncodedPicture], image_size: int) -> UInt8Array:
    """Plain views, uint8 (B, S, S, 3), made by as many threads as this process was given CPUs.

    Raises:
        DataError: a picture cannot be decoded.
    """
    views = np.empty((len(pictures), image_size, image_size, 3), np.uint8)

    def put(row: int) -> None:
        views[row] = pictures[row].plain(image_size)

    given = os.environ.get("OMP_NUM_THREADS", "")  # which Ray sets for its workers
    num_threads = int(given) if given.isdecimal() else os.cpu_count() or 1
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        for _ in pool.map(put, range(len(pictures))):
            pass
    return views
