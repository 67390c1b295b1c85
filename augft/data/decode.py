"""Picture files of a source to one scratch file, each judged, to be packed as they are.

Pictures are decoded in the order in which the source can be read, by a thread for each CPU (Pillow frees the
interpreter while it decodes), and each is put at the place of its record: what comes out depends on no order,
and need not fit into memory.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from augft.data.encoded import FileScratch, Judged, judge
from augft.data.picture import BadPictureError
from augft.data.sources import Source

UInt8Array = npt.NDArray[np.uint8]
Progress = Callable[[int, int | None], None]
Picture = bytes | UInt8Array
Decoded = list[tuple[int, Judged | str]]

_CHUNK_PICTURES, _CHUNK_BYTES = 128, 8 * 2**20


def decode(
    opened: Source,
    scratch: FileScratch,
    image_size: int,
    num_threads: int,
    progress: Progress | None,
) -> dict[int, str]:
    """Judge all records, and put their files into the scratch file.

    Returns:
        The reason why, by index of record, for each picture that could not be decoded.

    Raises:
        DataError: the source cannot be read, or holds pixels and no files.
        OSError: the scratch file cannot be written.
    """
    rejected: dict[int, str] = {}
    num_done, total = 0, len(opened.records)
    pending: deque[Future[Decoded]] = deque()

    def take_oldest() -> None:
        nonlocal num_done
        for index, judged in pending.popleft().result():
            if isinstance(judged, str):
                rejected[index] = judged
            else:
                scratch.write(index, judged)
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


def _decode_chunk(chunk: list[tuple[int, Picture]], image_size: int) -> Decoded:
    decoded: Decoded = []
    for index, picture in chunk:
        try:
            decoded.append((index, judge(picture, image_size)))
        except BadPictureError as error:
            decoded.append((index, str(error)))
    return decoded


def shown(name: str) -> str:
    """A name as it can be printed: file names may hold bytes that are no text, or line ends."""
    return name.encode("unicode_escape", "backslashreplace").decode() if not name.isprintable() else name
