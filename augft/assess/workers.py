"""Who looks at which chunk: threads of this process, or Ray actors, each at every N-th.

What they find is put together by chunk, so it does not matter who was quick; a lost actor is begun anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from augft.assess.look import Pictures, Task, join
from augft.assess.subject import Subject
from augft.errors import AugftError, ResourceError, RunError
from augft.train.placement import local_cpus

Found = npt.NDArray[Any]
Done = Callable[[int, int], None]

_UNDERWAY = 4
"""Chunks that an actor has waiting: it never idles while the driver looks elsewhere."""


class Workers(Protocol):
    """Looks at pictures: the results of each task, over all chunks."""

    def look(self, subject: Subject, pictures: Pictures, tasks: Sequence[Task], done: Done) -> list[Found]:
        """Args:
        subject: whose model.
        pictures: at which.
        tasks: what is wanted.
        done: called with the number of chunks looked at, and how many there are.
        """
        ...


class Threads:
    """One chunk a CPU at a time, in this process; on a GPU one after the other."""

    def look(self, subject: Subject, pictures: Pictures, tasks: Sequence[Task], done: Done) -> list[Found]:
        """See `Workers`."""
        model = subject.predictor(_device())
        jobs = [(task, chunk) for task in tasks for chunk in range(pictures.num_chunks)]
        num = local_cpus() if model.device.type == "cpu" else 1
        parts: list[Found] = []
        with _single_threaded(), ThreadPoolExecutor(num, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for part in pool.map(lambda job: job[0](model, pictures, job[1]), jobs):
                parts.append(part)
                done(len(parts), len(jobs))
        return _joined(parts, tasks, pictures.num_chunks)


class Actors:
    """Ray actors with a CPU each, and a GPU each where the cluster has enough.

    Args:
        num_workers: how many; 1 too is an actor.

    Raises:
        ResourceError: the cluster has fewer CPUs.
    """

    def __init__(self, num_workers: int) -> None:
        import ray

        resources = ray.cluster_resources()
        if resources.get("CPU", 0) < num_workers:
            raise ResourceError(
                f"--workers {num_workers}: the cluster has {resources.get('CPU', 0):.0f} CPUs, a worker takes one"
            )
        num_gpus = 1 if resources.get("GPU", 0) >= num_workers else 0
        options = {"num_cpus": 1, "num_gpus": num_gpus, "max_restarts": 3, "max_task_retries": 3}
        self._actors = [ray.remote(**options)(Looker).remote() for _ in range(num_workers)]

    def look(self, subject: Subject, pictures: Pictures, tasks: Sequence[Task], done: Done) -> list[Found]:
        """See `Workers`."""
        import ray

        given = [ray.put((subject, pictures, list(tasks)))]  # in a list: an actor fetches it once, not for each chunk
        num = len(self._actors)
        shares = [deque(jobs) for jobs in shares_of(len(tasks), pictures.num_chunks, num)]
        parts: dict[tuple[int, int], Found] = {}
        underway: dict[Any, tuple[int, tuple[int, int]]] = {}

        def give(number: int) -> None:
            if shares[number]:
                job = shares[number].popleft()
                underway[self._actors[number].look.remote(given, *job)] = number, job

        for number in list(range(num)) * _UNDERWAY:
            give(number)
        while underway:
            [ready], _ = ray.wait(list(underway))
            number, job = underway.pop(ready)
            parts[job] = _result(ready)
            give(number)
            done(len(parts), len(tasks) * pictures.num_chunks)
        return _joined([parts[job] for job in sorted(parts)], tasks, pictures.num_chunks)

    def close(self) -> None:
        """Let the actors go."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


class Looker:
    """What an actor runs: one thread, and the model kept from chunk to chunk."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._given: Any = None

    def look(self, given: list[Any], task: int, chunk: int) -> Found:
        """The result of a task for a chunk; `given` holds a reference to subject, pictures and tasks."""
        if self._given != given:
            import ray

            subject, self._pictures, self._tasks = ray.get(given[0])
            self._model, self._given = subject.predictor(_device()), given
        return self._tasks[task](self._model, self._pictures, chunk)  # type: ignore[no-any-return]


def shares_of(num_tasks: int, num_chunks: int, num_workers: int) -> list[list[tuple[int, int]]]:
    """(task, chunk) of each worker: every N-th chunk of each task."""
    return [
        [(task, chunk) for task in range(num_tasks) for chunk in range(worker, num_chunks, num_workers)]
        for worker in range(num_workers)
    ]


def _joined(parts: Sequence[Found], tasks: Sequence[Task], num_chunks: int) -> list[Found]:
    return [join(parts[i * num_chunks : (i + 1) * num_chunks], task) for i, task in enumerate(tasks)]


def _result(reference: Any) -> Found:
    import ray

    try:
        found: Found = np.asarray(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AugftError):
            raise error.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        raise RunError(f"a worker died, again and again: {str(error).splitlines()[0]}; try fewer --workers") from None
    return found


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _single_threaded() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
