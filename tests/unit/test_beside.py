"""Units made by a thread beside the training step: the rows of the plan, in order, from any step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augft.augment.actor import Augmenter
from augft.augment.policy import Policy
from augft.data import beside
from augft.data.beside import batches_beside
from augft.data.plan import Plan

PLAN = Plan(50, seed=3, epochs=3, global_batch_size=16, copies=1, keep_original=True)


@pytest.fixture
def augmenter(digits: Path) -> Augmenter:
    return Augmenter(str(digits), "train", np.arange(50), PLAN, Policy.from_config("digits"))


@pytest.mark.parametrize("unit_rows", [1, 40, 10_000])
@pytest.mark.parametrize("cursor", [0, 5, 18, 19])
def test_each_step_has_its_rows(
    augmenter: Augmenter, monkeypatch: pytest.MonkeyPatch, unit_rows: int, cursor: int
) -> None:
    monkeypatch.setattr(beside, "UNIT_ROWS", unit_rows)
    steps = list(batches_beside(PLAN, augmenter.columns, cursor=cursor, row_bytes=192))
    assert [batch.step for batch in steps] == list(range(cursor, PLAN.num_steps))
    for batch in steps:
        expected = augmenter.columns(np.arange(*PLAN.share(batch.step, 0, 1)))
        assert np.array_equal(batch.images, expected["image"])
        assert np.array_equal(batch.sample_ids, expected["sample_id"])
        assert batch.digest == int(np.add.reduce(expected["digest"]))


def test_the_first_unit_is_not_timed(augmenter: Augmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "UNIT_ROWS", 1)
    first, *others = batches_beside(PLAN, augmenter.columns, cursor=0, row_bytes=192)
    assert first.num_timed == 0
    assert all(batch.num_timed == len(batch.labels) and batch.augment_s > 0 for batch in others)


def test_an_error_of_the_thread_is_raised(augmenter: Augmenter) -> None:
    def broken(positions: np.ndarray) -> dict[str, Any]:
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        next(batches_beside(PLAN, broken, cursor=0, row_bytes=192))
