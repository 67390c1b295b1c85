"""Windows of shards on Ray: the same steps with any number of actors and ranks, and from any cursor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from augft.augment.actor import Augmenter
from augft.augment.policy import Policy
from augft.config import load_job_text
from augft.data import shards, stream
from augft.data.pack import pack
from augft.prepare import Prepared, prepare_packed

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
data: {source: digits, val_fraction: 0.1, shuffle: windowed, window_shards: 2, lanes: 2}
augment: {policy: digits, select: 0.5, keep_original: true}
train: {epochs: 2, global_batch_size: 128}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """23 shards of digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_MAX_ROW_GROUP", 32)
        patch.setattr(shards, "_SHARD_BYTES", 64 * 8 * 8 * 3)
        packed = pack("digits", tmp_path_factory.mktemp("packed") / "many", image_size=8, shuffled=True)
    return prepare_packed(load_job_text(JOB, "job.yaml"), packed)


def _digests(prepared: Prepared, num_actors: int, cursor: int) -> list[int]:
    kwargs: dict[str, Any] = {
        "packed": str(prepared.dataset.path),
        "split": "train",
        "sample_ids": prepared.samples.train_ids,
        "plan": prepared.plan,
        "policy": Policy.from_config("digits"),
    }
    pool = stream.Pool(Augmenter, kwargs, num_actors, num_actors, row_bytes=8 * 8 * 3, unit_rows=300)
    batches = stream.batches(prepared.plan, pool, cursor=cursor, rank=0, world_size=1, broadcast=lambda value: value)
    return [batch.digest for batch in batches]


def test_any_actors_from_any_cursor(prepared: Prepared) -> None:
    plan = prepared.plan
    assert plan.windows is not None
    assert plan.windows.num_windows == 12
    here = Augmenter(str(prepared.dataset.path), "train", prepared.samples.train_ids, plan, prepared.policy)
    expected = [
        int(np.add.reduce(here.columns(np.arange(*plan.share(step, 0, 1)))["digest"], dtype=np.uint64))
        for step in range(plan.num_steps)
    ]
    for num_actors, cursor in ((1, 0), (2, 0), (3, 7)):
        assert _digests(prepared, num_actors, cursor) == expected[cursor:]
