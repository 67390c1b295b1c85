"""A source's records to the shards of a packed set: which rows each split has, who makes which part, and the manifest.

Where any record can be read at any time, none may be left out, and all take the same room, the rows of each shard are
known beforehand: a shard is made in one go, from its pictures. Else pictures are decoded in the order in which the
source can be read, in parts, and shards are put together from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from augft.augment.draw import stream_key
from augft.data.encoded_parts import PictureFiles
from augft.data.manifest import ENCODED_VERSION, FORMAT_VERSION, Manifest, Rejected, Shard, Split, set_digest
from augft.data.parts import PART, Example, Laid, LaidRows, PartNote, Pixels, Shape, ShardNote, Site
from augft.data.permutation import permute
from augft.data.picture import BadPictureError, to_pixels
from augft.data.portions import Portion
from augft.data.shards import moments
from augft.data.sources import NotForTrainingError, Source
from augft.data.split import carve
from augft.data.tree import shown
from augft.data.work import Crew, Job, Progress, all_done
from augft.errors import DataError

Int64Array = npt.NDArray[np.int64]
Say = Callable[[str], None]
SplitRows = dict[str, tuple[Int64Array, Int64Array]]
"""Labels and indices of records, int64 (rows,) both, of each split in the order of sample ids."""


class Kind(Protocol):
    """What a set stores of its pictures, and the jobs that make it: `Pixels` or `PictureFiles`."""

    @property
    def shape(self) -> Shape:
        """Height, width and 3 of each picture, as it is stored or comes out."""
        ...

    @property
    def part_rows(self) -> int:
        """How many records a part has at most."""
        ...

    def part(self, name: str, portion: Portion) -> Job[PartNote]:
        """What makes the part of a portion."""
        ...

    def learn(self, note: PartNote, indices: Int64Array) -> Int64Array:
        """Take to heart what is noted of a part's records.

        Returns:
            int64 (rows,), the bytes of each row.
        """
        ...

    def cuts(self, indices: Int64Array) -> list[tuple[int, int]]:
        """First row and end of each shard of a split that has these records."""
        ...

    def shard(
        self,
        file: str,
        first_id: int,
        labels: npt.NDArray[np.int32],
        indices: Int64Array,
        pictures: Portion | LaidRows,
    ) -> Job[ShardNote]:
        """What makes a shard of these records."""
        ...


@dataclass(frozen=True)
class Options:
    """How a set is packed: see `pack`."""

    image_size: int | None
    val_fraction: float
    seed: int
    on_bad: Literal["fail", "skip"]
    shuffled: bool
    encoded: bool
    for_training: bool = True


@dataclass
class Assembly:
    """A set in the making.

    Args:
        site: where.
        source: as it was given.
        opened: what it holds.
        options: of the packing.
        crew: who does the work.
        progress: called with pictures done and their number.
        say: told in a line what was there already.
    """

    site: Site
    source: str
    opened: Source
    options: Options
    crew: Crew
    progress: Progress | None
    say: Say | None
    _done: int = field(default=0, init=False)

    def make(self, recipe: str) -> Manifest:
        """Make all shards.

        Returns:
            What the manifest will say.

        Raises:
            DataError: the source cannot be used.
            StorageError, OSError: something could not be written; what is done is noted, and will not be done again.
        """
        check_classes(self.source, self.opened, self.options.for_training)
        kind, rejected = self._kind()
        if kind is None:
            refuse_bad(self.source, self.opened, rejected, self.options.on_bad)
            rows_of_splits(self.source, self.opened, rejected, self.options)
            raise AssertionError("a set without a usable picture was let through")
        if self.opened.pick is not None and self.options.on_bad == "fail" and not self.options.encoded:
            rows = rows_of_splits(self.source, self.opened, {}, self.options)
            notes = self._shards(rows, self.opened.pick, kind, 1)
            for note in notes.values():
                rejected |= note.rejected
            refuse_bad(self.source, self.opened, rejected, "fail")
        else:
            laid, rejected = self._parts(kind)
            refuse_bad(self.source, self.opened, rejected, self.options.on_bad)
            rows = rows_of_splits(self.source, self.opened, rejected, self.options)
            notes = self._shards(rows, laid.pick, kind, 2)
        splits: dict[str, list[Shard]] = {name: [] for name in sorted(rows)}
        totals, squares = np.zeros(3, object), np.zeros(3, object)
        measured = measured_split(rows)
        for name in splits:
            for number in range(len(kind.cuts(rows[name][1]))):
                note = notes[_file(name, number)]
                assert note.shard is not None
                splits[name].append(note.shard)
                if name == measured:
                    totals, squares = totals + note.sums[0], squares + note.sums[1]
        height, width, _ = kind.shape
        mean_std = moments(len(rows[measured][0]) * height * width, totals.tolist(), squares.tolist())
        return manifest_of(
            self.source,
            self.opened,
            {name: Split(num_rows=len(rows[name][0]), shards=tuple(shards)) for name, shards in splits.items()},
            mean_std=mean_std,
            shape=kind.shape,
            recipe=recipe,
            rejected=rejected,
            format_version=ENCODED_VERSION if self.options.encoded else FORMAT_VERSION,
        )

    def _kind(self) -> tuple[Kind | None, dict[int, str]]:
        """What is stored; None where no picture is usable. And the reasons of those before the first that is."""
        size = self.options.image_size
        if self.options.encoded:
            assert size is not None
            return PictureFiles(self.site, size, len(self.opened.records)), {}
        rejected: dict[int, str] = {}
        for index, picture in self.opened.read():
            try:
                height, width, _ = to_pixels(picture, size).shape
            except BadPictureError as error:
                rejected[index] = str(error)
            else:
                return Pixels(self.site, size, (index, (height, width, 3))), rejected
        return None, rejected

    def _parts(self, kind: Kind) -> tuple[Laid, dict[int, str]]:
        """Where the rows of all records lie; the reasons of those that are bad."""
        laid = Laid.of(self.site, len(self.opened.records))
        noted = self.site.noted(PART)
        there = self.site.files().sizes(self.site.notes)
        rejected: dict[int, str] = {}
        coming: dict[str, tuple[int, Int64Array]] = {}

        def take(note: PartNote, part: int, indices: Int64Array) -> None:
            laid.put(part, indices, kind.learn(note, indices))
            rejected.update(note.rejected)
            self._count(len(indices), 2)

        def jobs() -> Iterator[Job[PartNote]]:
            for part, portion in enumerate(self.opened.portions(kind.part_rows)):
                name = Laid.name(part)
                note = PartNote.model_validate_json(noted[name]) if name in noted else None
                if note is not None and there.get(name) == note.num_bytes:
                    take(note, part, portion.indices)
                else:
                    coming[name] = part, portion.indices
                    yield kind.part(name, portion)

        for note in all_done(self.crew, jobs()):
            self._check_size(note.differing, kind)
            take(note, *coming.pop(note.name))
        return laid, rejected

    def _shards(
        self, rows: SplitRows, pick: Callable[[Int64Array], Portion | LaidRows], kind: Kind, num_stages: int
    ) -> dict[str, ShardNote]:
        """The note of each shard, by the name of its file."""
        notes: dict[str, ShardNote] = {}
        there = self.site.files().sizes()
        for name, text in self.site.noted("").items():
            if name.endswith(".parquet"):
                note = ShardNote.model_validate_json(text)
                if note.shard is not None and there.get(name) == note.shard.num_bytes:
                    notes[name] = note
        todo, num_kept = [], 0
        for split, (labels, indices) in sorted(rows.items()):
            for number, (first, end) in enumerate(kind.cuts(indices)):
                file = _file(split, number)
                if file in notes:
                    num_kept += end - first
                else:
                    todo.append((file, first, labels[first:end].astype(np.int32), indices[first:end]))
        if num_kept and self.say is not None:
            self.say(f"going on: {num_kept:,} of {len(self.opened.records):,} pictures lie in shards that are done")
        self._count(num_kept, num_stages)
        jobs = (kind.shard(*each, pick(each[-1])) for each in todo)
        for note in all_done(self.crew, jobs):
            self._check_size(note.differing, kind)
            notes[note.file] = note
            self._count(note.num_rows, num_stages)
        return notes

    def _check_size(self, differing: Example | None, kind: Kind) -> None:
        if differing is None:
            return
        assert isinstance(kind, Pixels)
        sizes = " and ".join(
            f"'{shown(self.opened.records[i].path)}' {w}x{h}" for i, (h, w, _) in sorted([differing, kind.example])
        )
        raise DataError(
            f"{self.source}: pictures differ in size, {sizes}: give --image-size N (data.image_size in a job)"
        )

    def _count(self, num_pictures: int, num_stages: int) -> None:
        self._done += num_pictures
        if num_pictures and self.progress is not None:
            self.progress(self._done // num_stages, len(self.opened.records))


def _file(split: str, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


# ---- what the set holds -----------------------------------------------------------------------------------


def manifest_of(
    source: str,
    opened: Source,
    splits: dict[str, Split],
    *,
    mean_std: tuple[tuple[float, float, float], tuple[float, float, float]],
    shape: Shape,
    recipe: str,
    rejected: dict[int, str],
    format_version: int,
) -> Manifest:
    """The manifest of what was made of a source."""
    return Manifest(
        format_version=format_version,
        classes=opened.classes,
        image_shape=shape,
        splits=splits,
        mean=mean_std[0],
        std=mean_std[1],
        digest=set_digest(opened.classes, shape, splits),
        source=shown(source),
        recipe=recipe,
        rejected=tuple(Rejected(path=shown(opened.records[i].path), reason=rejected[i]) for i in sorted(rejected)),
    )


def check_classes(source: str, opened: Source, for_training: bool) -> None:
    """Raises DataError where classes or pictures are missing, or a class has no name to print."""
    if not opened.records:
        raise DataError(f"{source} holds no pictures")
    if len(opened.classes) < 2 and for_training:
        raise NotForTrainingError(f"{source} has one class only, {_listed(opened.classes)}: a classifier needs two")
    for name in opened.classes:
        if not name.isprintable():
            raise DataError(f"{source}: class name '{shown(name)}' is no printable text: rename it")


def refuse_bad(source: str, opened: Source, rejected: dict[int, str], on_bad: Literal["fail", "skip"]) -> None:
    """Raises DataError where pictures are bad and none may be."""
    if rejected and on_bad == "fail":
        first = min(rejected)
        raise DataError(
            f"{source}: picture '{shown(opened.records[first].path)}' {rejected[first]} "
            f"({len(rejected)} bad of {len(opened.records)}): remove it, or use --on-bad skip"
        )


def rows_of_splits(source: str, opened: Source, rejected: dict[int, str], options: Options) -> SplitRows:
    """The rows of each split, without the rejected, with a val that is carved from train, and train shuffled.

    Raises:
        DataError: a split or a class is left empty.
    """
    indices = np.arange(len(opened.records))
    labels = np.array([record.label for record in opened.records], np.int64)
    split_of = np.array([record.split for record in opened.records])
    kept = np.ones(len(indices), bool)
    kept[list(rejected)] = False
    rows = {
        str(name): (labels[kept & (split_of == name)], indices[kept & (split_of == name)]) for name in set(split_of)
    }
    for name in sorted(rows):
        if not len(rows[name][0]):
            raise DataError(f"{source}: no usable picture is left in {name}")
    if not options.for_training:
        return rows
    if "train" not in rows:
        raise NotForTrainingError(f"{source} has no train split, only {', '.join(sorted(rows))}")
    labels, indices = rows["train"]
    counts = np.bincount(labels, minlength=len(opened.classes))
    if not counts.all():
        empty = [opened.classes[i] for i in np.flatnonzero(counts == 0)]
        raise NotForTrainingError(
            f"{source}: class {_listed(empty)} has no usable picture in train: add some, or remove the class"
        )
    if options.val_fraction and "val" not in rows:
        train_ids, val_ids = carve(labels.astype(np.int32), options.val_fraction, options.seed)
        if not len(val_ids):
            raise DataError(f"val_fraction={options.val_fraction} of {source} leaves val empty: give more, or 0")
        rows["train"] = labels[train_ids], indices[train_ids]
        rows["val"] = labels[val_ids], indices[val_ids]
    if options.shuffled:
        labels, indices = rows["train"]
        order = permute(np.arange(len(labels)), len(labels), stream_key(0, "data/pack"))
        rows["train"] = labels[order], indices[order]
    return rows


def measured_split(rows: SplitRows) -> str:
    """The split whose mean and standard deviation are those of the set."""
    return "train" if "train" in rows else min(rows)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{shown(name)}'" for name in names[:5]) + (", …" if len(names) > 5 else "")
