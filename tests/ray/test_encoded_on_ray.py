"""Picture files of many sizes on Ray: the same steps with any number of actors, and from any cursor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augft.augment.actor import Augmenter
from augft.config import load_job_text
from augft.data import encoded, stream
from augft.data.pack import pack
from augft.prepare import prepare_packed

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
data: {source: none, store: encoded, image_size: 16, val_fraction: 0.1, shuffle: windowed, window_shards: 2, lanes: 2}
augment: {policy: [resized_crop, horizontal_flip, brightness], keep_original: true}
train: {epochs: 2, global_batch_size: 64}
"""


def test_any_actors_from_any_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(120):
        height, width = rng.integers(20, 60, 2).tolist()
        path = tmp_path / "source" / "ab"[number % 2] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    monkeypatch.setattr(encoded, "SHARD_BYTES", 20_000)
    packed = pack(str(tmp_path / "source"), tmp_path / "packed", image_size=16, encoded=True, shuffled=True)
    prepared = prepare_packed(load_job_text(JOB, "job.yaml"), packed)
    plan = prepared.plan
    assert plan.windows is not None
    assert plan.windows.num_windows > 2
    kwargs: dict[str, Any] = {
        "packed": str(packed),
        "split": "train",
        "sample_ids": prepared.samples.train_ids,
        "plan": plan,
        "policy": prepared.policy,
    }
    here = Augmenter(**kwargs)
    expected = [
        int(np.add.reduce(here.columns(np.arange(*plan.share(step, 0, 1)))["digest"], dtype=np.uint64))
        for step in range(plan.num_steps)
    ]
    for num_actors, cursor in ((1, 0), (2, 3)):
        pool = stream.Pool(Augmenter, kwargs, num_actors, num_actors, row_bytes=16 * 16 * 3, unit_rows=100)
        batches = stream.batches(plan, pool, cursor=cursor, rank=0, world_size=1, broadcast=lambda value: value)
        assert [batch.digest for batch in batches] == expected[cursor:]
