"""The model of a run, and the pictures that it is shown, numbered as the model numbers its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from augft.assess.look import Pictures
from augft.augment.draw import IntArray
from augft.data.pack import pack
from augft.data.packed import PackedDataset, cache_dir, is_packed, open_packed
from augft.data.sources import NotForTrainingError, class_name
from augft.data.subset import subset
from augft.errors import DataError, RunDirectoryError, StorageError
from augft.model import ModelMeta
from augft.model.files import META_FILE, meta_to_bytes
from augft.predictor import Predictor
from augft.run import Run, open_run
from augft.saved import SavedModel, read_saved

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Subject:
    """A run and its model: as the contents of two files, so that it travels to where it is needed."""

    run: Run
    saved: SavedModel

    @classmethod
    def of(cls, uri: str) -> Subject:
        """The model of a run.

        Raises:
            RunDirectoryError: there is no run, or it has no model yet, or one that does not know its classes.
            WeightsError: its files are damaged.
        """
        saved = read_saved(uri)
        if saved.meta.classes is None:
            raise RunDirectoryError(f"{uri}: {META_FILE} names no classes; pictures cannot be matched to them")
        return cls(open_run(uri), saved)

    @property
    def meta(self) -> ModelMeta:
        return self.saved.meta

    @property
    def classes(self) -> tuple[str, ...]:
        return self.saved.classes

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 in hex of model.safetensors."""
        return hashlib.sha256(self.saved.weights).hexdigest()

    def at(self, temperature: float) -> Subject:
        """The same, with a temperature that model.json shall have."""
        meta = replace(self.meta, temperature=temperature)
        return replace(self, saved=replace(self.saved, meta=meta, description=meta_to_bytes(meta)))

    def predictor(self, device: torch.device) -> Predictor:
        """The model on a device."""
        return Predictor(self.saved, device)


@dataclass(frozen=True)
class Shelf:
    """Where pictures are packed.

    Args:
        root: folder or URI that all nodes see; None: this machine's cache.
        progress: called with pictures done and their number.
    """

    root: str | None
    progress: Progress

    def own(self, subject: Subject) -> PackedDataset:
        """The pictures that the run had: where they were, or packed again.

        Raises:
            DataError: they are not there any more, or not what they were.
        """
        job = subject.run.job
        known = subject.run.environment.get("data", {})
        if (path := known.get("path")) is not None:
            with suppress(DataError, StorageError):
                dataset = open_packed(path)
                if dataset.manifest.digest == known.get("digest"):
                    return dataset
        source = job.data.source
        packed = pack(
            source,
            root=self.root,
            image_size=None if is_packed(source) else job.data.image_size,
            on_bad=job.data.on_bad,
            shuffled=job.data.shuffle == "windowed",
            encoded=job.data.store == "encoded",
            progress=self.progress,
        )
        dataset = _opened(packed)
        if (digest := known.get("digest")) is not None and dataset.manifest.digest != digest:
            raise DataError(
                f"{source} is not what the run had: its digest is {dataset.manifest.digest[:12]}, it was "
                f"{digest[:12]}; name the pictures with --data"
            )
        return dataset

    def other(self, subject: Subject, source: str) -> PackedDataset:
        """Any pictures, packed at the size of those that the run had; a source of test pictures alone will do.

        Raises:
            DataError: the source cannot be used.
        """
        if is_packed(source):
            return _opened(pack(source))
        job = subject.run.job
        size = job.data.image_size
        if size is None:  # they were stored at the size that they came in
            size = self.own(subject).manifest.image_shape[0]

        def packed(for_training: bool) -> PackedDataset:
            return _opened(
                pack(
                    source,
                    root=self.root,
                    image_size=size,
                    on_bad=job.data.on_bad,
                    for_training=for_training,
                    progress=self.progress,
                )
            )

        try:
            return packed(True)  # what training has packed serves here too
        except NotForTrainingError:
            return packed(False)


def _opened(packed: str | Path) -> PackedDataset:
    # Actors have other working directories.
    return open_packed(packed.resolve() if isinstance(packed, Path) else packed)


def is_own(subject: Subject, dataset: PackedDataset) -> bool:
    """Whether these are the very pictures that the run had, whatever they are called now."""
    return bool(subject.run.environment.get("data", {}).get("digest") == dataset.manifest.digest)


def pictures_of(subject: Subject, dataset: PackedDataset, named: str | None) -> tuple[str, Pictures]:
    """The pictures of a split, and its name.

    Args:
        subject: whose model.
        dataset: the run's own, or another.
        named: the split; None: test, or what there is.

    Raises:
        DataError: there is no such split, it has classes that the model does not know, or no picture.
    """
    parts = _parts(subject, dataset)
    name = named or next((each for each in ("test", "val", "train") if each in parts), min(parts))
    if name not in parts:
        raise DataError(f"{_called(dataset)} has no split '{name}': it has {', '.join(sorted(parts))}")
    return name, _matched(subject, dataset, *parts[name])


def val_pictures(subject: Subject, own: PackedDataset) -> Pictures | None:
    """What the run validated with; None where it did not."""
    val = _parts(subject, own).get("val")
    return _matched(subject, own, *val) if val is not None else None


def _parts(subject: Subject, dataset: PackedDataset) -> dict[str, tuple[str, IntArray]]:
    """Split of the set and sample ids, by name.

    Of the run's own data it is what the run used as such: `val` may have been carved from train, and `train` may be few
    of its pictures.
    """
    parts = {name: (name, np.arange(dataset.split(name).num_rows)) for name in dataset.splits}
    if is_own(subject, dataset):
        samples = subset(dataset, subject.run.job.data, subject.run.job.seed)
        parts["train"] = ("train", samples.train_ids)
        if len(samples.val_ids):
            parts["val"] = (samples.val_split, samples.val_ids)
    return parts


def _called(dataset: PackedDataset) -> str:
    """A set by a name that people know: what is kept in the cache by what was packed."""
    in_cache = isinstance(dataset.path, Path) and dataset.path.is_relative_to(cache_dir().resolve())
    return dataset.manifest.source if in_cache else str(dataset.path)


def _matched(subject: Subject, dataset: PackedDataset, split: str, ids: IntArray) -> Pictures:
    known = {class_name(name): number for number, name in enumerate(subject.classes)}
    names = [class_name(name) for name in dataset.manifest.classes]
    if unknown := [name for name in names if name not in known]:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise DataError(
            f"{_called(dataset)} has {len(unknown)} of {len(names)} classes that the model does not know: {shown}; "
            f"it knows {', '.join(subject.classes[:10])}{', …' if len(subject.classes) > 10 else ''}; rename them"
        )
    rows = dataset.split(split)
    if not len(ids):
        raise DataError(f"{_called(dataset)}: '{split}' holds no pictures; choose another with --split")
    numbers = np.array([known[name] for name in names], np.int64)
    return Pictures(rows, np.asarray(ids, np.int64), numbers[rows.labels[ids]])
