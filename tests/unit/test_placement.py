"""Who gets which CPUs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from augft.config import ScaleConfig
from augft.errors import ResourceError
from augft.train import placement
from augft.train.placement import Placement, cluster_placement, local_placement


def machine(monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int = 0) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setattr(placement, "_local_gpus", lambda: gpus)


def scale(**keys: Any) -> ScaleConfig:
    return ScaleConfig.model_validate(keys)


def test_a_small_machine_runs_whatever_is_named_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2)
    found = local_placement(scale(num_workers=3, augment_actors=4))
    assert found == Placement(False, 1, 4, 4, 7, found.note)
    assert found.note == "3 workers and 4 augmentation actors share 2 CPUs: the result is the same, the time is not"


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_the_default_fits_without_a_note(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    machine(monkeypatch, cpus)
    found = local_placement(scale())
    assert found.note is None
    assert found.cpus_per_worker == cpus
    assert (found.min_actors, found.max_actors) == (1, max(1, cpus // 2))
    assert found.num_cpus == cpus + found.max_actors


def test_workers_share_a_machine_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)
    assert local_placement(scale(num_workers=3)).cpus_per_worker == 2
    assert local_placement(scale(num_workers=[1, 4])).cpus_per_worker == 2
    assert local_placement(scale(num_workers=2, cpus_per_worker=5)).cpus_per_worker == 5
    assert local_placement(scale(num_workers=2, cpus_per_worker=5)).note is not None


def test_what_ray_is_told_is_enough_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4)
    for workers in (1, 2, 7, [1, 3]):
        for actors in (1, 6, [1, 9], [2, "auto"]):
            found = local_placement(scale(num_workers=workers, augment_actors=actors))
            most = workers if isinstance(workers, int) else workers[1]
            assert found.num_cpus >= most * found.cpus_per_worker + found.max_actors
            assert found.min_actors <= found.max_actors


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8, gpus=2)
    assert local_placement(scale(num_workers=2)).use_gpu
    assert not local_placement(scale(num_workers=3)).use_gpu
    assert not local_placement(scale(use_gpu=False)).use_gpu
    assert local_placement(scale(num_workers=2, use_gpu=True)).use_gpu
    with pytest.raises(ResourceError, match=r"3 workers need a GPU each, there are 2; set scale\.use_gpu=false"):
        local_placement(scale(num_workers=3, use_gpu=True))


def test_a_cluster_has_what_it_has() -> None:
    found = cluster_placement(scale(num_workers=4, augment_actors=[2, "auto"]), {"CPU": 16.0})
    assert (found.cpus_per_worker, found.min_actors, found.max_actors) == (3, 2, 4)
    explicit = cluster_placement(scale(num_workers=2, cpus_per_worker=4, augment_actors=[1, 100]), {"CPU": 16.0})
    assert (explicit.cpus_per_worker, explicit.max_actors) == (4, 8)
    assert cluster_placement(scale(num_workers=2), {"CPU": 8.0, "GPU": 2.0}).use_gpu


def test_what_does_not_fit_a_cluster_is_refused() -> None:
    with pytest.raises(ResourceError, match=r"4 workers x 1 CPUs and 1 .* actors need 5 CPUs, the cluster has 4"):
        cluster_placement(scale(num_workers=4), {"CPU": 4.0})
    with pytest.raises(ResourceError, match="need 9 CPUs, the cluster has 8"):
        cluster_placement(scale(num_workers=2, cpus_per_worker=4), {"CPU": 8.0})
    with pytest.raises(ResourceError, match="the cluster has 0"):
        cluster_placement(scale(), {})


def test_an_elastic_job_needs_room_for_its_fewest_workers_only() -> None:
    found = cluster_placement(scale(num_workers=[1, 8]), {"CPU": 4.0})
    assert found.cpus_per_worker == 1
    assert found.min_actors == 1
    # Nothing that fits may deadlock: the fewest workers and all actors have a CPU each.
    assert found.cpus_per_worker + found.max_actors <= 4
