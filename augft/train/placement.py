"""Who gets which CPUs and GPUs: a job's `scale` against what a machine or cluster has."""

from __future__ import annotations

import os
from dataclasses import dataclass

from augft.config import ScaleConfig
from augft.errors import ResourceError


@dataclass(frozen=True)
class Placement:
    """The resources of a run."""

    use_gpu: bool
    cpus_per_worker: int
    """CPUs that a worker reserves, and threads that it runs."""
    min_actors: int
    max_actors: int
    num_cpus: int
    """CPUs that all of it asks for: what a local Ray has to be given."""
    note: str | None = None
    """What people should know, in a line."""


def local_placement(scale: ScaleConfig) -> Placement:
    """On this machine: whatever the job names runs, on more CPUs than there are if need be, and says so."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_gpus = _local_gpus()
    use_gpu = _use_gpu(scale, num_gpus)
    # Augmenting takes a few per cent of the time that training on CPUs does, so the workers share all of them.
    per_worker = scale.cpus_per_worker if scale.cpus_per_worker != "auto" else max(1, cpus // scale.max_workers)
    low, high = _actors(scale, spare_cpus=cpus // 2)
    needed = scale.max_workers * per_worker + high
    named = scale.max_workers * (1 if scale.cpus_per_worker == "auto" else per_worker) + low
    note = None
    if named > max(cpus, 2):
        note = (
            f"{scale.max_workers} workers and {low} augmentation actors share {cpus} CPUs: "
            "the result is the same, the time is not"
        )
    return Placement(use_gpu, per_worker, low, high, max(cpus, needed), note)


def cluster_placement(scale: ScaleConfig, resources: dict[str, float]) -> Placement:
    """On a cluster: what its nodes have is all there is.

    Args:
        scale: of the job.
        resources: Ray's totals, such as `{"CPU": 16.0, "GPU": 2.0}`.

    Raises:
        ResourceError: the workers and the fewest actors do not fit.
    """
    cpus = int(resources.get("CPU", 0))
    use_gpu = _use_gpu(scale, int(resources.get("GPU", 0)))
    least_actors = _actors(scale, spare_cpus=1)[0]
    share = max(1, (cpus - least_actors) // scale.max_workers)
    per_worker = scale.cpus_per_worker if scale.cpus_per_worker != "auto" else share
    low, high = _actors(scale, spare_cpus=cpus - scale.max_workers * per_worker)
    needed = scale.min_workers * per_worker + low
    if needed > cpus:
        raise ResourceError(
            f"{scale.min_workers} workers x {per_worker} CPUs and {low} augmentation actors need {needed} CPUs, the "
            f"cluster has {cpus}: lower scale.num_workers, scale.cpus_per_worker or scale.augment_actors"
        )
    return Placement(use_gpu, per_worker, low, min(high, cpus - scale.min_workers * per_worker), needed)


def _actors(scale: ScaleConfig, spare_cpus: int) -> tuple[int, int]:
    if isinstance(scale.augment_actors, int):
        return scale.augment_actors, scale.augment_actors
    low, high = scale.augment_actors
    return low, max(low, spare_cpus) if high == "auto" else high


def _use_gpu(scale: ScaleConfig, num_gpus: int) -> bool:
    if scale.use_gpu is True and num_gpus < scale.min_workers:
        raise ResourceError(
            f"scale.use_gpu: {scale.min_workers} workers need a GPU each, there are {num_gpus}; "
            "set scale.use_gpu=false or lower scale.num_workers"
        )
    return num_gpus >= scale.max_workers if scale.use_gpu == "auto" else scale.use_gpu


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()
