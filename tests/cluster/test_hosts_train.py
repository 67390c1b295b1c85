"""A job on three hosts: who sits where, and what a lost head does."""

from __future__ import annotations

from augft.run import Run
from tests.cluster.driving import APART, SAVED_EVERY, actors_on, assert_same, drive, workers_on
from tests.cluster.ray_hosts import HEAD, RayHosts


def test_a_lost_head_ends_the_run_and_a_new_one_goes_on_with_it(cluster: RayHosts, undisturbed: Run) -> None:
    orphan = drive(cluster, "headless", *APART, node="node1")
    orphan.wait_for_checkpoint(SAVED_EVERY)
    nodes = {name: cluster.hosts[name] for name in (HEAD, "node1", "node2")}
    seats = {name: (len(workers_on(host)), len(actors_on(host))) for name, host in nodes.items()}
    assert seats == {HEAD: (0, 2), "node1": (1, 0), "node2": (1, 0)}

    cluster.kill_node(HEAD)
    assert orphan.end(patience_s=100) == 1  # not only when Ray itself gives up
    assert "--resume" in orphan.log.splitlines()[-1], orphan.log

    cluster.heal()
    resumed = drive(cluster, "headless", *APART, "--resume")
    assert_same(resumed.finish(), undisturbed)
    assert resumed.incidents()
