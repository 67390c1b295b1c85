"""Which samples train and which validate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from augft.config import DataConfig
from augft.data.pack import pack
from augft.data.packed import PackedDataset, open_packed
from augft.data.subset import subset
from augft.errors import DataError


@pytest.fixture(scope="module")
def dataset(digits: Path) -> PackedDataset:
    return open_packed(digits)


def test_val_is_carved_and_never_trained_on(dataset: PackedDataset) -> None:
    found = subset(dataset, DataConfig(val_fraction=0.2), seed=0)
    num = dataset.split("train").num_rows
    assert found.val_split == "train"
    assert np.array_equal(np.sort(np.concatenate([found.train_ids, found.val_ids])), np.arange(num))
    labels = dataset.split("train").labels
    of_class = np.bincount(labels[found.val_ids]) / np.bincount(labels)
    assert np.abs(of_class - 0.2).max() < 0.005
    again, other = (subset(dataset, DataConfig(val_fraction=0.2), seed=seed) for seed in (0, 1))
    assert np.array_equal(again.val_ids, found.val_ids)
    assert not np.array_equal(other.val_ids, found.val_ids)


def test_without_val_all_are_trained_on(dataset: PackedDataset) -> None:
    found = subset(dataset, DataConfig(val_fraction=0.0), seed=0)
    assert len(found.val_ids) == 0
    assert np.array_equal(found.train_ids, np.arange(dataset.split("train").num_rows))


def test_few_labels_are_of_what_is_not_val(dataset: PackedDataset) -> None:
    whole = subset(dataset, DataConfig(val_fraction=0.2), seed=0)
    few = subset(dataset, DataConfig(val_fraction=0.2, labels_per_class=7), seed=0)
    assert np.array_equal(few.val_ids, whole.val_ids)
    assert np.isin(few.train_ids, whole.train_ids).all()
    assert np.bincount(dataset.split("train").labels[few.train_ids]).tolist() == [7] * 10
    with pytest.raises(DataError, match=r"fewer than labels_per_class=999: set data\.labels_per_class to \d+ or less"):
        subset(dataset, DataConfig(labels_per_class=999), seed=0)


def test_a_source_with_a_val_of_its_own_keeps_it(tmp_path: Path) -> None:
    dataset = open_packed(pack("digits", tmp_path / "out", image_size=8, val_fraction=0.3))
    found = subset(dataset, DataConfig(val_fraction=0.9), seed=5)
    assert found.val_split == "val"
    assert np.array_equal(found.val_ids, np.arange(dataset.split("val").num_rows))
    assert np.array_equal(found.train_ids, np.arange(dataset.split("train").num_rows))
