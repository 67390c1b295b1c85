"""What a job turns out to be on this data, found out before anything begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from augft.augment.policy import Policy
from augft.config import Job
from augft.data.pack import pack
from augft.data.packed import PackedDataset, is_packed, open_packed
from augft.data.plan import Plan
from augft.data.subset import Subset, subset
from augft.display import Display
from augft.errors import ConfigError


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
        progress=lambda done, total: display.count("packing", done, total),
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
    samples = subset(dataset, job.data, job.seed)
    return Prepared(_policy(job), dataset, samples, make_plan(job, len(samples.train_ids)))


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


def make_plan(job: Job, num_samples: int) -> Plan:
    """The plan of a job on N samples."""
    return Plan(
        num_samples,
        seed=job.seed,
        epochs=job.train.epochs,
        global_batch_size=job.train.global_batch_size,
        select=job.augment.select,
        copies=job.augment.copies,
        keep_original=job.augment.keep_original,
        draws=job.augment.draws,
    )
