"""Every file in jobs/ is a job: it trains for two steps on the digits, one of several workers on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from augft.config import load_job
from augft.train.launch import train
from tests.ray.alone import train_alone

pytestmark = pytest.mark.usefixtures("local_ray")

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_two_steps(path: Path, tmp_path: Path) -> None:
    job = load_job(path)
    elsewhere = ["data.source=digits", f"run.storage_path={tmp_path}", "run.baseline=null", "train.stop.steps=2"]
    if job.model.weights == "imagenet":  # a download
        elsewhere.append("model.weights=none")
    if job.data.labels_per_class is not None:  # the digits have 140 a class
        elsewhere.append("data.labels_per_class=20")
    job = job.replace([*elsewhere, "train.global_batch_size=16", "model.input_size=null"])
    several = job.scale.max_workers > 1
    run = train(job, run_dir=str(tmp_path / "run")) if several else train_alone(job, tmp_path / "run")
    assert run.summary["steps"] == 2
    assert run.job.augment == job.augment
