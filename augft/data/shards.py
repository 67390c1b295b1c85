"""Pixels to Parquet shards, and the mean and standard deviation of their channels."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from augft.data.manifest import Shard, Split, rows_digest

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Triple = tuple[float, float, float]

_SHARD_BYTES = 64 * 2**20
_ROW_GROUP_BYTES = 2**20
_MAX_ROW_GROUP = 256

# Parquet holds uint8 as 32-bit integers. A dictionary packs them to 8 bits again: of what was tried (plain,
# delta, byte-stream-split; none, LZ4, Zstandard) it reads fastest, and files are about as large as pixels.
_PARQUET: dict[str, Any] = {
    "use_dictionary": True,
    "compression": "zstd",
    "compression_level": 1,
    "write_statistics": False,
}


def write_split(folder: Path, name: str, labels: Int64Array, pixels: UInt8Array, indices: Int64Array) -> Split:
    """Write the shards of a split.

    Args:
        folder: where `<name>-00000.parquet` and so on are made.
        name: of the split.
        labels: int64 (rows,), in the order of sample ids.
        pixels: uint8 (N, H, W, 3), of all splits.
        indices: int64 (rows,), which of `pixels` each row is.

    Raises:
        OSError: a shard could not be written.
    """
    _, height, width, _ = pixels.shape
    row_bytes = height * width * 3
    group = max(1, min(_MAX_ROW_GROUP, _ROW_GROUP_BYTES // row_bytes))
    rows_per_shard = max(1, _SHARD_BYTES // (row_bytes * group)) * group
    image = pa.fixed_shape_tensor(pa.uint8(), (height, width, 3))
    schema = pa.schema([("sample_id", pa.int64()), ("label", pa.int32()), ("image", image)])
    shards = []
    for number, first in enumerate(range(0, len(labels), rows_per_shard)):
        last = min(first + rows_per_shard, len(labels))
        path = folder / f"{name}-{number:05d}.parquet"
        digest = rows_digest(labels[first:last].astype(np.int32))
        with path.open("xb") as file, pq.ParquetWriter(file, schema, **_PARQUET) as writer:
            for start in range(first, last, group):
                end = min(start + group, last)
                images = np.ascontiguousarray(pixels[indices[start:end]])
                digest.update(images)
                storage = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), row_bytes)
                columns = [
                    pa.array(np.arange(start, end)),
                    pa.array(labels[start:end].astype(np.int32)),
                    pa.ExtensionArray.from_storage(image, storage),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=group)
        shards.append(
            Shard(
                file=path.name,
                first_id=first,
                num_rows=last - first,
                num_bytes=path.stat().st_size,
                sha256=digest.hexdigest(),
            )
        )
    return Split(num_rows=len(labels), shards=tuple(shards))


def mean_std(pixels: UInt8Array, indices: Int64Array) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel, pixels scaled to [0, 1].

    Args:
        pixels: uint8 (N, H, W, 3).
        indices: int64 (rows,), which of them count; at least one.

    Counted in integers, value by value, so exact until the last division and root.
    """
    counts = np.zeros((3, 256), np.int64)
    rows = max(1, _ROW_GROUP_BYTES // math.prod(pixels.shape[1:]))
    for start in range(0, len(indices), rows):
        images = pixels[indices[start : start + rows]]
        for channel in range(3):
            counts[channel] += np.bincount(images[..., channel].reshape(-1), minlength=256)
    means, stds = [], []
    for channel in range(3):
        counted: list[int] = counts[channel].tolist()
        number = sum(counted)
        total = sum(value * count for value, count in enumerate(counted))
        squares = sum(value * value * count for value, count in enumerate(counted))
        means.append(float(Fraction(total, 255 * number)))
        stds.append(math.sqrt(Fraction(number * squares - total * total, (255 * number) ** 2)))
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
