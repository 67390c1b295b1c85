"""Packing on a Ray cluster: each part is a task on any node, and everything else is as on one machine.

A task that is lost with its process or node is begun anew; what it writes appears whole, so a task that runs twice does
no harm. The source and the set must be seen by every node: an object store, or a folder that all share. An archive
only this machine reads; its pictures are sent.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray

from augft.data.assemble import Say
from augft.data.hf_parquet import find
from augft.data.pack import pack
from augft.data.packed import is_packed
from augft.data.work import Job, Progress
from augft.errors import AugftError, HeadLostError, ResourceError, RunError
from augft.storage import Place, Storage, place
from augft.train.nodes import ask_each, cluster_nodes, is_autoscaled
from augft.train.session import Head, ray_session
from augft.train.visibility import ANSWER_S, marked

T = TypeVar("T")

_RETRIES = 3
_LOOK_S = 5.0
_WRITERS = ("pillow", "pyarrow", "numpy")
"""Packages whose versions decide on the bytes of a set."""


def pack_on_ray(
    source: str,
    out: str,
    *,
    address: str | None,
    workers: int | None,
    image_size: int | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    on_bad: Literal["fail", "skip"] = "fail",
    shuffled: bool = False,
    encoded: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Place:
    """Pack a source on Ray: the same set, byte for byte, as `pack` makes of it.

    Args:
        source, out, image_size, val_fraction, seed, on_bad, shuffled, encoded, progress, say: as of `pack`.
        address: of a cluster; None for a Ray of this machine.
        workers: how many tasks run at a time, of a CPU each; None for one a CPU.

    Raises:
        ResourceError: no cluster answers, it has fewer CPUs, or a node does not see source or set.
        RunError: a task was lost again and again.
        As `pack`.
    """
    with ray_session(address, num_cpus=workers or os.cpu_count() or 1):
        crew = Tasks(workers)
        final = place(out)
        if address is not None:
            check_seen(source, final.absolute() if isinstance(final, Path) else final)
        return pack(
            source,
            out,
            image_size=image_size,
            val_fraction=val_fraction,
            seed=seed,
            on_bad=on_bad,
            shuffled=shuffled,
            encoded=encoded,
            progress=progress,
            say=say,
            crew=crew,
        )


class Tasks:
    """Does jobs as Ray tasks, one CPU each; a `Crew`.

    Args:
        num_workers: how many at a time; None for as many as the cluster has CPUs, now or later.

    Raises:
        ResourceError: the cluster has fewer CPUs.
    """

    def __init__(self, num_workers: int | None) -> None:
        self._num = num_workers
        if num_workers is not None and _num_cpus() < num_workers and not is_autoscaled(cluster_nodes()):
            raise ResourceError(f"--workers {num_workers}: the cluster has {_num_cpus()} CPUs, a worker takes one")

    def do(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """See `Crew`."""
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_do)
        head, coming = Head(), iter(jobs)
        running: list[Any] = []
        try:
            while True:
                # Some wait at the nodes, so that none rests while this process reads or looks elsewhere.
                # One at least: an autoscaled cluster may have no CPU until something waits for one.
                most = self._num or max(1, 2 * _num_cpus())
                while len(running) < most and (job := next(coming, None)) is not None:
                    running.append(task.remote(job))
                if not running:
                    return
                ready, running = ray.wait(running, timeout=_LOOK_S)
                if not ready and head.is_lost():
                    raise HeadLostError(f"the head of the cluster, {head.address}, does not answer any more")
                yield from map(_result, ready)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _do(job: Job[T]) -> T:
    with warnings.catch_warnings():  # as in `Threads`
        warnings.simplefilter("ignore")
        return job(None)


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AugftError | OSError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise RunError(
            f"a task was lost {_RETRIES + 1} times ({' '.join(str(error).split())[:200]}): "
            "the same command goes on with what is done, perhaps with fewer --workers"
        ) from None


def _num_cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 0))


# ---- who sees what ---------------------------------------------------------------------------------------


def check_seen(source: str, final: Place) -> None:
    """Ask every node that has CPUs whether it sees the source, writes where the set shall be, and writes the same.

    Raises:
        ResourceError: one does not; names the node, the path and what to do.
        StorageError: this process cannot write there itself.
    """
    where = str(final.parent) if isinstance(final, Path) else final
    seen = _seen_by_all(source)
    nodes = [node for node in cluster_nodes() if node.cpus > 0]
    with marked(where) as marker:
        for answer in ask_each(nodes, look, seen, where, marker, _versions(), timeout_s=ANSWER_S):
            if problem := answer.error or answer.value:
                raise ResourceError(f"node {answer.node.name} {problem}")


def _seen_by_all(source: str) -> tuple[str, str] | None:
    """The source's folder and a file in it, where the nodes read it themselves."""
    path = place(source)
    if source in ("digits", "cifar10") or is_packed(source):
        return None
    if isinstance(path, str):
        return path, ""
    if path.is_file():
        return (str(path.parent.absolute()), path.name) if find(path) else None
    first = next((file for file in path.rglob("*") if file.is_file()), path)
    return str(path.absolute()), str(first.relative_to(path))


def look(seen: tuple[str, str] | None, where: str, marker: str, versions: dict[str, str]) -> str | None:
    """What is wrong at this node, in words that go on from its name."""
    share = "use a folder that all nodes share, or s3://"
    if (mine := _versions()) != versions:
        other = next(name for name in versions if mine[name] != versions[name])
        return f"has {other} {mine[other]}, here it is {versions[other]}: the set would not be the same; install that"
    try:
        if seen is not None and not Storage(seen[0]).exists(seen[1]):
            return f"does not see the pictures at {seen[0]}: {share}"
    except AugftError as error:
        return f"does not see the pictures ({error}): {share}"
    storage = Storage(where, must_exist=True)
    try:
        if storage.read(marker) != marker.encode():
            return f"reads something else than was written from {where}: {share}"
        storage.write(f"{marker}.{os.getpid()}", b"")
        storage.remove(f"{marker}.{os.getpid()}")
    except AugftError as error:
        return f"does not see {where}, or may not write there ({error}): {share}"
    return None


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _WRITERS}
