"""The model of a run, and the pictures that it is shown, numbered as the model numbers its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from augft.assess.look import Model, Pictures
from augft.augment.draw import IntArray
from augft.data.pack import pack
from augft.data.packed import PackedDataset, is_packed, open_packed
from augft.data.subset import subset
from augft.errors import DataError, RunDirectoryError, StorageError
from augft.model import ModelMeta, model_from_bytes
from augft.model.files import META_FILE, WEIGHTS_FILE, meta_from_bytes
from augft.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from augft.run import Run, open_run

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Subject:
    """A run's model, as the contents of its two files: so it travels to where it is needed."""

    run: Run
    weights: bytes
    description: bytes

    @classmethod
    def of(cls, uri: str) -> Subject:
        """The model of a run.

        Raises:
            RunDirectoryError: there is no run, or it has no model yet.
        """
        run = open_run(uri)
        for name in (WEIGHTS_FILE, META_FILE):
            if not run.storage.exists(name):
                raise RunDirectoryError(f"{uri}: {name} is not there, the run has not finished; go on with --resume")
        return cls(run, run.storage.read(WEIGHTS_FILE), run.storage.read(META_FILE))

    @cached_property
    def key(self) -> str:
        """Equal for equal models."""
        return hashlib.sha256(self.weights + self.description).hexdigest()

    @cached_property
    def meta(self) -> ModelMeta:
        return meta_from_bytes(self.description, f"{self.run.uri}/{META_FILE}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Raises RunDirectoryError where the model does not know them."""
        if self.meta.classes is None:
            raise RunDirectoryError(f"{self.run.uri}: {META_FILE} names no classes; pictures cannot be matched to them")
        return self.meta.classes

    def model(self, device: torch.device) -> Model:
        """The model on a device, in evaluation mode.

        Raises:
            WeightsError: its files are damaged.
        """
        built = model_from_bytes(self.weights, self.description, f"{self.run.uri}/{WEIGHTS_FILE}")
        meta = built.meta
        preprocess = Preprocess(meta.mean or IMAGENET_MEAN, meta.std or IMAGENET_STD, meta.input_size, device)
        return Model(built.module.to(device).eval(), preprocess, meta.temperature or 1.0)


def own_packed(subject: Subject, progress: Progress) -> PackedDataset:
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
        image_size=None if is_packed(source) else job.data.image_size,
        on_bad=job.data.on_bad,
        shuffled=job.data.shuffle == "windowed",
        progress=progress,
    )
    dataset = _opened(packed)
    if (digest := known.get("digest")) is not None and dataset.manifest.digest != digest:
        raise DataError(
            f"{source} is not what the run had: its digest is {dataset.manifest.digest[:12]}, it was {digest[:12]}; "
            "name the pictures with --data"
        )
    return dataset


def packed_for(subject: Subject, source: str, progress: Progress) -> PackedDataset:
    """Any pictures, packed at the size of those that the run had.

    Raises:
        DataError: the source cannot be used.
    """
    if is_packed(source):
        return _opened(pack(source))
    job = subject.run.job
    size = job.data.image_size
    if size is None:  # they were stored at the size that they came in
        size = own_packed(subject, progress).manifest.image_shape[0]
    return _opened(pack(source, image_size=size, on_bad=job.data.on_bad, progress=progress))


def _opened(packed: str | Path) -> PackedDataset:
    # Actors have other working directories.
    return open_packed(packed.resolve() if isinstance(packed, Path) else packed)


def choose_split(dataset: PackedDataset, named: str | None) -> str:
    """The split to evaluate on: the named one; else test, val or what there is.

    Raises:
        DataError: there is no such split.
    """
    if named is not None:
        return dataset.split(named).name
    return next(name for name in ("test", "val", "train") if dataset.has(name))


def pictures_of(subject: Subject, dataset: PackedDataset, split: str) -> Pictures:
    """All pictures of a split.

    Raises:
        DataError: it has classes that the model does not know, or no picture.
    """
    rows = dataset.split(split)
    return _matched(subject, dataset, split, np.arange(rows.num_rows))


def val_pictures(subject: Subject, dataset: PackedDataset) -> Pictures | None:
    """What the run validated with; None where it did not. `dataset` is the run's own."""
    job = subject.run.job
    samples = subset(dataset, job.data, job.seed)
    return _matched(subject, dataset, samples.val_split, samples.val_ids) if len(samples.val_ids) else None


def _matched(subject: Subject, dataset: PackedDataset, split: str, ids: IntArray) -> Pictures:
    known = {name: number for number, name in enumerate(subject.classes)}
    names = dataset.manifest.classes
    if unknown := [name for name in names if name not in known]:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", …" if len(unknown) > 5 else "")
        raise DataError(
            f"{dataset.path} has {len(unknown)} of {len(names)} classes that the model does not know: {shown}; "
            f"it knows {', '.join(subject.classes[:10])}{', …' if len(subject.classes) > 10 else ''}; rename them"
        )
    rows = dataset.split(split)
    if not len(ids):
        raise DataError(f"{dataset.path}: '{split}' holds no pictures; choose another with --split")
    numbers = np.array([known[name] for name in names], np.int64)
    return Pictures(rows, np.asarray(ids, np.int64), numbers[rows.labels[ids]])
