"""The stream against the plan: who gets what, in which order, with which pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augft.augment.actor import Augmenter
from augft.augment.apply import augment_batch
from augft.augment.policy import Policy
from augft.data import stream, units
from augft.data.pack import pack
from augft.data.packed import PackedSplit, open_packed
from augft.data.plan import Plan

pytestmark = pytest.mark.usefixtures("local_ray")

POLICY = Policy.from_config("digits")
IDS = np.arange(5, 205)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack("digits", tmp_path_factory.mktemp("packed") / "digits", image_size=12)


def _pool(digits: Path, plan: Plan, num_actors: int = 1, unit_rows: int = stream.MIN_UNIT_ROWS) -> stream.Pool:
    kwargs = {"packed": str(digits), "split": "train", "sample_ids": IDS, "plan": plan, "policy": POLICY}
    return stream.Pool(Augmenter, kwargs, num_actors, num_actors, row_bytes=12 * 12 * 3, unit_rows=unit_rows)


def _all_ranks(
    digits: Path,
    plan: Plan,
    world_size: int,
    cursor: int = 0,
    num_actors: int = 1,
    unit_rows: int = stream.MIN_UNIT_ROWS,
) -> list[list[Any]]:
    """Every rank's batches; ranks take turns, as they do in training."""
    shared: dict[str, Any] = {}

    def broadcast(value: Any) -> Any:
        return shared.setdefault("splits", value) if value is None else shared.update(splits=value) or value

    pool = _pool(digits, plan, num_actors, unit_rows)
    first = stream.batches(plan, pool, cursor=cursor, rank=0, world_size=world_size, broadcast=broadcast)
    if world_size == 1:
        return [list(first)]
    from concurrent.futures import ThreadPoolExecutor

    # All ranks have to iterate at once: the first waits for the others to arrive.
    with ThreadPoolExecutor(world_size) as threads:
        futures = [threads.submit(list, first)]
        while "splits" not in shared:
            pass
        for rank in range(1, world_size):
            other = stream.batches(
                plan, pool, cursor=cursor, rank=rank, world_size=world_size, broadcast=lambda _: shared["splits"]
            )
            futures.append(threads.submit(list, other))
        return [future.result(timeout=120) for future in futures]


def _expected(split: PackedSplit, plan: Plan, step: int) -> tuple[np.ndarray, np.ndarray]:
    items = plan.items(np.arange(plan.items_before(step), plan.items_before(step + 1)))
    ids = IDS[items.sample]
    images = split.gather(ids)[0]
    new = items.augmented
    images[new] = augment_batch(
        images[new], POLICY, seed=plan.seed, epoch=items.epoch[new], sample_ids=ids[new], copy=items.copy[new]
    )
    return ids, images


@pytest.mark.parametrize(("world_size", "num_actors", "cursor"), [(1, 1, 0), (1, 3, 7), (2, 1, 0), (3, 2, 4)])
def test_each_step_holds_what_the_plan_says(digits: Path, world_size: int, num_actors: int, cursor: int) -> None:
    plan = Plan(len(IDS), seed=3, epochs=2, global_batch_size=32, select=0.5, copies=2, keep_original=True)
    split = open_packed(digits).split("train")
    ranks = _all_ranks(digits, plan, world_size, cursor, num_actors, unit_rows=100)
    assert all(len(batches) == plan.num_steps - cursor for batches in ranks)
    for offset, parts in enumerate(zip(*ranks, strict=True)):
        step = cursor + offset
        ids, images = _expected(split, plan, step)
        assert [part.step for part in parts] == [step] * world_size
        np.testing.assert_array_equal(np.concatenate([part.sample_ids for part in parts]), ids)
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), split.labels[ids])


def test_the_digest_of_a_step_is_the_same_on_any_number_of_ranks(digits: Path) -> None:
    plan = Plan(len(IDS), seed=3, epochs=1, global_batch_size=32)
    [alone] = _all_ranks(digits, plan, 1)
    pairs = zip(*_all_ranks(digits, plan, 2), strict=True)
    assert [batch.digest for batch in alone] == [(a.digest + b.digest) % 2**64 for a, b in pairs]


def test_several_executions_follow_each_other_without_a_seam(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(len(IDS), seed=3, epochs=2, global_batch_size=32)
    [one] = _all_ranks(digits, plan, 1)
    monkeypatch.setattr(stream, "MAX_UNITS", 3)
    [several] = _all_ranks(digits, plan, 1, unit_rows=64)
    assert [batch.digest for batch in one] == [batch.digest for batch in several]


def test_a_chain_in_pieces_is_the_chain_in_one() -> None:
    sums = np.arange(7, dtype=np.uint64) * np.uint64(2**61)
    whole = units.chain("", sums)
    assert units.chain(units.chain("", sums[:3]), sums[3:]) == whole
    assert units.chain("", sums[::-1]) != whole


def test_units_are_long_enough_and_affordable() -> None:
    def rows(row_bytes: int) -> int:
        return 256 * units.steps_per_unit(256, row_bytes, stream.MIN_UNIT_ROWS)

    assert rows(3072) >= stream.MIN_UNIT_ROWS
    assert rows(224 * 224 * 3) * 224 * 224 * 3 <= units.MAX_UNIT_BYTES
    assert rows(4096 * 4096 * 3) == 256
