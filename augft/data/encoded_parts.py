"""Parts and shards of a set that stores picture files as they are.

A part is the files of some records one after another, each judged: decoded once, to see that it can be. How many rows a
shard has depends on how large files are, so shards are cut when all parts are there.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from augft.data.encoded import Judged, cuts, files_parquet, judge, lay_out
from augft.data.manifest import EncodedShard, rows_digest
from augft.data.parts import LaidRows, PartNote, Shape, ShardNote, Site, each_picture, write_part, write_shard
from augft.data.portions import Portion
from augft.data.work import Job

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

_PART_ROWS = 64
"""Files of a camera have some 5 MiB each."""


class PictureFiles:
    """Stores picture files, of any size; a `Kind`.

    Args:
        site: where the set is made.
        image_size: side in pixels of the square that pictures come out at.
        num_records: of the source.
    """

    part_rows = _PART_ROWS

    def __init__(self, site: Site, image_size: int, num_records: int) -> None:
        self.shape: Shape = (image_size, image_size, 3)
        self._site = site
        self._lengths = np.zeros(num_records, np.int64)
        self._sizes = np.zeros((num_records, 2), np.int64)
        self._sums = np.zeros((num_records, 2, 3), np.int64)

    def part(self, name: str, portion: Portion) -> Job[PartNote]:
        """See `Pixels`, as for the others."""
        return _FilesJob(self._site, name, portion, self.shape[0])

    def learn(self, note: PartNote, indices: Int64Array) -> Int64Array:
        facts = np.array(note.facts, np.int64)
        self._lengths[indices], self._sizes[indices] = facts[:, 0], facts[:, 1:3]
        self._sums[indices] = facts[:, 3:].reshape(-1, 2, 3)
        return self._lengths[indices]

    def cuts(self, indices: Int64Array) -> list[tuple[int, int]]:
        return cuts(self._lengths[indices])

    def shard(
        self, file: str, first_id: int, labels: Int32Array, indices: Int64Array, pictures: Portion | LaidRows
    ) -> Job[ShardNote]:
        assert isinstance(pictures, LaidRows)
        totals, squares = self._sums[indices].sum(0).tolist()
        return _ShardJob(self._site, file, first_id, labels, pictures, self._sizes[indices], (totals, squares))


@dataclass(frozen=True)
class _FilesJob:
    """Judge a portion's files, and put those that can be used one after another."""

    site: Site
    name: str
    portion: Portion
    image_size: int

    def __call__(self, pieces: Executor | None) -> PartNote:
        note = PartNote(name=self.name)
        contents: list[bytes] = []
        made = each_picture(self.portion.read(), partial(judge, image_size=self.image_size), pieces)
        for index, judged in zip(self.portion.indices.tolist(), made, strict=True):
            if isinstance(judged, str):
                note.rejected[index] = judged
            else:
                contents.append(judged.content)
            note.facts.append(_facts(judged))
        return write_part(self.site, note, b"".join(contents))


def _facts(judged: Judged | str) -> list[int]:
    """Bytes, height, width, and the six sums; zeros where the picture is bad."""
    if isinstance(judged, str):
        return [0] * 9
    return [len(judged.content), *judged.size, *judged.sums.reshape(-1).tolist()]


@dataclass(frozen=True)
class _ShardJob:
    """Make a shard of files that lie among parts."""

    site: Site
    file: str
    first_id: int
    labels: Int32Array
    pictures: LaidRows
    sizes: Int64Array
    sums: tuple[list[int], list[int]]

    def __call__(self, pieces: Executor | None) -> ShardNote:
        lengths, octets = self.pictures.lengths, self.pictures.read()
        digest = rows_digest(self.labels)
        digest.update(lay_out(lengths, self.sizes, octets))
        content = files_parquet(self.first_id, self.labels, lengths, self.sizes, octets)
        shard = EncodedShard(
            file=self.file,
            first_id=self.first_id,
            num_rows=len(self.labels),
            num_bytes=len(content),
            sha256=digest.hexdigest(),
            picture_bytes=len(octets),
        )
        note = ShardNote(file=self.file, num_rows=len(self.labels), shard=shard, sums=self.sums)
        return write_shard(self.site, note, content)
