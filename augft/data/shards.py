"""Pixels to Parquet shards, and the mean and standard deviation of their channels."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Triple = tuple[float, float, float]

_SHARD_BYTES = 64 * 2**20
_ROW_GROUP_BYTES = 2**20
_MAX_ROW_GROUP = 256

# Parquet holds uint8 as 32-bit integers. Split into streams of bytes, three of the four are zeros, which cost nothing:
# written nearly twice as fast as a dictionary, and files are no larger than pixels (docs/decisions.md, 65).
_PARQUET: dict[str, Any] = {
    "use_dictionary": False,
    "use_byte_stream_split": ["image.list.element"],
    "compression": "zstd",
    "compression_level": 1,
    "write_statistics": False,
}


def rows_per_shard(image_shape: tuple[int, int, int]) -> int:
    """How many pictures of a height, width and 3 a shard holds: whole row groups, about 64 MiB of pixels."""
    row_bytes = math.prod(image_shape)
    group = _rows_per_group(row_bytes)
    return max(1, _SHARD_BYTES // (row_bytes * group)) * group


def shard_parquet(first_id: int, labels: Int32Array, pixels: UInt8Array) -> bytes:
    """The Parquet file of a shard.

    Args:
        first_id: sample id of its first row.
        labels: int32 (rows,).
        pixels: uint8 (rows, H, W, 3).
    """
    num_rows, height, width, _ = pixels.shape
    row_bytes = height * width * 3
    group = _rows_per_group(row_bytes)
    image = pa.fixed_shape_tensor(pa.uint8(), (height, width, 3))
    schema = pa.schema([("sample_id", pa.int64()), ("label", pa.int32()), ("image", image)])
    file = io.BytesIO()
    with pq.ParquetWriter(file, schema, **_PARQUET) as writer:
        for start in range(0, num_rows, group):
            end = min(start + group, num_rows)
            storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels[start:end].reshape(-1)), row_bytes)
            columns = [
                pa.array(np.arange(first_id + start, first_id + end)),
                pa.array(labels[start:end]),
                pa.ExtensionArray.from_storage(image, storage),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=group)
    return file.getvalue()


def _rows_per_group(row_bytes: int) -> int:
    return max(1, min(_MAX_ROW_GROUP, _ROW_GROUP_BYTES // row_bytes))


def channel_sums(pixels: UInt8Array) -> tuple[list[int], list[int]]:
    """Of red, green and blue of uint8 (rows, H, W, 3): the sum of the values, and of their squares; exact."""
    counts = np.zeros((3, 256), np.int64)
    rows = max(1, _ROW_GROUP_BYTES // math.prod(pixels.shape[1:]))
    for start in range(0, len(pixels), rows):
        for channel in range(3):
            counts[channel] += np.bincount(pixels[start : start + rows, ..., channel].reshape(-1), minlength=256)
    values = np.arange(256)
    return (counts @ values).tolist(), (counts @ np.square(values)).tolist()


def moments(number: int, totals: Sequence[int], squares: Sequence[int]) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel, pixels scaled to [0, 1].

    Args:
        number: of pixels; at least one.
        totals, squares: of each channel the sum of its values, 0 to 255, and of their squares.

    Exact until the last division and root.
    """
    means, stds = [], []
    for total, square in zip(totals, squares, strict=True):
        means.append(float(Fraction(total, 255 * number)))
        stds.append(math.sqrt(Fraction(number * square - total * total, (255 * number) ** 2)))
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
