"""The hosts themselves: apart where machines are, together where machines are, and gone afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.hosts import Network, NoHostsError


@pytest.fixture
def network() -> Iterator[Network]:
    try:
        made = Network()
    except NoHostsError as error:
        pytest.skip(str(error))
    yield made
    made.close()
    assert not made.folder.exists()


def test_hosts_share_a_network_and_files_but_no_disk_and_no_processes(network: Network) -> None:
    one, other = network.add("one"), network.add("other")
    note = network.disk / "note"
    one.run("sh", "-c", f"echo mine > {note}")
    other.run("sh", "-c", f"test ! -e {note} && echo yours > {note}")
    assert one.run("cat", str(note)) == "mine\n"
    assert one.run("hostname") == "one\n"
    assert [process.pid for process in one.processes()] == [one.pid]

    server = other.start(sys.executable, "-m", "http.server", "80", "--directory", str(network.disk))
    fetch = "import urllib.request; print(urllib.request.urlopen('http://other/note', timeout=1).read().decode())"
    retry = f"for _ in 1 2 3 4 5 6 7 8 9 10; do '{sys.executable}' -c \"{fetch}\" 2>/dev/null && exit; sleep 1; done"
    assert "yours" in one.run("sh", "-c", retry)
    network.kill("other", silently=True)
    assert server.wait(10) != 0
    assert not other.is_up
    assert other.processes() == []

    again = network.add("other")
    assert again.address == other.address
    again.run("test", "!", "-e", str(note))


MAKER = """
from tests.cluster.hosts import Network
network = Network()
print(network.folder, network.add("one").pid, flush=True)
input()
"""


def test_hosts_die_with_the_process_that_made_them(network: Network) -> None:
    root, pipe = Path(__file__).parents[2], subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", MAKER], cwd=root, stdin=pipe, stdout=pipe, text=True) as maker:
        assert maker.stdout is not None
        folder, pid = maker.stdout.readline().split()
        first = psutil.Process(int(pid))
        maker.kill()
    assert not psutil.wait_procs([first], timeout=10)[1]
    shutil.rmtree(folder)
