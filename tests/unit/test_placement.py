"""Who gets which CPUs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from augft.config import ScaleConfig
from augft.errors import ResourceError
from augft.train import nodes as nodes_module
from augft.train import placement
from augft.train.nodes import Node, nodes_of
from augft.train.placement import Placement, cluster_placement, local_placement

TRAIN, AUGMENT = {"role": "train"}, {"role": "augment"}


def machine(monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int = 0) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setattr(placement, "_local_gpus", lambda: gpus)


def scale(**keys: Any) -> ScaleConfig:
    return ScaleConfig.model_validate(keys)


def cluster(*nodes: int | Node) -> list[Node]:
    """Nodes a, b, c, … of so many CPUs."""
    return [Node("abcdefgh"[n], node) if isinstance(node, int) else node for n, node in enumerate(nodes)]


def workers(found: Placement) -> dict[str, int]:
    return {seat.node: seat.workers for seat in found.seats if seat.workers}


def actors(found: Placement) -> dict[str, int]:
    return {seat.node: seat.actors for seat in found.seats if seat.actors}


# ---- this machine ----------------------------------------------------------------------------------------------------


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
    for num_workers in (1, 2, 7, [1, 3]):
        for augment_actors in (1, 6, [1, 9], [2, "auto"]):
            found = local_placement(scale(num_workers=num_workers, augment_actors=augment_actors))
            most = num_workers if isinstance(num_workers, int) else num_workers[1]
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


def test_this_machine_has_no_labels_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 8)
    found = local_placement(scale(worker_label_selector=TRAIN, placement_strategy="spread"))
    assert (found.worker_labels, found.actor_labels, found.strategy) == ({}, {}, "SPREAD")


# ---- a cluster -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "nodes", "per_worker", "num_actors"),
    [
        ({"num_workers": 4, "augment_actors": [2, "auto"]}, [16], 3, (2, 4)),
        ({"num_workers": 2, "cpus_per_worker": 4, "augment_actors": [1, 100]}, [16], 4, (1, 8)),
        # A worker lies on one node: two of 3 CPUs would be as many as these have together.
        ({"num_workers": 2}, [4, 2], 2, (1, 2)),
        ({"num_workers": 2}, [4, 4], 3, (1, 2)),
        ({"num_workers": 2}, [4, 4, 4], 4, (1, 4)),
        ({"num_workers": 2, "augment_actors": [4, "auto"]}, [4, 4], 2, (4, 4)),
        ({"num_workers": 1}, [0, 2], 1, (1, 1)),
        # Packed, both go to the larger node; spread, each has one of its own.
        ({"num_workers": 2}, [8, 2], 4, (1, 2)),
        ({"num_workers": 2, "placement_strategy": "spread"}, [8, 2], 2, (1, 6)),
        ({"num_workers": 3, "placement_strategy": "spread"}, [8, 2], 2, (1, 4)),
    ],
)
def test_cpus_of_workers_and_actors(
    keys: dict[str, Any], nodes: list[int], per_worker: int, num_actors: tuple[int, int]
) -> None:
    found = cluster_placement(scale(**keys), cluster(*nodes))
    assert found.cpus_per_worker == per_worker
    assert (found.min_actors, found.max_actors) == num_actors
    assert found.note is None


def test_gpu_workers_leave_the_cpus_to_actors() -> None:
    nodes = cluster(Node("g", 16, 2), Node("h", 16, 2), Node("c", 32))
    found = cluster_placement(scale(num_workers=3, augment_actors=[1, 40]), nodes)
    assert found.use_gpu
    assert found.cpus_per_worker == placement.GPU_WORKER_CPUS
    assert workers(found) == {"g": 2, "h": 1}
    assert actors(found) == {"c": 32, "g": 8}  # the nodes with GPUs last
    assert not cluster_placement(scale(num_workers=5), nodes).use_gpu
    assert cluster_placement(scale(num_workers=[2, 9]), nodes).use_gpu
    note = cluster_placement(scale(num_workers=5), nodes).note
    assert note == "4 GPUs are too few for 5 workers, which train on CPUs"
    with pytest.raises(ResourceError, match="5 workers need a GPU each, there are 4"):
        cluster_placement(scale(num_workers=5, use_gpu=True), nodes)


def test_spread_workers_sit_apart() -> None:
    assert workers(cluster_placement(scale(num_workers=2, cpus_per_worker=1), cluster(4, 4))) == {"a": 2}
    spread = scale(num_workers=2, cpus_per_worker=1, placement_strategy="spread")
    assert workers(cluster_placement(spread, cluster(4, 4))) == {"a": 1, "b": 1}
    assert cluster_placement(spread, cluster(4, 4)).strategy == "SPREAD"


def test_labels_say_who_sits_where() -> None:
    nodes = cluster(Node("a", 4, labels=TRAIN), Node("b", 4, labels=TRAIN), Node("c", 6, labels=AUGMENT))
    found = cluster_placement(
        scale(num_workers=2, worker_label_selector=TRAIN, actor_label_selector={"role": "!in(train,idle)"}), nodes
    )
    assert (found.cpus_per_worker, found.max_actors) == (4, 6)
    assert workers(found) == {"a": 1, "b": 1}
    assert actors(found) == {"c": 6}
    assert found.worker_labels == TRAIN


def test_workers_without_a_label_may_take_the_nodes_of_actors() -> None:
    # Ray may place the worker on a, where alone the actors may be: so it leaves a CPU there.
    found = cluster_placement(
        scale(num_workers=1, actor_label_selector=AUGMENT), cluster(Node("a", 4, labels=AUGMENT), 8)
    )
    assert found.cpus_per_worker == 8, "a worker that does not fit on a leaves it alone"
    found = cluster_placement(
        scale(num_workers=1, actor_label_selector=AUGMENT), cluster(Node("a", 4, labels=AUGMENT), 4)
    )
    assert (found.cpus_per_worker, found.max_actors) == (3, 1)


@pytest.mark.parametrize(
    ("keys", "nodes", "message"),
    [
        ({}, [], "the cluster has no node with CPUs"),
        ({}, [0], "the cluster has no node with CPUs"),
        ({"num_workers": 4}, [4], "4 workers x 1 CPU leave 0 of 4 CPUs, too few for 1 augmentation actor: they would"),
        ({"num_workers": 2, "cpus_per_worker": 4}, [8], "2 workers x 4 CPUs leave 0 of 8 CPUs"),
        ({"augment_actors": 8}, [8], "leave 7 of 8 CPUs, too few for 8 augmentation actors"),
        (
            {"num_workers": 2, "cpus_per_worker": 3},
            [4, 2],
            r"2 workers x 3 CPUs do not fit, there is room for 1 \(each lies on one node, they have 4, 2 CPUs\)",
        ),
        ({"cpus_per_worker": 5}, [4, 4], "a worker of 5 CPUs fits on no node, they have 4, 4 CPUs"),
        (
            {"worker_label_selector": {"role": "trian"}},
            [Node("a", 4, labels={"ray.io/node-id": "1", "role": "train"})],
            "scale.worker_label_selector: no node has role=trian, the labels there are role=train: change it",
        ),
        ({"actor_label_selector": AUGMENT}, [4], "scale.actor_label_selector: .*the labels there are none"),
        ({"worker_label_selector": {"role": "in()"}}, [4], "scale.worker_label_selector: Invalid label selector"),
        ({"worker_label_selector": {"role": "in(a, b)"}}, [4], r"in\(a, b\)' holds a space"),
        (
            {"num_workers": 2, "cpus_per_worker": 2, "worker_label_selector": TRAIN},
            [Node("a", 2, labels=TRAIN), Node("b", 8)],
            r"there is room for 1 \(each lies on one node, they have 2 CPUs\)",
        ),
        (
            {"num_workers": 1, "actor_label_selector": AUGMENT, "cpus_per_worker": 4},
            [Node("a", 4, labels=AUGMENT), Node("b", 8)],
            "leave 0 of 4 CPUs of the nodes for actors",
        ),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], nodes: list[Any], message: str) -> None:
    with pytest.raises(ResourceError, match=message) as refused:
        cluster_placement(scale(**keys), cluster(*nodes))
    assert "\n" not in str(refused.value)


# ---- elastic runs ----------------------------------------------------------------------------------------------------


def test_an_elastic_run_leaves_room_for_actors_at_any_size() -> None:
    # Ray Train counts no actors: with one CPU each it would start four workers, and the actor never.
    found = cluster_placement(scale(num_workers=[1, 8]), cluster(4))
    assert (found.cpus_per_worker, found.max_actors) == (3, 1)
    with pytest.raises(ResourceError, match="4 workers x 1 CPU leave 0 of 4 CPUs"):
        cluster_placement(scale(num_workers=[1, 8], cpus_per_worker=1), cluster(4))


def test_an_elastic_run_survives_the_loss_of_a_node_where_it_can() -> None:
    found = cluster_placement(scale(num_workers=[1, 2]), cluster(0, 3, 3))
    assert (found.cpus_per_worker, found.max_actors, found.note) == (2, 2, None)
    found = cluster_placement(scale(num_workers=[1, 2], cpus_per_worker=2), cluster(2, 2, 2))
    assert found.note is not None
    assert "keeps only a would wait for ever: workers of 2 CPUs leave too little for 1 augmentation" in found.note
    # Fewer than two workers never run, so only pairs of nodes matter.
    found = cluster_placement(scale(num_workers=[2, 4], cpus_per_worker=2), cluster(2, 2, 2, 2, 2))
    assert found.note is not None
    assert "keeps only a, b would" in found.note
    assert cluster_placement(scale(num_workers=[2, 4], cpus_per_worker=2), cluster(3, 3, 3)).note is None


def test_an_elastic_run_with_labels_knows_that_ray_counts_all_nodes() -> None:
    nodes = cluster(Node("a", 4, labels=TRAIN), 4)
    with pytest.raises(ResourceError, match=r"lower the most of scale\.num_workers to 1"):
        cluster_placement(scale(num_workers=[1, 2], cpus_per_worker=3, worker_label_selector=TRAIN), nodes)
    nodes = cluster(Node("a", 4, labels=TRAIN), Node("b", 4, labels=TRAIN), 4)
    found = cluster_placement(scale(num_workers=[1, 2], cpus_per_worker=3, worker_label_selector=TRAIN), nodes)
    assert found.note is not None
    assert "may wait for ever: Ray Train counts the CPUs of nodes that do not match" in found.note


# ---- trials, and nodes that are still to come ------------------------------------------------------------------------


def test_trials_count_their_drivers_workers_and_actors() -> None:
    found = cluster_placement(scale(num_workers=2), cluster(8), trials=2)
    assert (found.cpus_per_worker, found.min_actors, found.max_actors, found.num_cpus) == (1, 1, 2, 8)
    message = "6 workers x 1 CPU of 3 trials leave 2 of 8 CPUs, too few for 3 augmentation actors and the 3 drivers"
    with pytest.raises(ResourceError, match=message):
        cluster_placement(scale(num_workers=2), cluster(8), trials=3)
    assert cluster_placement(scale(num_workers=2, cpus_per_worker=2), cluster(8)).note is None
    with pytest.raises(ResourceError, match="run fewer trials at a time"):
        cluster_placement(scale(num_workers=2, cpus_per_worker=2), cluster(8), trials=2)


def test_a_cluster_that_grows_refuses_nothing_that_may_come() -> None:
    found = cluster_placement(
        scale(num_workers=4, use_gpu=True, worker_label_selector=TRAIN), cluster(2), autoscaled=True
    )
    assert found.use_gpu
    assert found.waits
    assert (found.cpus_per_worker, found.min_actors) == (1, 1)
    assert found.note is not None
    assert found.note.startswith("waits for nodes that the autoscaler has to start (scale.worker_label_selector")
    nothing_up = cluster_placement(scale(num_workers=2, cpus_per_worker=8), [], autoscaled=True)
    assert (nothing_up.cpus_per_worker, nothing_up.max_actors) == (8, 1)
    with pytest.raises(ResourceError, match="Invalid label selector"):
        cluster_placement(scale(worker_label_selector={"role": "in()"}), [], autoscaled=True)


# ---- all clusters ----------------------------------------------------------------------------------------------------

_NODES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from([{}, TRAIN, AUGMENT])), min_size=1, max_size=4
)
_SCALES = st.fixed_dictionaries(
    {
        "num_workers": st.one_of(st.integers(1, 4), st.sampled_from([[1, 2], [1, 4], [2, 5]])),
        "use_gpu": st.sampled_from(["auto", True, False]),
        "cpus_per_worker": st.one_of(st.just("auto"), st.integers(1, 4)),
        "augment_actors": st.one_of(st.integers(1, 3), st.sampled_from([[1, "auto"], [2, 4]])),
        "placement_strategy": st.sampled_from(["pack", "spread"]),
        "worker_label_selector": st.sampled_from([{}, TRAIN]),
        "actor_label_selector": st.sampled_from([{}, AUGMENT, {"role": "!train"}]),
    }
)


@given(_SCALES, _NODES)
def test_whoever_is_seated_has_a_cpu(keys: dict[str, Any], sizes: list[tuple[int, int, dict[str, str]]]) -> None:
    nodes = {str(n): Node(str(n), cpus, gpus, labels) for n, (cpus, gpus, labels) in enumerate(sizes)}
    job = scale(**keys)
    try:
        found = cluster_placement(job, list(nodes.values()))
    except ResourceError:
        return
    assert job.min_workers <= sum(workers(found).values()) <= job.max_workers
    assert sum(actors(found).values()) >= found.min_actors
    for seat in found.seats:
        node = nodes[seat.node]
        assert seat.workers * found.cpus_per_worker + seat.actors <= node.cpus
        assert not seat.workers or node.matches(job.worker_label_selector)
        assert not seat.actors or node.matches(job.actor_label_selector)
        assert not found.use_gpu or seat.workers <= node.gpus


# ---- what Ray says of its nodes --------------------------------------------------------------------------------------


def test_nodes_are_those_that_are_alive() -> None:
    listing = [
        {
            "Alive": True,
            "NodeID": "aaaaaaaa",
            "NodeManagerAddress": "10.0.0.1",
            "Resources": {"CPU": 4.0, "GPU": 1.0, "object_store_memory": 1e9},
            "Labels": {"role": "train"},
        },
        {"Alive": False, "NodeID": "bbbbbbbb", "NodeManagerAddress": "10.0.0.2", "Resources": {}, "Labels": {}},
        {"Alive": True, "NodeID": "cccccccc", "NodeManagerAddress": "10.0.0.3", "Resources": {}},
    ]
    assert nodes_of(listing) == [
        Node("10.0.0.1", 4, 1, {"role": "train"}, "aaaaaaaa", 10**9),
        Node("10.0.0.3", 0, node_id="cccccccc"),
    ]
    listing[2]["NodeManagerAddress"] = "10.0.0.1"
    assert [node.name for node in nodes_of(listing)] == ["10.0.0.1/aaaaaa", "10.0.0.1/cccccc"]


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ({}, {"train", "augment", "none"}),
        ({"role": "train"}, {"train"}),
        ({"role": "!train"}, {"augment", "none"}),
        ({"role": "in(train,augment)"}, {"train", "augment"}),
        ({"role": "!in(train,augment)"}, {"none"}),
        ({"role": "train", "zone": "a"}, set()),
    ],
)
def test_label_selectors_are_rays(selector: dict[str, str], matching: set[str]) -> None:
    nodes = [Node("train", 1, labels=TRAIN), Node("augment", 1, labels=AUGMENT), Node("none", 1)]
    assert {node.name for node in nodes if node.matches(selector)} == matching


_ID = "a1" * 28


@pytest.mark.parametrize(
    ("second", "report", "labels", "autoscaled"),
    [
        (False, {"active_nodes": {f"node_{_ID}": 1}, "node_type_mapping": {_ID: f"node_{_ID}"}}, {}, False),
        (False, {"active_nodes": {}, "node_type_mapping": {_ID: "ray.head.default"}}, {}, True),
        (False, {"active_nodes": {"head-group": 1}, "node_type_mapping": None}, {"ray.io/node-group": "head"}, True),
        # Kubernetes groups of fixed size: the autoscaler only looks on.
        (False, {"active_nodes": {f"node_{_ID}": 1}}, {"ray.io/node-group": "head"}, False),
        (False, None, {"ray.io/node-group": "head"}, True),
        (False, None, {}, False),
        (True, None, {"ray.io/node-group": "head"}, True),
        (True, None, {}, False),
    ],
)
def test_whether_more_nodes_may_come(
    monkeypatch: pytest.MonkeyPatch, second: bool, report: Any, labels: dict[str, str], autoscaled: bool
) -> None:
    status = None if report is None else json.dumps({"autoscaler_report": report}).encode()
    monkeypatch.setattr(nodes_module.state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(nodes_module, "is_autoscaler_v2", lambda: second)
    monkeypatch.setattr(nodes_module, "_internal_kv_get", lambda _: status)
    assert nodes_module.is_autoscaled([Node("a", 0, labels=labels)]) is autoscaled
