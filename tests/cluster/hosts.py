"""Hosts on one Linux machine: each has its own network, processes, mounts and name, and all hang on one switch.

A host is a process that is number 1 of its own namespaces; whatever runs in the host dies with it, and the kernel
then takes the namespaces away. That process in turn dies with the one that made it, also by SIGKILL: so nothing stays
behind a test that was killed, but its folder. The switch is a bridge in a network namespace of its own: nothing of it
shows on the machine, and any number of networks may exist side by side.

Hosts see the machine's files, as machines share a network disk. What lies below `Network.disk` is each host's own, at
the same path in each, and so is /dev/shm.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

INTERFACE = "eth0"
_TOOLS = ("ip", "unshare", "nsenter", "setpriv")
_SHM_BYTES = 2**30

# Number 1 of a host. It adopts the orphans of the host, and takes no notice when they end: the kernel then removes
# them.
_BOOT = """
set -e
hostname {name}
mount -t tmpfs -o size={shm} tmpfs /dev/shm
mount --bind {own_disk} {disk}
mount --bind {names} /etc/hosts
ip link set lo up
trap '' CHLD
echo up
exec sleep infinity
"""


class NoHostsError(Exception):
    """Hosts cannot be made here; the message says why."""


class Host:
    """A running host. `Network.add` makes one."""

    def __init__(self, name: str, address: str, boot: str) -> None:
        self.name = name
        self.address = address
        command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._machine = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command, "sh", "-c", boot],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._machine.stdout is not None
        assert self._machine.stderr is not None
        if self._machine.stdout.readline().strip() != "up":
            self._machine.kill()
            raise NoHostsError(f"namespaces cannot be made here: {self._machine.communicate()[1].strip()}")
        [self._first] = psutil.Process(self._machine.pid).children()
        self.network_id = network_id(self._first.pid)
        """Tells its network from all others of this machine."""

    @property
    def pid(self) -> int:
        """Of the host's number 1, as the machine counts."""
        return int(self._first.pid)

    @property
    def is_up(self) -> bool:
        return self._machine.poll() is None

    def start(self, *command: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a command in this host, in the current folder, as the leader of a process group of its own.

        Args:
            command: the program and its arguments.
            env: its environment; None: this process's own.
            options: of `subprocess.Popen`.
        """
        inside = ["nsenter", "--target", str(self.pid), "--net", "--pid", "--mount", "--uts", "--ipc", "--"]
        return subprocess.Popen(
            [*inside, "env", "-C", os.getcwd(), *command], env=env, text=True, start_new_session=True, **options
        )

    def run(self, *command: str, env: dict[str, str] | None = None, timeout_s: float = 120) -> str:
        """Run a command in this host to its end; returns what it printed.

        Raises:
            AssertionError: it failed.
        """
        process = self.start(*command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            printed = process.communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, f"{self.name}: {' '.join(command)}: exit {process.returncode}\n{printed}"
        return str(printed)

    def processes(self, *titles: str) -> list[psutil.Process]:
        """What runs in this host, oldest first.

        Args:
            titles: how the command lines begin; none: everything.
        """
        found = []
        for process in psutil.process_iter():
            if process.pid != self._machine.pid and network_id(process.pid) == self.network_id:
                with suppress(psutil.NoSuchProcess):
                    if " ".join(process.cmdline()).startswith(titles or ("",)):
                        found.append(process)
        return sorted(found, key=psutil.Process.create_time)

    def kill(self) -> None:
        """SIGKILL everything in it at once; `wait` is until it is gone."""
        self._machine.kill()

    def wait(self) -> None:
        """Until nothing of a killed host is left."""
        self._machine.communicate()
        # The kernel has ended the host's processes before it lets go of its number 1.
        psutil.wait_procs([self._first])


class Network:
    """A switch, and the hosts on it, by name.

    Raises:
        NoHostsError: not on this machine, or not as this user.
    """

    def __init__(self) -> None:
        _check_possible()
        # Short: Ray's sockets lie in there, and a socket's path has to be under 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="af", dir="/tmp"))
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        self._names = self.folder / "hosts"
        self._names.write_text("127.0.0.1 localhost\n")
        self._addresses: dict[str, str] = {}
        self._ports: dict[str, str] = {}
        self._made: list[Host] = []
        self.hosts: dict[str, Host] = {}
        try:
            self._switch = self._boot("switch", "")
            self._link("add", "bridge", "type", "bridge")
            self._link("set", "bridge", "up")
        except BaseException:
            self.close()
            raise

    def add(self, name: str) -> Host:
        """A new host, or one of an earlier name: that gets its old address and an empty disk."""
        number = list(self._addresses).index(name) if name in self._addresses else len(self._addresses)
        if name not in self._addresses:
            self._addresses[name] = f"10.77.0.{number + 1}"
            with self._names.open("a") as names:
                names.write(f"{self._addresses[name]} {name}\n")
        host = self.hosts[name] = self._boot(name, self._addresses[name])
        # The address of the card stays with the name as well, so that neighbours find the host again.
        card = ["peer", "name", INTERFACE, "address", f"02:00:00:00:00:{number + 1:02x}", "netns", str(host.pid)]
        # Not by the host's name: a vanished host's port is there until the kernel finds the time.
        port = self._ports[name] = f"port{len(self._made)}"
        self._link("add", port, "type", "veth", *card)
        self._link("set", port, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{host.address}/24", "dev", INTERFACE)
        host.run("ip", "link", "set", INTERFACE, "up")
        return host

    def kill(self, name: str, silently: bool) -> None:
        """Kill all of a host; silently: cut it from the network before, so that none of its connections is closed."""
        if silently:
            self._link("set", self._ports[name], "down")
        self.hosts[name].kill()
        self.hosts[name].wait()

    def close(self) -> None:
        """End all hosts and remove the folder.

        Raises:
            AssertionError: something of it is left.
        """
        for host in self._made:
            host.kill()
        for host in self._made:
            host.wait()
        shutil.rmtree(self.folder)
        ours = {host.network_id for host in self._made}
        left = [process for process in psutil.process_iter() if network_id(process.pid) in ours]
        assert not left, f"still there, and the hosts' networks with them: {left}"

    def _link(self, *arguments: str) -> None:
        """`ip link` in the switch's network; process ids are the machine's."""
        inside = ["nsenter", "--target", str(self._switch.pid), "--net"]
        subprocess.run([*inside, "ip", "link", *arguments], check=True, stdin=subprocess.DEVNULL)

    def _boot(self, name: str, address: str) -> Host:
        own_disk = self.folder / f"{name}.{len(self._made)}"
        own_disk.mkdir()
        boot = _BOOT.format(name=name, shm=_SHM_BYTES, own_disk=own_disk, disk=self.disk, names=self._names)
        host = Host(name, address, boot)
        self._made.append(host)
        return host


def _check_possible() -> None:
    if sys.platform != "linux":
        raise NoHostsError("hosts are made of Linux namespaces")
    if os.geteuid() != 0:
        raise NoHostsError("hosts are made of namespaces, which takes root")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise NoHostsError(f"hosts take {', '.join(missing)}: install iproute2 and util-linux")


def network_id(pid: int) -> str | None:
    """Of a process's network namespace; None where the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None
