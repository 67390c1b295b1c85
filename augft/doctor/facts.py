"""What a node says of itself. These functions run on the node that they speak of."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import ray
from ray._private import worker

from augft.data.packed import cache_dir
from augft.train.nodes import Node, ask_each

PACKAGES = ("augft", "ray", "torch", "torchvision", "numpy", "numba", "pyarrow")
_ROUNDS = 3


@dataclass(frozen=True)
class Disk:
    """The disk below a folder."""

    folder: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class NodeFacts:
    """A node, as it is."""

    versions: dict[str, str]
    """Of Python, CUDA (as PyTorch was built) and `PACKAGES`; "none" of what is not there."""
    cpus: int
    """That a process may use; Ray may count others."""
    gpus: int
    """That PyTorch sees."""
    memory_bytes: int
    shared_memory_bytes: int | None
    """Size of /dev/shm, where there is one."""
    temp: Disk
    """Where Ray keeps its logs, and objects that do not fit into memory."""
    cache: Disk
    """Where packed pictures are laid down as plain pixels."""


@dataclass(frozen=True)
class Clock:
    """A node's clock against this process's: ahead by `offset_s`, give or take `uncertainty_s`."""

    offset_s: float
    uncertainty_s: float


def node_facts() -> NodeFacts:
    """Of the node that this runs on."""
    if ray.is_initialized():
        # Ray hides the GPUs from a task that reserves none.
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    shared = Path("/dev/shm")
    return NodeFacts(
        versions={
            "python": platform.python_version(),
            "cuda": torch.version.cuda or "none",
            **{name: _version(name) for name in PACKAGES},
        },
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=torch.cuda.device_count(),
        memory_bytes=psutil.virtual_memory().total,
        shared_memory_bytes=shutil.disk_usage(shared).total if shared.is_dir() else None,
        temp=_disk(_ray_folder()),
        cache=_disk(cache_dir()),
    )


def clock_of(node: Node, *, timeout_s: float) -> Clock | None:
    """Ask a node for its time, some times; the quickest answer is the best. None: it does not answer."""
    best: Clock | None = None
    for _ in range(_ROUNDS):
        asked_at = time.time()
        answer = ask_each([node], _now, timeout_s=timeout_s)[0]
        took = time.time() - asked_at
        if answer.error is None and (best is None or took / 2 < best.uncertainty_s):
            best = Clock(answer.value - (asked_at + took / 2), took / 2)
    return best


def clocks(nodes: Sequence[Node], *, timeout_s: float) -> dict[str, Clock]:
    """By the names of the nodes that answer."""
    read = {node.name: clock_of(node, timeout_s=timeout_s) for node in nodes}
    return {name: clock for name, clock in read.items() if clock is not None}


def _now() -> float:
    return time.time()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _ray_folder() -> Path:
    if worker._global_node is not None:
        return Path(worker._global_node.get_temp_dir_path())
    return Path(os.environ.get("AUGFT_RAY_TEMP_DIR") or Path(tempfile.gettempdir()) / "ray")


def _disk(folder: Path) -> Disk:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(nearest)
    return Disk(str(folder), usage.free, usage.total)
