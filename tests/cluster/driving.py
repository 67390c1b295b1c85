"""Runs of `augft train` as processes: started on a cluster, looked at from outside, held against each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from augft.run import Run
from tests.cluster.hosts import Host
from tests.cluster.ray_hosts import HEAD, RayHosts

NUM_STEPS = 107
SAVED_EVERY = 5
JOB_FILE = Path(__file__).parents[2] / "jobs" / "cifar10.yaml"
SMALL = (
    "--set=data.source=digits",
    "--set=data.image_size=12",
    "--set=data.labels_per_class=20",
    "--set=augment.copies=2",
    "--set=augment.select=0.5",
    "--set=augment.keep_original=true",
    "--set=model.name=resnet20",
    "--set=train.epochs=24",  # of 400 items
    "--set=train.global_batch_size=90",
    "--set=train.schedule.warmup_steps=10",
    "--set=scale.num_workers=2",
    "--set=scale.cpus_per_worker=1",  # threads decide in which order sums are rounded
    "--set=scale.augment_actors=2",
    "--set=scale.unit_rows=90",  # actors are at work for most of a run, and not done with it at its start
    f"--set=run.checkpoint_every_steps={SAVED_EVERY}",
    "--set=run.trackers=[]",
)
"""Makes of the CIFAR-10 experiment one of seconds, on digits: `NUM_STEPS` of 90."""

# Labels of the cluster's nodes: see conftest.py.
APART = (
    "--set=scale.placement_strategy=spread",
    "--set=scale.worker_label_selector={role: train}",
    "--set=scale.actor_label_selector={role: augment}",
)
"""Two workers on two hosts, the actors on the third."""

PATIENCE_S = 240.0
"""How long anything may take: a busy machine is slow, not wrong."""

AUGFT = (sys.executable, "-m", "augft.cli")
_TIMES = ("images_per_s", "data_wait_s")


def train_here(run_dir: Path) -> Run:
    """Run the job on this machine, without a cluster, undisturbed."""
    # Ray's sockets lie in there, and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="af", dir="/tmp") as temporary:
        env = {**os.environ, "AUGFT_RAY_TEMP_DIR": temporary}
        command = [*AUGFT, "train", str(JOB_FILE), "--run-dir", str(run_dir), *SMALL]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return Run(str(run_dir))


class Driver:
    """An `augft train` of the job on a cluster.

    Args:
        start: starts a command with some arguments; takes `subprocess.Popen`'s options.
        address: of the cluster, as seen from there.
        runs: the folder of all runs, which all nodes see.
        name: of the run; one that is there needs `--resume` among the options.
        options: further arguments.
    """

    def __init__(
        self,
        start: Callable[..., subprocess.Popen[str]],
        address: str,
        runs: Path,
        name: str,
        *options: str,
    ) -> None:
        runs.mkdir(exist_ok=True)
        self.run_dir = runs / name
        self._log = runs / f"{name}.log"
        where = [f"--address={address}", f"--set=run.storage_path={runs}", f"--set=name={name}"]
        with self._log.open("a") as log:
            self._process = start(
                *AUGFT,
                "train",
                str(JOB_FILE),
                *SMALL,
                *where,
                *options,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def log(self) -> str:
        """All that the run has said, its earlier drivers too."""
        return self._log.read_text()

    @property
    def newest_checkpoint(self) -> int:
        """The step of the newest whole checkpoint; 0 without any."""
        whole = self.run_dir.glob("checkpoints/step-*/checkpoint.json")
        return max((int(path.parent.name.removeprefix("step-")) for path in whole), default=0)

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Look until a condition holds.

        Raises:
            AssertionError: the run ended, or time ran out.
        """
        begin = time.monotonic()
        while not condition():
            assert self._process.poll() is None, f"the run ended ({self._process.returncode}) before {what}\n{self.log}"
            assert time.monotonic() - begin < PATIENCE_S, f"after {PATIENCE_S:g} s not {what}\n{self.log}"
            time.sleep(0.05)

    def wait_for_checkpoint(self, step: int) -> None:
        """Look until there is a checkpoint of this step or a later one; as `wait_until`."""
        self.wait_until(lambda: self.newest_checkpoint >= step, f"checkpoint {step}")

    def kill(self) -> None:
        """SIGKILL the driver."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for the exit code."""
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the run has not ended after {patience_s:g} s\n{self.log}") from None

    def finish(self) -> Run:
        """Wait for a run that ends well."""
        assert self.end() == 0, self.log
        return Run(str(self.run_dir))

    def incidents(self) -> list[dict[str, Any]]:
        """What befell the run."""
        path = self.run_dir / "incidents.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def drive(cluster: RayHosts, name: str, *options: str, node: str = HEAD) -> Driver:
    """Start `augft train` on a node of a cluster of hosts; arguments as of `Driver`."""
    return Driver(partial(cluster.start, node), cluster.address, cluster.shared / "runs", name, *options)


def workers_on(host: Host) -> list[psutil.Process]:
    """The training workers that run on a host."""
    return host.processes("ray::RayTrainWorker")


def actors_on(host: Host) -> list[psutil.Process]:
    """The augmentation actors that run on a host."""
    return host.processes("ray::MapWorker", "ray::_MapWorker")


def assert_same(run: Run, undisturbed: Run) -> None:
    """The same samples, metrics and weights, bit for bit."""
    assert run.summary["stream_digest"] == undisturbed.summary["stream_digest"]
    assert _without_times(run) == _without_times(undisturbed)
    assert run.storage.read("model.safetensors") == undisturbed.storage.read("model.safetensors")


def _without_times(run: Run) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in run.metrics]
