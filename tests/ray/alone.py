"""A run in this process, with as many threads as a worker on this machine has: the same run, without Ray's start."""

from __future__ import annotations

from pathlib import Path

import torch

from augft.config import Job
from augft.run import Run
from augft.train.placement import local_placement
from augft.train.solo import run_alone


def train_alone(job: Job, run_dir: Path) -> Run:
    """Run a job of one worker."""
    before = torch.get_num_threads()
    try:
        run_alone(job, str(run_dir), threads=local_placement(job.scale).cpus_per_worker)
    finally:
        torch.set_num_threads(before)
    return Run(str(run_dir))
