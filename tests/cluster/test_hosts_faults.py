"""A worker, an actor, the driver or a node is killed at a random moment: the run ends as if nothing had happened.

    AUGFT_FAULTS=20 pytest tests/cluster/test_hosts_faults.py

Each repetition is a function of its seed, but for what the moment hits; four that follow each other have one of each.
"""

from __future__ import annotations

import html
import os
import random
import time
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from augft.run import Run
from tests.cluster.driving import NUM_STEPS, SAVED_EVERY, Driver, actors_on, assert_same, drive, workers_on
from tests.cluster.ray_hosts import RayHosts

REPETITIONS = int(os.environ.get("AUGFT_FAULTS", "4"))
VICTIMS = ("worker", "actor", "driver", "node")
TRAINING_NODES = ("node1", "node2")

# Two of each on two nodes, so that a lost node takes a worker and an actor with it.
MIXED = (
    "--set=scale.placement_strategy=spread",
    "--set=scale.worker_label_selector={role: train}",
    "--set=scale.actor_label_selector={role: train}",
)


@dataclass(frozen=True)
class Fault:
    """What is killed, and when."""

    seed: int
    victim: str
    after_step: int
    """0: as soon as the actors start, before the first step."""
    delay_s: float
    which: float
    """In [0, 1): which of several."""
    silently: bool
    """A node: without closing its connections."""

    @staticmethod
    def drawn(seed: int) -> Fault:
        block, number = divmod(seed, len(VICTIMS))
        victim = random.Random(block).sample(VICTIMS, len(VICTIMS))[number]
        draw = random.Random(seed)
        # A driver that has saved nothing begins anew, and has nothing to tell. Actors are done long before the run is;
        # the last steps are over before a fault is noticed.
        first = SAVED_EVERY if victim == "driver" else 0
        last = NUM_STEPS // 2 if victim == "actor" else NUM_STEPS - 3 * SAVED_EVERY
        step = draw.randrange(first, last, SAVED_EVERY)
        return Fault(seed, victim, step, draw.uniform(0.0, 0.5), draw.random(), silently=block % 2 == 0)


@pytest.mark.parametrize("seed", range(REPETITIONS))
def test_whatever_dies(cluster: RayHosts, undisturbed: Run, seed: int) -> None:
    fault = Fault.drawn(seed)
    print(fault)
    name = f"fault-{seed}"
    driver = drive(cluster, name, *MIXED)
    _await(fault, driver)
    if fault.victim == "driver":
        driver.kill()
        driver = drive(cluster, name, *MIXED, "--resume")
    elif fault.victim == "node":
        cluster.kill_node(_one(fault, list(TRAINING_NODES)), fault.silently)
    else:
        _kill(fault, driver, cluster)
    run = driver.finish()
    assert_same(run, undisturbed)
    incidents = driver.incidents()
    assert incidents, "nothing is said of the fault"
    page = html.unescape(run.storage.read("report.html").decode())
    assert all(incident["text"] in page for incident in incidents)


def _await(fault: Fault, driver: Driver) -> None:
    if fault.after_step:
        driver.wait_for_checkpoint(fault.after_step)
    else:
        driver.wait_until(lambda: "starting the augmentation actors" in driver.log, "actors started")
    time.sleep(fault.delay_s)


def _kill(fault: Fault, driver: Driver, cluster: RayHosts) -> None:
    on = workers_on if fault.victim == "worker" else actors_on

    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [process for node in TRAINING_NODES for process in on(cluster.hosts[node])]
        return bool(found)

    driver.wait_until(look, f"there was something to kill: {fault}")
    victim = _one(fault, found)
    print(f"killed process {victim.pid} with {driver.newest_checkpoint} steps saved")
    victim.kill()


def _one(fault: Fault, choices: list[Any]) -> Any:
    return choices[int(fault.which * len(choices))]
