"""One local Ray for all tests here, and for no others: starting one takes longer than most of them."""

from __future__ import annotations

import gc
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partialmethod

import psutil
import pytest
from ray._private.parameter import RayParams

from augft.train.session import ray_session
from tests.ray.processes import titles

_RAYS_OWN = {
    "ray::ActorLocationTracker",
    "ray::DashboardAgent",
    "ray::IDLE",
    "ray::IDLE_RestoreWorker",
    "ray::IDLE_SpillWorker",
    "ray::RuntimeEnvAgent",
    "ray::_AutoscalingCoordinatorActor",
    "ray::_StatsActor",
}
"""Processes that Ray keeps for itself as long as it is up."""


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    # Ray's sockets live in its folder, and a socket's path has to be short.
    folder = tempfile.mkdtemp(prefix="aray", dir="/tmp")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AUGFT_RAY_TEMP_DIR", folder)
            # Any port: the usual one is for a Ray that a test starts beside this, which would try for it for 4 s.
            init = partialmethod(RayParams.__init__, dashboard_agent_listen_port=0)
            patch.setattr(RayParams, "__init__", init)
            with ray_session(None, num_cpus=8):
                yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _no_actor_is_left() -> Iterator[None]:
    """A Ray outlives what runs on it: what a command starts there, it ends."""
    before, handler = _actors().keys(), signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)  # a bare trainer leaves its own, which holds its controller
    deadline = time.monotonic() + 30
    while left := {actor: title for actor, title in _actors().items() if actor not in before}:
        assert time.monotonic() < deadline, f"still running on Ray after these tests: {sorted(left.values())}"
        gc.collect()  # handles of what a test has let go of
        time.sleep(0.2)


def _actors() -> dict[psutil.Process, str]:
    return {
        process: title
        for process, title in titles().items()
        if title.startswith("ray::") and title.partition(".")[0] not in _RAYS_OWN
    }
