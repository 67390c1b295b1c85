"""How many pictures a second an actor augments and a worker trains on: the job's own, for about a second each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from math import ceil

import numpy as np
import torch

from augft.augment.actor import Augmenter
from augft.augment.apply import NUM_VIEWS
from augft.augment.policy import Policy
from augft.config import Job
from augft.data.packed import open_packed
from augft.data.plan import IntArray, Plan
from augft.data.units import RankBatch
from augft.train.ahead import Ahead
from augft.train.learner import Learner
from augft.train.ranks import Ranks

MEASURE_S = 1.0
_UNIT_ROWS = 2048
"""Pictures that the actor is given at a time; further ones cost the same."""


@dataclass(frozen=True)
class Trial:
    """What is measured."""

    job: Job
    policy: Policy
    plan: Plan
    packed: str
    sample_ids: IntArray
    num_workers: int
    threads: int
    """Of a worker."""

    def augmenter(self) -> Augmenter:
        """As the stream would start it."""
        on_device = self.job.augment.where == "device"
        num_views = NUM_VIEWS if self.job.train.jsd_weight and not on_device else 1
        policy = Policy(name="none") if on_device else self.policy
        return Augmenter(self.packed, "train", self.sample_ids, self.plan, policy, num_views)


def actor_rate(trial: Trial) -> float:
    """Pictures a second of one actor, without what Ray takes to pass them on."""
    augmenter = trial.augmenter()
    positions = np.arange(min(_UNIT_ROWS, trial.plan.num_items), dtype=np.int64)
    return _rate(lambda: augmenter.columns(positions), len(positions))


def worker_rate(trial: Trial) -> float:
    """Pictures a second of one worker, without the exchange of gradients with others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        job = trial.job
        policy = trial.policy if job.augment.where == "device" else None
        learner = Learner(job, open_packed(trial.packed), trial.plan, Ranks(0, 1, device), policy)
        share = min(ceil(trial.plan.global_batch_size / trial.num_workers), trial.plan.num_items)
        columns = trial.augmenter().columns(np.arange(share, dtype=np.int64))
        one = RankBatch(
            step=0,
            images=columns["image"],
            labels=columns["label"],
            epochs=columns["epoch"],
            sample_ids=columns["sample_id"],
            copies=columns["copy"],
            digest=0,
        )

        with closing(Ahead((one for _ in count()), learner.send, device)) as ahead:

            def step() -> None:
                batch, sent = next(ahead)
                losses, _ = learner.backward(batch, sent)
                losses.sum().item()  # as the loop does: the host waits for the device
                learner.update(0)

            return _rate(step, share)
    finally:
        torch.set_num_threads(threads)


def _rate(action: Callable[[], object], num_images: int) -> float:
    """Images a second of an action that takes so many at a time; the first time, which compiles, does not count."""
    action()
    began_at, times = time.perf_counter(), 0
    while times == 0 or time.perf_counter() - began_at < MEASURE_S:
        action()
        times += 1
    return times * num_images / (time.perf_counter() - began_at)
