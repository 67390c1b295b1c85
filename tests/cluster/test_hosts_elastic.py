"""Two workers, a node lost, one worker, the node back, two workers: nobody intervenes, no sample is lost or twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from driving import SAVED_EVERY, Driver, drive
from ray_hosts import RayHosts, ray_hosts_or_skip

from augft.run import Run

# Slow enough that the node is back before the run is over. The digest knows the samples and their pixels, but no model.
SLOW = ("--set=model.name=resnet110", "--set=model.input_size=32")
CPUS_PER_WORKER = 2


@pytest.fixture
def small_nodes() -> Iterator[RayHosts]:
    """Two nodes that have room for one worker each, and a head that has room for none."""
    with ray_hosts_or_skip(num_cpus=CPUS_PER_WORKER - 1, labels={}) as cluster:
        for name in ("node1", "node2"):
            cluster.add_node(name, CPUS_PER_WORKER + 1, {})
        yield cluster


def test_a_node_lost_and_back_again(small_nodes: RayHosts, undisturbed: Run) -> None:
    driver = drive(
        small_nodes,
        "elastic",
        "--set=scale.num_workers=[1, 2]",
        f"--set=scale.cpus_per_worker={CPUS_PER_WORKER}",
        "--set=scale.augment_actors=1",
        *SLOW,
    )

    def after(change: str, act: Callable[[], object], num_restarts: int) -> None:
        """Act, wait until the run has gone on, print how long that took."""
        begin = time.monotonic()
        act()
        driver.wait_until(lambda: len(_resumes(driver)) == num_restarts, f"going on after {change}")
        there = time.monotonic() - begin
        driver.wait_for_checkpoint(driver.newest_checkpoint + SAVED_EVERY)
        saved = time.monotonic() - begin
        print(f"{change}: goes on after {there:.0f} s, {SAVED_EVERY} steps further after {saved:.0f} s")

    after("start", lambda: None, 0)
    after("a node lost", lambda: small_nodes.kill_node("node2"), 1)
    after("the node back", lambda: small_nodes.revive("node2"), 2)
    run = driver.finish()
    for incident in driver.incidents():
        print(incident)
    assert [text.partition(" with ")[2].split()[0] for text in _resumes(driver)] == ["1", "2"]
    assert run.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert _num_samples(run) == _num_samples(undisturbed)


def _resumes(driver: Driver) -> list[str]:
    return [incident["text"] for incident in driver.incidents() if incident["what"] == "resume"]


def _num_samples(run: Run) -> list[tuple[str, int, int]]:
    return [(line["split"], line["epoch"], line["num_samples"]) for line in run.metrics]
