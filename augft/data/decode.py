"""Records to pixels: decode all pictures of a source into one scratch file.

Pictures are decoded in the order in which the source can be read, by a thread for each CPU (Pillow frees the
interpreter while it decodes), and each is put at the place of its record: what comes out depends on no order,
and need not fit into memory.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augft.data.picture import BadPictureError, to_pixels
from augft.data.sources import Source
from augft.errors import DataError

UInt8Array = npt.NDArray[np.uint8]
Progress = Callable[[int, int | None], None]
Picture = bytes | UInt8Array
Decoded = list[tuple[int, UInt8Array | str]]

_CHUNK_PICTURES, _CHUNK_BYTES = 128, 8 * 2**20


class Scratch:
    """Decoded pixels of all records in a file: written in any order, then mapped as uint8 (N, H, W, 3).

    Written by plain writes: a full disk raises there, where it would kill a process that writes to a map.
    """

    def __init__(self, path: Path, source: str, opened: Source) -> None:
        self._path, self._source, self._records = path, source, opened.records
        self._shape: tuple[int, ...] | None = None
        self._first = 0

    def __enter__(self) -> Scratch:
        self._file = self._path.open("w+b")
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # a full disk has raised before, or what was to be written is not wanted
            self._file.close()
        self._path.unlink()

    def write(self, index: int, pixels: UInt8Array) -> None:
        if self._shape is None:
            self._shape, self._first = pixels.shape, index
        if pixels.shape != self._shape:
            shapes = [(self._first, self._shape), (index, pixels.shape)]
            sizes = " and ".join(f"'{shown(self._records[i].path)}' {w}x{h}" for i, (h, w, _) in sorted(shapes))
            raise DataError(
                f"{self._source}: pictures differ in size, {sizes}: give --image-size N (data.image_size in a job)"
            )
        self._file.seek(index * pixels.nbytes)
        self._file.write(pixels.tobytes())

    def pixels(self) -> UInt8Array:
        """All that was written; records that were not are 0."""
        assert self._shape is not None
        self._file.flush()
        self._file.truncate(len(self._records) * math.prod(self._shape))
        return np.memmap(self._path, np.uint8, "r", shape=(len(self._records), *self._shape))


def decode(
    opened: Source, scratch: Scratch, image_size: int | None, num_threads: int, progress: Progress | None
) -> dict[int, str]:
    """Decode all records into the scratch file.

    Returns:
        The reason why, by index of record, for each picture that could not be decoded.

    Raises:
        DataError: the source cannot be read, or its pictures differ in size.
        OSError: the scratch file cannot be written.
    """
    rejected: dict[int, str] = {}
    num_done, total = 0, len(opened.records)
    pending: deque[Future[Decoded]] = deque()

    def take_oldest() -> None:
        nonlocal num_done
        for index, pixels in pending.popleft().result():
            if isinstance(pixels, str):
                rejected[index] = pixels
            else:
                scratch.write(index, pixels)
            num_done += 1
        if progress is not None:
            progress(num_done, total)

    # Pillow warns about odd pictures as it goes; each is judged here, and a thousand warnings help nobody.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_threads) as pool:
        warnings.simplefilter("ignore")
        for chunk in _chunks(opened.read()):
            pending.append(pool.submit(_decode_chunk, chunk, image_size))
            if len(pending) > 2 * num_threads:
                take_oldest()
        while pending:
            take_oldest()
    return rejected


def _chunks(pictures: Iterator[tuple[int, Picture]]) -> Iterator[list[tuple[int, Picture]]]:
    chunk: list[tuple[int, Picture]] = []
    num_bytes = 0
    for index, picture in pictures:
        chunk.append((index, picture))
        num_bytes += len(picture) if isinstance(picture, bytes) else picture.nbytes
        if len(chunk) == _CHUNK_PICTURES or num_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[tuple[int, Picture]], image_size: int | None) -> Decoded:
    decoded: Decoded = []
    for index, picture in chunk:
        try:
            decoded.append((index, to_pixels(picture, image_size)))
        except BadPictureError as error:
            decoded.append((index, str(error)))
    return decoded


def shown(name: str) -> str:
    """A name as it can be printed: file names may hold bytes that are no text, or line ends."""
    return name.encode("unicode_escape", "backslashreplace").decode() if not name.isprintable() else name
