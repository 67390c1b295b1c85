"""Two nodes on this host, by Ray's own means: takes no root."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from augft.run import Run
from tests.cluster.driving import SAVED_EVERY, Driver, assert_same

# In a process of its own: Ray reads its token once, and this process may have read another.
TWO_NODES = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
node = cluster.add_node(num_cpus=4)
print(cluster.address, flush=True)
input()
cluster.remove_node(node, allow_graceful=False)
print("lost", flush=True)
input()
cluster.shutdown()
"""


@dataclass(frozen=True)
class TwoNodes:
    address: str
    env: dict[str, str]
    lose_one: Callable[[], None]


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    # Ray's sockets lie in there, and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="af", dir="/tmp") as temporary:
        token = Path(temporary, "token")
        token.write_text(secrets.token_hex(32))
        env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": temporary,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [sys.executable, "-c", TWO_NODES]
        with subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cluster:
            assert cluster.stdin is not None
            assert cluster.stdout is not None

            def lose_one() -> None:
                print(file=cluster.stdin, flush=True)
                assert cluster.stdout.readline() == "lost\n"

            yield TwoNodes(cluster.stdout.readline().strip(), env, lose_one)
            cluster.communicate("\n\n")


def test_a_lost_node_does_not_show(two_nodes: TwoNodes, undisturbed: Run, tmp_path: Path) -> None:
    start = partial(_start, env=two_nodes.env)
    driver = Driver(start, two_nodes.address, tmp_path / "runs", "quick", "--set=scale.placement_strategy=spread")
    driver.wait_for_checkpoint(2 * SAVED_EVERY)
    two_nodes.lose_one()
    assert_same(driver.finish(), undisturbed)
    assert driver.incidents()


def _start(*command: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, text=True, start_new_session=True, **options)
