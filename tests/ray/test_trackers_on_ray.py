"""What a run on Ray sends to its trackers, from the driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from augft.config import load_job_text
from augft.train.launch import train
from augft.train.trackers.contents import metrics
from tests.event_files import scalars

pytestmark = pytest.mark.usefixtures("local_ray")

JOB = """
name: sent
seed: 5
data: {source: digits, image_size: 8, labels_per_class: 10}
augment: {policy: digits}
model: {name: resnet20, weights: none}
train: {epochs: 3, global_batch_size: 50, optimizer: {lr: 0.05}}
run: {trackers: [tensorboard]}
"""


def test_tensorboard_has_each_line_once_also_of_a_run_that_went_on(tmp_path: Path) -> None:
    job, where = load_job_text(JOB, "the test's job"), str(tmp_path / "run")
    first = train(job.replace(["train.stop.steps=3"]), run_dir=where).metrics
    run = train(job, run_dir=where, resume=True)
    # What the first ended with, it had no more when it went on from its checkpoint: the test of its weights.
    lines = first + [line for line in run.metrics if line not in first]
    assert len({line["epoch"] for line in lines}) == 3
    expected = sorted((line["step"], key, value) for line in lines for key, value in metrics(line).items())
    assert sorted(scalars(run.storage)) == [
        (step, key, pytest.approx(value, rel=1e-6)) for step, key, value in expected
    ]
