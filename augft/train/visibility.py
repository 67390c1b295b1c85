"""Whether each node of a cluster sees the files of a run: the packed pictures, the run directory, the weights.

A path that is right here may name another disk there, or nothing. So each node is asked, before anything begins.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray

from augft.config import Job
from augft.data.destination import FLEETING
from augft.data.packed import open_packed
from augft.errors import AugftError, ResourceError
from augft.storage import Storage
from augft.train.nodes import Node, ask_each

ANSWER_S = 120.0
"""How long a node may take; its first process has to import everything."""
_SHARE = "a folder that all nodes share, or s3://"


@dataclass(frozen=True)
class Files:
    """What a run reads and writes, as this process names it."""

    packed: str
    """The packed data set."""
    digest: str
    """Of its manifest: another data set may lie at the same place of another node."""
    folder: str | None = None
    """Where the run is written; None: nothing is."""
    weights: str | None = None
    """A file or folder of weights, where the job names one."""
    take: str = "set data.source to that"
    """How the user names pictures that are packed elsewhere."""


@dataclass(frozen=True)
class Blind:
    """A node and what it does not see."""

    node: str
    what: str

    def __str__(self) -> str:
        return f"node {self.node} {self.what}"


def weights_file(weights: str) -> str | None:
    """The path in `model.weights`, if it is one, as workers find it.

    They have another working directory than this process; but what a submitted job brings along, each node unpacks in a
    folder of its own, and there a relative path is right.
    """
    path = Path(weights).expanduser()
    if weights in ("none", "imagenet") or not path.exists():  # a folder of that name is no weights
        return None
    is_sent_along = ray.is_initialized() and "working_dir" in ray.get_runtime_context().runtime_env
    return str(path) if is_sent_along else str(path.absolute())


def resolved_weights(job: Job) -> Job:
    """The job with the path of its weights, if it names one, as workers find it."""
    weights = weights_file(job.model.weights) or job.model.weights
    return job.model_copy(update={"model": job.model.model_copy(update={"weights": weights})})


def check_visible(files: Files, nodes: Sequence[Node], *, timeout_s: float = ANSWER_S) -> None:
    """Ask every node that may hold a worker or an actor.

    Raises:
        ResourceError: one does not see what it needs; names the node, the path and what to do.
    """
    if blind := look_everywhere(files, nodes, timeout_s=timeout_s):
        more = f" (and {len(blind) - 1} more of this kind)" if len(blind) > 1 else ""
        raise ResourceError(f"{blind[0]}{more}")


def look_everywhere(files: Files, nodes: Sequence[Node], *, timeout_s: float = ANSWER_S) -> list[Blind]:
    """What nodes do not see; empty when all is well. Nodes without CPUs get no work and are not asked.

    Raises:
        StorageError: this process cannot write to the folder itself.
    """
    asked = [node for node in nodes if node.cpus > 0]
    with marked(files.folder) as marker:
        answers = ask_each(asked, look, files, marker, timeout_s=timeout_s)
    found = []
    for answer in answers:
        problems = answer.value if answer.error is None else [answer.error]
        found += [Blind(answer.node.name, problem) for problem in problems]
    return found


@contextmanager
def marked(folder: str | None) -> Iterator[str]:
    """Within the block a marker file lies in the folder, if there is one: its name, which is also its content."""
    if folder is None:
        yield ""
        return
    storage = Storage(folder)
    was_there = storage.exists()
    marker = f"{FLEETING}{uuid.uuid4().hex}"
    storage.write(marker, marker.encode())
    try:
        yield marker
    finally:
        storage.remove(marker)
        if storage.local and not was_there:
            with suppress(OSError):  # somebody has begun to use it
                os.rmdir(storage.uri)


def look(files: Files, marker: str) -> list[str]:
    """What this node does not see of the files, each in words that go on from its name."""
    found = []
    try:
        if open_packed(files.packed).manifest.digest != files.digest:
            found.append(f"has other pictures at {files.packed}; `augft pack` them into {_SHARE}, and {files.take}")
    except AugftError as error:
        found.append(
            f"does not see the packed pictures at {files.packed} ({error}); `augft pack` them into {_SHARE}, and "
            f"{files.take}"
        )
    if files.folder is not None and (problem := _look_at_folder(files.folder, marker)):
        found.append(problem)
    if files.weights is not None and not os.path.exists(files.weights):
        found.append(f"does not see the weights at {files.weights}; copy them into {_SHARE}, and set model.weights")
    return found


def _look_at_folder(folder: str, marker: str) -> str | None:
    storage = Storage(folder, must_exist=True)
    try:
        if storage.read(marker) != marker.encode():
            return f"reads something else than was written from {folder}"
    except AugftError:
        return f"does not see {folder}, or not what others write there; set run.storage_path to {_SHARE}"
    mine = f"{marker}.{uuid.uuid4().hex}"
    try:
        storage.write(mine, b"")
        storage.remove(mine)
    except (AugftError, OSError) as error:
        return f"cannot write to {folder} ({error}); let the user that Ray runs as write there"
    return None
