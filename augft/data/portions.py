"""Records of a source that are read together: what travels to where they are decoded.

A portion pickles, knows nothing of the other records, and reads the same wherever the source is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from augft.data.hf_parquet import read_images
from augft.data.tree import read_files
from augft.storage import Place

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Picture = bytes | UInt8Array
"""A picture file's bytes, or uint8 (H, W, 3)."""

_LOADED_BYTES = 16 * 2**20


class Portion(Protocol):
    """Some records, and how to read them."""

    @property
    def indices(self) -> Int64Array:
        """int64 (rows,), of the records, in the order in which they are read."""
        ...

    def read(self) -> Iterator[Picture]:
        """The picture of each."""
        ...


@dataclass(frozen=True)
class Files:
    """Files below a folder or a URI."""

    root: Place
    names: tuple[str, ...]
    indices: Int64Array

    def read(self) -> Iterator[Picture]:
        return (content for _, content in read_files(self.root, self.names))


@dataclass(frozen=True)
class Rows:
    """Rows of a Parquet file, from `first` on."""

    file: Place
    first: int
    indices: Int64Array

    def read(self) -> Iterator[Picture]:
        return read_images(self.file, self.first, self.first + len(self.indices))


@dataclass(frozen=True)
class Loaded:
    """Pictures that have been read: those of an archive, which can be read from front to back only."""

    pictures: tuple[Picture, ...]
    indices: Int64Array

    def read(self) -> Iterator[Picture]:
        return iter(self.pictures)


def loaded(pictures: Iterator[tuple[int, Picture]], num_rows: int) -> Iterator[Loaded]:
    """Cut what comes into portions of up to `num_rows` records and 16 MiB, the last picture aside."""
    held: list[tuple[int, Picture]] = []
    num_bytes = 0

    def cut() -> Loaded:
        return Loaded(tuple(picture for _, picture in held), np.array([index for index, _ in held], np.int64))

    for index, picture in pictures:
        held.append((index, picture))
        num_bytes += len(picture) if isinstance(picture, bytes) else picture.nbytes
        if len(held) == num_rows or num_bytes >= _LOADED_BYTES:
            yield cut()
            held, num_bytes = [], 0
    if held:
        yield cut()
