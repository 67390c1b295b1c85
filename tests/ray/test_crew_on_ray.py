"""The number of actors of a stream: as many as its reader needs, whatever Ray Data would take."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray import cloudpickle

from augft.data import stream
from augft.data.plan import IntArray, Plan

# Workers do not find test modules by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("local_ray")

UNIT_S = 0.5


class Slow:
    """Makes units of nothing, each in `UNIT_S`; `sample_id` is who made it."""

    def __call__(self, batch: dict[str, IntArray]) -> pa.Table:
        time.sleep(UNIT_S)
        rows = len(batch["position"])
        numbers = np.full(rows, os.getpid())
        image = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((rows, 2, 2, 3), np.uint8))
        columns = {"label": numbers.astype(np.int32), "epoch": numbers, "sample_id": numbers, "copy": numbers}
        return pa.table({"image": image, **columns, "digest": np.zeros(rows, np.uint64)})


class Waited:
    """How long the reader has waited, as the driver would know it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def set(self, seconds: float) -> None:
        self.seconds = seconds

    def get(self) -> float:
        return self.seconds


def _ask(waited: Any) -> Any:
    return waited.get.remote()


def _makers(seconds: float, busy_s: float, enough: int | None = None) -> list[int]:
    """Who made each unit that a reader took, which is busy for some time with each; until so many have made some."""
    waited = ray.remote(num_cpus=0)(Waited).remote()
    plan = Plan(10_000, seed=0, epochs=100, global_batch_size=10)
    pool = stream.Pool(Slow, {}, 1, 3, row_bytes=12, unit_rows=10, ask_waited=partial(_ask, waited))
    batches = stream.batches(plan, pool, cursor=0, rank=0, world_size=1, broadcast=lambda value: value)
    makers: list[int] = []
    total, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end and len(set(makers)) != enough:
        begin = time.monotonic()
        makers.append(int(next(batches).sample_ids[0]))
        total += (time.monotonic() - begin) if len(makers) > 1 else 0.0
        waited.set.remote(total)
        time.sleep(busy_s)
    batches.close()
    ray.kill(waited)
    return makers


def test_a_crew_that_is_too_small_grows() -> None:
    makers = _makers(seconds=120, busy_s=UNIT_S / 3, enough=2)
    assert len(set(makers)) == 2
    assert len(set(makers[:8])) == 1, "it begins with the fewest"


def test_a_crew_that_is_large_enough_does_not_grow() -> None:
    assert len(set(_makers(seconds=30, busy_s=UNIT_S * 4))) == 1
