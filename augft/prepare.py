"""What a job turns out to be on this data, found out before anything begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from augft.augment.policy import Policy
from augft.config import Job
from augft.data.pack import pack
from augft.data.packed import PackedDataset, PackedSplit, is_packed, open_packed
from augft.data.plan import IntArray, Plan
from augft.data.subset import Subset, subset
from augft.data.windows import Windows
from augft.display import Display
from augft.errors import ConfigError, DataError

WINDOW_BYTES = 2**30
"""Of a window's shards, as a node lays them down, where the job does not say."""
_WINDOWS_LOOKED_AT = 20


@dataclass(frozen=True)
class Prepared:
    """A job's policy, pictures and plan."""

    policy: Policy
    dataset: PackedDataset
    samples: Subset
    plan: Plan


def prepare(job: Job, display: Display, packed_root: str | None = None) -> Prepared:
    """Read the policy, pack the pictures (or find them packed), choose the samples.

    Args:
        job: what to prepare.
        display: where progress is shown.
        packed_root: folder or URI, seen by all nodes, for what is not packed yet; None for this machine's cache.

    Raises:
        PolicyError, ConfigError, DataError: they are wrong.
        StorageError: the packed set could not be written or read.
    """
    _policy(job)  # what is wrong with it is said before anything is packed
    packed = pack(
        job.data.source,
        root=packed_root,
        image_size=None if is_packed(job.data.source) else job.data.image_size,
        on_bad=job.data.on_bad,
        shuffled=job.data.shuffle == "windowed",
        encoded=job.data.store == "encoded",
        progress=lambda done, total: display.count("packing", done, total),
        say=display.say,
    )
    # Workers have other working directories.
    return prepare_packed(job, packed.resolve() if isinstance(packed, Path) else packed)


def prepare_packed(job: Job, packed: str | Path) -> Prepared:
    """The same of pictures that are packed already, wherever the job's source is.

    Args:
        job: what to prepare.
        packed: folder or URI of the packed data set.

    Raises:
        As `prepare`.
    """
    dataset = open_packed(packed)
    height, width, _ = dataset.manifest.image_shape
    if height != width:
        raise ConfigError(
            f"{job.data.source} has pictures of {width}x{height}, and models take squares: set data.image_size, or "
            "augft pack --image-size, which keeps their central square"
        )
    if len(dataset.manifest.classes) < 2:
        raise DataError(f"{job.data.source} has one class only: a classifier needs two")
    if dataset.manifest.encoded and job.augment.where == "device":
        raise ConfigError(
            f"augment.where is device, and {dataset.path} holds picture files, which actors decode and augment in one: "
            "set augment.where to actors, or store pixels (data.store, or augft pack without --encoded)"
        )
    samples = subset(dataset, job.data, job.seed)
    return Prepared(_policy(job), dataset, samples, plan_of(job, dataset, samples))


def _policy(job: Job) -> Policy:
    policy = Policy.from_config(job.augment.policy)
    if job.augment.sampling is not None:
        policy = replace(policy, sampling=job.augment.sampling)
    if policy.changes and policy.epochs is None:
        policy = replace(policy, epochs=job.train.epochs)
    if job.train.jsd_weight and not policy.ends_with_aug_mix:
        raise ConfigError(
            f"train.jsd_weight {job.train.jsd_weight:g} compares mixtures of AugMix: let augment.policy "
            f"(={policy.name}) end with aug_mix, or set train.jsd_weight to 0"
        )
    return policy


def plan_of(job: Job, dataset: PackedDataset, samples: Subset) -> Plan:
    """The plan of a job on these samples of a data set."""
    windows = None
    if job.data.shuffle == "windowed":
        windows = Windows(
            _ends(dataset.split("train"), samples.train_ids), _window_shards(job, dataset), job.data.lanes
        )
    return make_plan(job, len(samples.train_ids), windows)


def make_plan(job: Job, num_samples: int, windows: Windows | None = None) -> Plan:
    """The plan of a job on N samples, and the shards that they lie in."""
    return Plan(
        num_samples,
        seed=job.seed,
        epochs=job.train.epochs,
        global_batch_size=job.train.global_batch_size,
        select=job.augment.select,
        copies=job.augment.copies,
        keep_original=job.augment.keep_original,
        draws=job.augment.draws,
        windows=windows,
    )


def mixing_advice(plan: Plan, labels: npt.NDArray[np.int32]) -> str | None:
    """What to do where windows hold few classes, as those of a set that lies in the order of class folders do.

    Args:
        plan: of the run.
        labels: int32 (N,), of its samples.
    """
    if plan.windows is None:
        return None
    order, num_classes = plan.windows.order(plan.seed, 0), len(np.unique(labels))
    found, by_chance = 0.0, 0.0
    for window in range(min(plan.windows.num_windows, _WINDOWS_LOOKED_AT)):
        first, end = order.bounds(window)
        found += len(np.unique(labels[order.samples(np.arange(first, end))]))
        by_chance += num_classes * (1 - (1 - 1 / num_classes) ** (end - first))
    if found > by_chance / 2:
        return None
    return (
        f"a window of {plan.windows.window_shards} shards holds {found / (window + 1):.0f} of {num_classes} classes: "
        "batches will be of few classes; pack the pictures anew with --shuffle"
    )


def _ends(split: PackedSplit, sample_ids: IntArray) -> IntArray:
    """How many of some ascending sample ids lie in each shard and those before it."""
    return np.append(np.searchsorted(sample_ids, split.first_ids[1:]), len(sample_ids))


def _window_shards(job: Job, dataset: PackedDataset) -> int:
    """As the job says. `auto` is of the data set alone: the order must not depend on the machine."""
    if job.data.window_shards != "auto":
        return job.data.window_shards
    split = dataset.split("train")
    return max(2, round(WINDOW_BYTES * len(split.first_ids) / split.num_bytes))
