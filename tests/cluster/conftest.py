"""One cluster of three hosts for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from augft.run import Run
from tests.cluster.driving import AUGFT, train_here
from tests.cluster.ray_hosts import RayHosts, ray_hosts_or_skip

NUM_CPUS = 6
"""Of each node, as Ray counts them: after a node is lost, one has to hold two workers and twice two actors."""


@pytest.fixture(scope="package")
def three_hosts() -> Iterator[RayHosts]:
    with ray_hosts_or_skip(NUM_CPUS, {"role": "augment"}) as cluster:
        for name in ("node1", "node2"):
            cluster.add_node(name, NUM_CPUS, {"role": "train"})
        yield cluster


@pytest.fixture
def cluster(three_hosts: RayHosts) -> Iterator[RayHosts]:
    """A head, labelled `role: augment`, and `node1` and `node2`, labelled `role: train`; all up, and no run on them."""
    three_hosts.heal()
    yield three_hosts
    for host in three_hosts.hosts.values():
        for driver in host.processes(" ".join(AUGFT)):  # of a test that failed
            driver.kill()


@pytest.fixture(scope="package")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The job on this machine alone, with as many workers."""
    return train_here(tmp_path_factory.mktemp("runs") / "undisturbed")
