"""Two ranks over gloo: replicas stay equal, and learn what one rank would."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import ray.train.torch
import torch
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from augft.augment.apply import augment_batch
from augft.augment.policy import Policy
from augft.config import Job, load_job_text
from augft.data.pack import pack
from augft.data.packed import open_packed
from augft.data.plan import Plan
from augft.data.units import RankBatch
from augft.errors import DataError
from augft.train.learner import Learner
from augft.train.ranks import FirstFailure, Ranks

# Workers do not find test modules by name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("local_ray")

# Batch statistics are a rank's own; frozen, the gradient is a plain sum over samples.
JOB = """
model: {name: resnet20, weights: none, bn: frozen}
train: {global_batch_size: 33, precision: fp32, optimizer: {lr: 0.1}, grad_accum_steps: 2}
"""


def _step(config: dict[str, Any]) -> dict[str, Any]:
    """One step of this rank's share; returns what every rank has after it."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
    job: Job = config["job"]
    dataset = open_packed(config["packed"])
    plan = Plan(200, seed=0, epochs=1, global_batch_size=job.train.global_batch_size)
    learner = Learner(job, dataset, plan, ranks)
    batch = _share(dataset, plan, ranks)
    losses, correct = learner.backward(batch)
    learner.update(0)
    weights = torch.cat([p.detach().flatten() for p in learner.model.parameters()]).numpy()
    return {
        "digests": ranks.gather(hashlib.sha256(weights.tobytes()).hexdigest()),
        "pictures": ranks.gather([hashlib.sha256(image.tobytes()).hexdigest() for image in batch.images]),
        "loss": ranks.sum([float(losses.double().sum()), float(len(correct))]),
        "integers": ranks.sum_integers(np.array([2**63 + ranks.rank], np.uint64)).tolist(),
        "weights": weights,
    }


def _share(dataset: Any, plan: Plan, ranks: Ranks) -> RankBatch:
    start, stop = plan.share(0, ranks.rank, ranks.world_size)
    items = plan.items(np.arange(start, stop))
    images, labels = dataset.split("train").gather(items.sample)
    images = augment_batch(images, Policy.from_config("digits"), seed=0, epoch=0, sample_ids=items.sample)
    return RankBatch(0, images, labels, items.epoch, items.sample, items.copy + 1, 0)


def _run(packed: Path, num_workers: int, folder: Path) -> dict[str, Any]:
    trainer = TorchTrainer(
        _step,
        train_loop_config={"job": load_job_text(JOB, "the test's job"), "packed": str(packed)},
        scaling_config=ScalingConfig(num_workers=num_workers),
        run_config=RunConfig(name=f"ranks{num_workers}", storage_path=str(folder)),
    )
    return dict(trainer.fit().return_value)


def test_two_ranks_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    packed = pack("digits", tmp_path / "packed", image_size=12)
    one, two = _run(packed, 1, tmp_path), _run(packed, 2, tmp_path)
    assert len(two["digests"]) == 2
    assert len(set(two["digests"])) == 1
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["loss"][1] == 33
    assert two["integers"] == [1]  # 2 * 2**63 + 1, modulo 2**64
    np.testing.assert_allclose(two["weights"], one["weights"], atol=2e-6)
    shares = two["pictures"]
    assert [len(share) for share in shares] == [16, 17]
    assert len({picture for share in shares for picture in share}) == 33, "pictures of a batch share their draws"


def _one_cannot_go_on() -> dict[str, Any]:
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
    failure = FirstFailure()
    with failure:
        if ranks.rank == 1:
            raise DataError("its disk is empty")
    try:
        ranks.agree(failure)
    except DataError as error:
        return {"said": ranks.gather(str(error))}
    return {"said": ranks.gather("all is well")}


def test_what_one_rank_meets_all_are_told(tmp_path: Path) -> None:
    trainer = TorchTrainer(
        _one_cannot_go_on,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="agree", storage_path=str(tmp_path)),
    )
    assert trainer.fit().return_value == {"said": ["its disk is empty"] * 2}
