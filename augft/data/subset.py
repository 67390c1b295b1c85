"""Which samples of a packed data set a run trains on, and which choose its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augft.config import DataConfig
from augft.data.packed import PackedDataset
from augft.data.split import carve, few_labels
from augft.errors import DataError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subset:
    """The samples of a run; ids are of the named split, sorted."""

    train_ids: IntArray
    val_split: str
    val_ids: IntArray
    """Empty: nothing chooses, the last weights are taken."""


def subset(dataset: PackedDataset, data: DataConfig, seed: int) -> Subset:
    """The run's samples: val is the source's own, or carved from train; few labels are drawn from the rest.

    A pure function of the data set, the keys and the seed, so every rank and every restart finds the same.

    Raises:
        DataError: fewer labels in a class than asked for, or nothing left to train on.
    """
    train = dataset.split("train")
    if dataset.has("val"):
        train_ids, val_ids, val_split = (
            np.arange(train.num_rows),
            np.arange(dataset.split("val").num_rows),
            "val",
        )
    else:
        train_ids, val_ids = carve(train.labels, data.val_fraction, seed)
        val_split = "train"
    if data.labels_per_class is not None:
        train_ids = few_labels(train.labels, train_ids, data.labels_per_class, seed)
    if len(train_ids) == 0:
        raise DataError(f"{dataset.path}: no training picture is left; lower data.val_fraction")
    return Subset(train_ids, val_split, val_ids)
