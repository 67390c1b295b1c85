"""The plan: its order is a permutation, its steps leave nothing out, and it never depends on the ranks."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise, permutations
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from augft.data.permutation import permute
from augft.data.plan import PADDING, Plan
from augft.errors import DataError

KEYS = st.integers(0, 2**64 - 1)
PLANS = st.builds(
    Plan,
    num_samples=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1),
    epochs=st.integers(1, 4),
    global_batch_size=st.integers(1, 150),
    select=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.77, 1.0]),
    copies=st.integers(0, 3),
    keep_original=st.just(True),
)
ITEM_FIELDS = ("epoch", "sample", "copy", "augmented")


def rows(plan: Plan, positions: np.ndarray) -> list[tuple[int, int, int, bool]]:
    items = plan.items(positions)
    return list(zip(*(getattr(items, name).tolist() for name in ITEM_FIELDS), strict=True))


# ---- permute -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(size=st.integers(1, 5000), key=KEYS)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 9, 10, 15, 16, 17, 24, 25, 26])
def test_permute_of_small_and_square_sizes(size: int) -> None:
    for key in range(10):
        assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@settings(max_examples=40)
@given(size=st.integers(2**20, 2**62), key=KEYS, seed=st.integers(0, 2**32))
def test_permute_of_large_sizes_is_distinct_and_in_range(size: int, key: int, seed: int) -> None:
    index = np.unique(np.random.default_rng(seed).integers(0, size, 500))
    image = permute(index, size, key)
    assert image.dtype == np.int64
    assert len(np.unique(image)) == len(index)
    assert image.min() >= 0
    assert image.max() < size


@given(size=st.integers(1, 10**6), key=KEYS, index=st.integers(0, 10**6 - 1))
def test_an_element_does_not_depend_on_those_beside_it(size: int, key: int, index: int) -> None:
    index %= size
    alone = permute(np.array([index]), size, key)
    among = permute(np.array([0, size - 1, index]), size, key)
    assert alone[0] == among[2]


def test_permute_leaves_its_argument_alone() -> None:
    index = np.arange(100)
    permute(index, 100, 1)
    assert np.array_equal(index, np.arange(100))


@pytest.mark.parametrize(("size", "num_keys"), [(3, 600), (4, 1200), (5, 3600)])
def test_all_orders_come_equally_often(size: int, num_keys: int) -> None:
    number = {order: k for k, order in enumerate(permutations(range(size)))}
    counts = np.zeros(len(number))
    index = np.arange(size)
    for key in range(num_keys):
        counts[number[tuple(permute(index, size, key).tolist())]] += 1
    assert chisquare(counts).pvalue > 0.001


def test_neighbours_are_not_kept_together() -> None:
    size = 5000
    order = permute(np.arange(size), size, 5)
    # Of a random order about two neighbours stay neighbours.
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 12
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
    assert np.count_nonzero(order == permute(np.arange(size), size, 6)) < 12


# ---- an epoch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_original", "copies", "select"),
    [
        (True, 2, 0.5), (True, 0, 1.0), (True, 1, 0.0), (False, 1, 1.0), (False, 3, 1.0), (False, 2, 0.3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("num_samples", [2, 7, 101])
def test_an_epoch_holds_each_item_once(keep_original: bool, copies: int, select: float, num_samples: int) -> None:
    plan = Plan(num_samples, 5, 3, 16, select=select, copies=copies, keep_original=keep_original)
    num_selected = round(select * num_samples)
    assert plan.epoch_length == (num_samples if keep_original else 0) + copies * num_selected
    for epoch in range(plan.epochs):
        found = rows(plan, epoch * plan.epoch_length + np.arange(plan.epoch_length))
        assert len(set(found)) == plan.epoch_length
        assert {row[0] for row in found} == {epoch}
        originals = sorted(sample for _, sample, copy, augmented in found if not augmented and copy == 0)
        assert originals == (list(range(num_samples)) if keep_original else [])
        copies_of: dict[int, list[int]] = {}
        for _, sample, copy, augmented in found:
            if augmented:
                copies_of.setdefault(sample, []).append(copy)
        assert len(copies_of) == (num_selected if copies else 0)
        assert all(sorted(numbers) == list(range(copies)) for numbers in copies_of.values())
        assert all(0 <= sample < num_samples for sample in copies_of)


def test_originals_and_two_copies_of_half_of_them() -> None:
    plan = Plan(1437, seed=0, epochs=2, global_batch_size=64, select=0.5, copies=2, keep_original=True)
    assert plan.epoch_length == 1437 + 2 * round(1437 / 2)
    seen = sum(plan.step_size(step) for step in range(plan.num_steps))
    assert seen == plan.num_items == 2 * plan.epoch_length
    counts = Counter(rows(plan, np.arange(plan.num_items)))
    assert set(counts.values()) == {1}


def test_each_epoch_selects_anew_and_each_sample_equally_often() -> None:
    plan = Plan(40, seed=1, epochs=400, global_batch_size=40, select=0.25, copies=1)
    items = plan.items(np.arange(plan.num_items))
    chosen = [frozenset(items.sample[items.epoch == epoch].tolist()) for epoch in range(plan.epochs)]
    assert all(len(samples) == 10 for samples in chosen)
    assert len(set(chosen)) > 390
    assert chisquare(np.bincount(items.sample, minlength=40)).pvalue > 0.001


def test_order_is_of_seed_and_epoch() -> None:
    positions = np.arange(100)
    orders = [
        tuple(Plan(100, seed, 2, 10).items(positions + 100 * epoch).sample) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    # The number of epochs and the batch size cut the sequence; they do not change it.
    assert tuple(Plan(100, 0, 9, 33).items(positions).sample) == orders[0]


def test_an_empty_epoch_is_refused() -> None:
    with pytest.raises(DataError, match=r"is empty: raise augment\.select"):
        Plan(3, 0, 1, 4, select=0.1)
    with pytest.raises(DataError, match="0 samples"):
        Plan(0, 0, 1, 4)


# ---- steps and shares ----------------------------------------------------------------------------------------------


@given(plan=PLANS)
def test_steps_follow_each_other_to_the_last_item(plan: Plan) -> None:
    end = 0
    for step in range(plan.num_steps):
        start, stop = plan.share(step, 0, 1)
        assert start == end == plan.items_before(step)
        assert stop - start == plan.step_size(step)
        assert plan.step_size(step) == plan.global_batch_size or step == plan.num_steps - 1
        assert stop > start
        end = stop
    assert end == plan.num_items == plan.items_before(plan.num_steps)
    assert plan.step_size(plan.num_steps) == 0


@given(plan=PLANS, world_size=st.integers(1, 7))
def test_shares_partition_each_step(plan: Plan, world_size: int) -> None:
    for step in {0, plan.num_steps // 2, plan.num_steps - 1}:
        shares = [plan.share(step, rank, world_size) for rank in range(world_size)]
        assert shares[0][0] == plan.items_before(step)
        assert shares[-1][1] == plan.items_before(step + 1)
        assert all(left[1] == right[0] for left, right in pairwise(shares))
        sizes = [stop - start for start, stop in shares]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= ceil(plan.global_batch_size / world_size)


@settings(max_examples=30)
@given(plan=PLANS, world_size=st.integers(2, 7))
def test_what_a_step_holds_does_not_depend_on_the_ranks(plan: Plan, world_size: int) -> None:
    step = plan.num_steps - 1
    whole = rows(plan, np.arange(*plan.share(step, 0, 1)))
    parts = [rows(plan, np.arange(*plan.share(step, rank, world_size))) for rank in range(world_size)]
    assert [row for part in parts for row in part] == whole


@given(plan=PLANS, world_size=st.integers(1, 7))
def test_epoch_end_is_the_first_cursor_past_the_epoch(plan: Plan, world_size: int) -> None:
    for epoch in range(plan.epochs):
        end, last_item = plan.epoch_end(epoch), (epoch + 1) * plan.epoch_length - 1
        assert plan.items_before(end) > last_item >= plan.items_before(end - 1)
    assert plan.epoch_end(plan.epochs - 1) == plan.num_steps


def test_padded_share_fills_shorter_shares() -> None:
    plan = Plan(10, seed=0, epochs=1, global_batch_size=4)
    assert [plan.step_size(step) for step in range(3)] == [4, 4, 2]
    assert plan.padded_share(0, 3, 0, 3).tolist() == [[0, PADDING], [4, PADDING], [PADDING, PADDING]]
    assert plan.padded_share(0, 3, 1, 3).tolist() == [[1, PADDING], [5, PADDING], [8, PADDING]]
    assert plan.padded_share(0, 3, 2, 3).tolist() == [[2, 3], [6, 7], [9, PADDING]]
    # Steps past the end of the run are all padding: units are equally long.
    assert plan.padded_share(2, 3, 0, 1).tolist() == [[8, 9, PADDING, PADDING], [PADDING] * 4, [PADDING] * 4]


@settings(max_examples=30)
@given(plan=PLANS, world_size=st.integers(1, 5))
def test_padded_shares_hold_each_position_once(plan: Plan, world_size: int) -> None:
    positions = np.concatenate(
        [plan.padded_share(0, plan.num_steps, rank, world_size).ravel() for rank in range(world_size)]
    )
    assert np.array_equal(np.sort(positions[positions != PADDING]), np.arange(plan.num_items))


# ---- golden values: the order is a contract across versions and platforms -------------------------------------------


def test_permutations_of_record() -> None:
    assert permute(np.arange(10), 10, 12345).tolist() == [4, 9, 1, 6, 0, 7, 2, 5, 3, 8]
    assert permute(np.array([0, 1, 2, 10**12 - 1]), 10**12, 7).tolist() == [
        257967999872, 674924434050, 343283404407, 8725074516,
    ]  # fmt: skip
    assert permute(np.array([0, 1, 2**62 - 1]), 2**62, 7).tolist() == [
        1834476971608380491, 153787296553536945, 4146087976100960169,
    ]  # fmt: skip
    order = permute(np.arange(50_000), 50_000, 99).astype("<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest().startswith("60e621782dac6586")


def test_plan_of_record() -> None:
    plan = Plan(7, seed=3, epochs=2, global_batch_size=4, select=0.5, copies=2, keep_original=True)
    found = ["{}:{}{}".format(e, s, "abc"[c] if augmented else "") for e, s, c, augmented in rows(plan, np.arange(30))]
    assert found == [
        "0:0", "0:6a", "0:6b", "0:1b", "0:0b", "0:1a", "0:3", "0:2b", "0:5", "0:0a", "0:2", "0:4", "0:6", "0:2a", "0:1",
        "1:6b", "1:1", "1:4", "1:4a", "1:0", "1:6", "1:5", "1:3b", "1:4b", "1:3a", "1:6a", "1:0b", "1:0a", "1:2", "1:3",
    ]  # fmt: skip
