"""A Ray cluster on hosts of this machine, with token authentication on.

Paths below `RayHosts.shared` are seen by all nodes; temporary folders, caches and object stores are each node's own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import INTERFACE, Host, Network, NoHostsError

HEAD = "head"
PORT = 6379
_BIN = Path(sys.executable).parent

# Of every process of the cluster. A node that vanishes closes no connection, so it is lost when it has not answered
# for a time: some 12 s here, where Ray's own settings make up to a minute of it. Not less: this machine is three nodes,
# and a busy one is not to be taken for a lost one.
_NOTICE_LOSSES = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
# Of the driver: an elastic run that misses a worker waits this long for it, instead of a minute.
_WAIT_FOR_WORKERS = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}


class RayHosts:
    """A head and any number of other nodes.

    Args:
        num_cpus: of the head, as Ray counts them.
        labels: of the head.

    Raises:
        NoHostsError: hosts cannot be made here.
    """

    def __init__(self, num_cpus: int, labels: dict[str, str]) -> None:
        self._network = Network()
        self._nodes: dict[str, tuple[int, dict[str, str]]] = {}
        try:
            self.shared = self._network.folder / "shared"
            self.shared.mkdir()
            (self.shared / "token").write_text(secrets.token_hex(32))
            self._add(HEAD, num_cpus, labels)
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        return f"{HEAD}:{PORT}"

    @property
    def hosts(self) -> dict[str, Host]:
        """The hosts by name, also those that are down or no nodes."""
        return self._network.hosts

    def environment(self) -> dict[str, str]:
        """What every process of the cluster has, on any of its hosts."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AUGFT_"))}
        return {
            **inherited,
            **_NOTICE_LOSSES,
            **_WAIT_FOR_WORKERS,
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.shared / "token"),
            "RAY_TMPDIR": str(self._network.disk),
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUGFT_CACHE": str(self._network.disk / "cache"),
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",  # the nodes share few CPUs: who waits shall not spin
        }

    def add_node(self, name: str, num_cpus: int, labels: dict[str, str]) -> Host:
        """A further node; one that was there before gets its old address and an empty disk."""
        return self._add(name, num_cpus, labels)

    def add_host(self, name: str) -> Host:
        """A host on the same network that is no node: somebody's own machine."""
        return self._network.add(name)

    def kill_node(self, name: str, silently: bool = True) -> None:
        """SIGKILL all of a node; silently: it vanishes from the network, and no connection to it is closed."""
        self._network.kill(name, silently)

    def revive(self, name: str) -> Host:
        """A killed node comes back, as a new machine of the old name and address."""
        return self._add(name, *self._nodes[name])

    def heal(self) -> None:
        """Bring back whatever is down; without its head, the whole cluster is made anew."""
        if not self.hosts[HEAD].is_up:
            for name in self._nodes:
                if self.hosts[name].is_up:
                    self.kill_node(name)
        for name in self._nodes:
            if not self.hosts[name].is_up:
                self.revive(name)

    def start(self, name: str, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command on a node; see `Host.start`."""
        return self.hosts[name].start(*command, env=self.environment(), **options)

    def run(self, name: str, *command: str, timeout_s: float = 120) -> str:
        """Run a command on a node to its end; see `Host.run`."""
        return self.hosts[name].run(*command, env=self.environment(), timeout_s=timeout_s)

    def stop(self) -> None:
        """Leave no process, network or file behind."""
        self._network.close()

    def _add(self, name: str, num_cpus: int, labels: dict[str, str]) -> Host:
        self._nodes[name] = num_cpus, labels
        try:
            return self._start_node(name, num_cpus, labels)
        except AssertionError:  # Ray gives a node 30 s to start, which a busy machine may not have
            self._network.kill(name, silently=False)
            return self._start_node(name, num_cpus, labels)

    def _start_node(self, name: str, num_cpus: int, labels: dict[str, str]) -> Host:
        host = self._network.add(name)
        role = [f"--address={self.hosts[HEAD].address}:{PORT}"]
        if name == HEAD:
            role = ["--head", f"--port={PORT}", "--include-dashboard=true", f"--dashboard-host={host.address}"]
        self.run(
            name,
            "ray",
            "start",
            *role,
            f"--node-ip-address={host.address}",
            f"--num-cpus={num_cpus}",
            "--num-gpus=0",
            f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}",
            f"--temp-dir={self._network.disk}/ray",
            "--object-store-memory=300000000",
            "--disable-usage-stats",
        )
        return host


@contextmanager
def ray_hosts_or_skip(num_cpus: int, labels: dict[str, str]) -> Iterator[RayHosts]:
    """A cluster, so far of a head, and nothing of it afterwards; where there can be none, the test is skipped."""
    try:
        cluster = RayHosts(num_cpus, labels)
    except NoHostsError as error:
        pytest.skip(str(error))
    try:
        yield cluster
    finally:
        cluster.stop()
