"""The same batches without Ray: a thread beside the training step makes the units, one ahead of it.

For runs that are one process: many small ones at a time, on Ray or not, where actors of their own would cost more than
they give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.data.plan import IntArray, Plan
from augft.data.units import SECONDS, RankBatch, batch_of, steps_per_unit

UNIT_ROWS = 2_048
"""Few, for nothing is trained before the first unit is there."""

Columns = dict[str, npt.NDArray[Any]]


def batches_beside(
    plan: Plan, columns: Callable[[IntArray], Columns], *, cursor: int, row_bytes: int
) -> Generator[RankBatch, None, None]:
    """The batches of a run's only rank, from step `cursor` to the end of the plan.

    Args:
        plan: the order of the run.
        columns: positions int64 (M,) → the columns of a unit, as `Augmenter.columns` gives them; called in a thread.
        cursor: steps already done.
        row_bytes: of a picture.
    """
    unit_steps = steps_per_unit(plan.global_batch_size, row_bytes, UNIT_ROWS)
    firsts = range(cursor, plan.num_steps, unit_steps)

    def unit(first: int) -> Columns:
        begin = time.perf_counter()
        made = columns(np.arange(plan.items_before(first), plan.items_before(first + unit_steps)))
        rows = len(made["label"])
        # The first opens the data.
        seconds = np.nan if first == cursor else (time.perf_counter() - begin) / rows
        return {**made, SECONDS: np.full(rows, seconds, np.float32)}

    with ThreadPoolExecutor(1, thread_name_prefix="augment") as thread:
        ahead: Future[Columns] | None = thread.submit(unit, cursor) if firsts else None
        for first in firsts:
            assert ahead is not None
            block = ahead.result()
            ahead = thread.submit(unit, first + unit_steps) if first + unit_steps < plan.num_steps else None
            for step in range(first, min(first + unit_steps, plan.num_steps)):
                start = plan.items_before(step) - plan.items_before(first)
                yield batch_of(step, block, slice(start, start + plan.step_size(step)))
