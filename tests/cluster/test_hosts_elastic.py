"""Two workers, a node lost, one worker, the node back, two workers: nobody intervenes, no sample is lost or twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from augft.augment.actor import Augmenter
from augft.data.units import chain
from augft.display import Display
from augft.prepare import prepare
from augft.run import Run
from augft.storage import Storage
from augft.train.checkpoint import Checkpoints
from tests.cluster.driving import AUGFT, SAVED_EVERY, Driver, drive
from tests.cluster.ray_hosts import HEAD, RayHosts, ray_hosts_or_skip

CPUS_PER_WORKER = 2
STOPPED = 130


@pytest.fixture
def small_nodes() -> Iterator[RayHosts]:
    """Two nodes that have room for one worker each, and a head that has room for none."""
    with ray_hosts_or_skip(num_cpus=CPUS_PER_WORKER - 1, labels={}) as cluster:
        for name in ("node1", "node2"):
            cluster.add_node(name, CPUS_PER_WORKER + 1, {})
        yield cluster


def test_a_node_lost_and_back_again(small_nodes: RayHosts) -> None:
    driver = drive(
        small_nodes,
        "elastic",
        "--set=scale.num_workers=[1, 2]",
        f"--set=scale.cpus_per_worker={CPUS_PER_WORKER}",
        "--set=scale.augment_actors=1",
        "--set=train.epochs=10000",  # however fast the machine is, it trains until it is asked to stop
    )

    def after(change: str, act: Callable[[], object], num_restarts: int) -> None:
        """Act, wait until the run has gone on, print how long that took."""
        begin, step = time.monotonic(), driver.newest_checkpoint
        act()
        driver.wait_until(lambda: len(_resumes(driver)) == num_restarts, f"going on after {change}")
        there = time.monotonic() - begin
        driver.wait_for_checkpoint(driver.newest_checkpoint + SAVED_EVERY)
        saved = time.monotonic() - begin
        print(f"{change} at step {step}: goes on after {there:.0f} s, {SAVED_EVERY} steps further after {saved:.0f} s")

    after("start", lambda: None, 0)
    after("a node lost", lambda: small_nodes.kill_node("node2"), 1)
    after("the node back", lambda: small_nodes.revive("node2"), 2)
    [process] = small_nodes.hosts[HEAD].processes(" ".join(AUGFT))
    process.terminate()
    assert driver.end() == STOPPED, driver.log
    for incident in driver.incidents():
        print(incident)
    assert [text.partition(" with ")[2].split()[0] for text in _resumes(driver)] == ["1", "2"]
    _assert_each_sample_once(Run(str(driver.run_dir)))


def _resumes(driver: Driver) -> list[str]:
    return [incident["text"] for incident in driver.incidents() if incident["what"] == "resume"]


def _assert_each_sample_once(run: Run) -> None:
    """What the run has seen, by the digest of its last checkpoint, is what the plan says of its steps."""
    found = Checkpoints(Storage(run.uri), 1).load(print)
    assert found is not None
    progress = found[0]
    prepared = prepare(run.job, Display())
    plan, ids = prepared.plan, prepared.samples.train_ids
    augmenter = Augmenter(str(prepared.dataset.path), "train", ids, plan, prepared.policy)
    sums = []
    for step in range(progress.cursor):
        rows = augmenter.columns(np.arange(plan.items_before(step), plan.items_before(step + 1)))
        sums.append(np.add.reduce(rows["digest"], dtype=np.uint64))
    assert chain("", np.array(sums)) == progress.stream_digest
    train = [line for line in progress.history if line["split"] == "train"]
    assert [line["num_samples"] for line in train] == [plan.epoch_length] * progress.epoch
