"""One cluster of three hosts for all tests here, and a look at the end whether anything of them is left."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import psutil
import pytest
from driving import AUGFT, train_here
from ray_hosts import RayHosts, ray_hosts_or_skip

from augft.run import Run

_MARK = "TESTS_OF_AUGFT"
NUM_CPUS = 6
"""Of each node, as Ray counts them: after a node is lost, one has to hold two workers and twice two actors."""


@pytest.fixture(scope="package", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever is started here inherits a mark; at the end no process carries it."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, mark)
        yield
    _, left = psutil.wait_procs(_marked(mark), timeout=10)  # a Ray that has just been shut down
    for process in left:
        process.kill()
    assert not left, f"still running after the tests: {left}"


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="package")
def three_hosts(_nothing_is_left: None) -> Iterator[RayHosts]:
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
def undisturbed(tmp_path_factory: pytest.TempPathFactory, _nothing_is_left: None) -> Run:
    """The job on this machine alone, with as many workers."""
    return train_here(tmp_path_factory.mktemp("runs") / "undisturbed")
