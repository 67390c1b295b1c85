"""Picture files in a packed set as they are: judged when they are packed, decoded where they are augmented.

A shard of such a set is what `lay_out` makes of its pictures, in Parquet's own columns: an index of where each file
begins and ends and of how high and wide its picture is, and the files one after another. A node lays the same down in
its cache, and each process maps it. The mean and deviation, and the plain view of a picture, are those of a set that
stores pixels of the size at which the pictures come out.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from augft.data.manifest import EncodedShard, Shard, damaged
from augft.data.picture import BadPictureError, square_and_size, to_pixels, to_rgb
from augft.data.shards import channel_sums
from augft.errors import DataError
from augft.storage import Place

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
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


def cuts(lengths: Int64Array) -> list[tuple[int, int]]:
    """First row and end of each shard: as many files as `SHARD_BYTES` have room for, at least one."""
    found, first, held = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        if row > first and held + length > SHARD_BYTES:
            found.append((first, row))
            first, held = row, 0
        held += length
    return [*found, (first, len(lengths))]


def files_parquet(
    first_id: int, labels: Int32Array, lengths: Int64Array, sizes: Int64Array, octets: UInt8Array
) -> bytes:
    """The Parquet file of a shard.

    Args:
        first_id: sample id of its first row.
        labels: int32 (rows,).
        lengths: int64 (rows,), bytes of each picture file.
        sizes: int64 (rows, 2), height and width of each picture.
        octets: uint8, the files one after another.
    """
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    height, width = sizes.astype(np.int32).T
    columns = [pa.array(column) for column in (np.arange(first_id, first_id + len(labels)), labels, height, width)]
    columns.append(pa.Array.from_buffers(pa.binary(), len(labels), [None, pa.py_buffer(edges), pa.py_buffer(octets)]))
    table, file = pa.Table.from_arrays(columns, schema=_SCHEMA), io.BytesIO()
    # Files of pictures are compressed already.
    pq.write_table(
        table, file, row_group_size=_ROW_GROUP, compression="none", use_dictionary=False, write_statistics=False
    )
    return file.getvalue()


# ---- reading ---------------------------------------------------------------------------------------------


def lay_out(lengths: Int64Array, sizes: Int64Array, octets: UInt8Array) -> UInt8Array:
    """Picture files as one array: the index, then the files. Arguments as of `files_parquet`."""
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
    laid_out = lay_out(np.diff(edges), sizes, np.frombuffer(octets, np.uint8)[edges[0] : edges[-1]])
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
