"""Positions in, augmented pictures out; the same bytes from any instance, in any batch."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from augft.augment.actor import Augmenter
from augft.augment.apply import augment_batch
from augft.augment.policy import Policy
from augft.data.packed import open_packed
from augft.data.plan import PADDING, Plan

POLICY = Policy.from_config(["horizontal_flip", {"rotate": {"degrees": 20}}])
SAMPLE_IDS = np.arange(5, 105, 2)
PLAN = Plan(len(SAMPLE_IDS), seed=7, epochs=3, global_batch_size=16, select=0.5, copies=2, keep_original=True)


def augmenter(digits: Path, plan: Plan = PLAN, policy: Policy = POLICY) -> Augmenter:
    return Augmenter(str(digits), "train", SAMPLE_IDS, plan, policy)


def test_pictures_are_those_of_the_plan(digits: Path) -> None:
    positions = np.arange(90, 130)  # across the border of an epoch
    found = augmenter(digits).columns(positions)
    items = PLAN.items(positions)
    assert set(items.epoch.tolist()) == {0, 1}
    ids = SAMPLE_IDS[items.sample]
    originals, labels = open_packed(digits).split("train").gather(ids)
    assert np.array_equal(found["sample_id"], ids)
    assert np.array_equal(found["label"], labels)
    assert np.array_equal(found["epoch"], items.epoch)
    # 0 is the original, c + 1 its copy c.
    assert np.array_equal(found["copy"], np.where(items.augmented, items.copy + 1, 0))
    assert set(found["copy"].tolist()) == {0, 1, 2}
    for k in range(len(positions)):
        expected = originals[k]
        if items.augmented[k]:
            [expected] = augment_batch(
                originals[k : k + 1], POLICY, seed=7, epoch=int(items.epoch[k]), sample_ids=ids[k : k + 1],
                copy=int(items.copy[k]),
            )  # fmt: skip
            assert not np.array_equal(expected, originals[k])
        assert np.array_equal(found["image"][k], expected)
    types = {name: (column.dtype, column.shape[1:]) for name, column in found.items()}
    assert types == {
        "image": (np.uint8, (8, 8, 3)), "label": (np.int32, ()), "epoch": (np.int64, ()), "sample_id": (np.int64, ()),
        "copy": (np.int64, ()), "digest": (np.uint64, ()),
    }  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        ["horizontal_flip", "rotate", "color_jitter", "gaussian_noise", "erasing", "rand-m9-n2", "augmix-m3"],
        {
            "epochs": 3,
            "ops": [{"rotate": {"degrees": {"schedule": [[0, 10], [1, 90]]}}}, "elastic"],
            "phases": [{"from_epoch": 1, "ops": ["crop", {"elastic": {"strength": 0.3}}, "augmix-m3"]}],
        },
    ],
    ids=["many ops", "changing"],
)
def test_any_policy_does_to_copies_what_it_says(config: object, digits: Path) -> None:
    policy = Policy.from_config(config)
    positions = np.arange(60, 160)  # across the borders of epochs
    items = PLAN.items(positions)
    assert set(items.epoch.tolist()) >= {0, 1}
    ids = SAMPLE_IDS[items.sample]
    originals, _ = open_packed(digits).split("train").gather(ids)
    found = augmenter(digits, policy=policy).columns(positions)["image"]
    expected = augment_batch(originals, policy, seed=7, epoch=items.epoch, sample_ids=ids, copy=items.copy)
    augmented = items.augmented.astype(bool)
    assert 0 < augmented.sum() < len(positions)
    assert np.array_equal(found[augmented], expected[augmented])
    assert np.array_equal(found[~augmented], originals[~augmented])
    assert (found != originals).any((1, 2, 3))[augmented].mean() > 0.9


def test_any_instance_any_batch(digits: Path) -> None:
    positions = np.random.default_rng(0).permutation(PLAN.num_items)[:60]
    whole = augmenter(digits).columns(positions)
    elsewhere = pickle.loads(pickle.dumps(augmenter(digits)))
    parts = [elsewhere.columns(part) for part in np.array_split(positions, 7)]
    for name, column in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), column), name
    # Others' random state changes nothing.
    np.random.seed(3)  # noqa: NPY002
    for name, column in augmenter(digits).columns(positions).items():
        assert np.array_equal(column, whole[name])


def test_padding_is_zeros_and_changes_nothing_else(digits: Path) -> None:
    real = np.array([3, 4, 9])
    padded = np.array([PADDING, 3, 4, PADDING, 9, PADDING])
    found, alone = (augmenter(digits).columns(positions) for positions in (padded, real))
    for name, column in found.items():
        assert len(column) == 6
        assert np.array_equal(column[[1, 2, 4]], alone[name])
        assert not column[[0, 3, 5]].any()
        assert column.dtype == alone[name].dtype


def test_padding_alone(digits: Path) -> None:
    found = augmenter(digits).columns(np.full(4, PADDING))
    assert found["image"].shape == (4, 8, 8, 3)
    assert not any(column.any() for column in found.values())


def test_no_originals_and_no_copies(digits: Path) -> None:
    copies = Plan(len(SAMPLE_IDS), 7, 1, 16)
    assert (augmenter(digits, copies).columns(np.arange(20))["copy"] == 1).all()
    originals = Plan(len(SAMPLE_IDS), 7, 1, 16, copies=0, keep_original=True)
    found = augmenter(digits, originals).columns(np.arange(20))
    assert (found["copy"] == 0).all()
    images, _ = open_packed(digits).split("train").gather(found["sample_id"])
    assert np.array_equal(found["image"], images)


def test_the_digest_tells_pixels_places_and_labels(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = np.arange(30)
    digest = augmenter(digits).columns(positions)["digest"]
    assert len(set(digest.tolist())) == 30
    assert np.array_equal(digest, augmenter(digits).columns(positions)["digest"])
    # Another policy changes the copies' digests alone.
    other = augmenter(digits, policy=Policy.from_config("none")).columns(positions)["digest"]
    augmented = PLAN.items(positions).augmented
    assert np.array_equal(other != digest, augmented)
    # The same original in another epoch stands elsewhere: same pixels, another digest.
    items = PLAN.items(np.arange(PLAN.num_items))
    places = np.flatnonzero((items.sample == 0) & ~items.augmented)
    assert len(places) == 3
    found = augmenter(digits).columns(places)
    assert (found["image"] == found["image"][0]).all()
    assert len(set(found["digest"].tolist())) == 3
