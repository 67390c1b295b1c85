"""Many trials on one Ray: as many at a time as there is room for, none twice, each gone on with where it broke off.

A trial is a run with a run directory, in one of two forms:

    process   all of it in one process (solo.py): a seat with its CPUs, or a share of a GPU, runs trial after trial
    workers   training workers and augmentation actors, as `augft train` has them; a seat only drives

A job of one training worker takes the first form, which starts in no time and cannot wait for anybody; the other is for
jobs that one worker is too few for. Seats are counted such that all that they ask for fits at the same time: trials
never wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray

from augft.config import Auto, Job
from augft.display import Display
from augft.errors import AugftError, ResourceError, RunError, Stopped
from augft.prepare import prepare_packed
from augft.train.attend import in_a_line
from augft.train.launch import train
from augft.train.nodes import cluster_nodes, is_autoscaled
from augft.train.placement import TRIAL_CPUS, cluster_placement
from augft.train.solo import run_alone

POLL_S = 0.5
_TO_COME = 8
"""Trials at a time where an autoscaler has not started a node yet, and nobody says how many."""


@dataclass(frozen=True)
class Task:
    """A trial to be run."""

    job: Job
    uri: str
    packed: str
    """The packed data set."""


@dataclass(frozen=True)
class Room:
    """How many trials fit, and what each takes."""

    seats: int
    cpus: float
    gpus: float
    in_workers: bool

    def __str__(self) -> str:
        if self.in_workers:
            return f"{self.seats} at a time, each with training workers and augmentation actors"
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.seats} at a time, each a process with {self.cpus:g} CPU{gpus}"


def room_for(job: Job, *, gpus_per_trial: Auto | float = "auto", concurrent: int | None = None) -> Room:
    """The room that there is for trials of a job, on the Ray that is up.

    Args:
        job: of the trials.
        gpus_per_trial: of a trial that is one process; `auto`: one where there are any and the job allows it.
        concurrent: the most trials at a time; None: as many as fit.

    Raises:
        ResourceError: not one fits.
    """
    nodes = cluster_nodes()
    if job.scale.max_workers > 1:
        return _room_for_workers(job, concurrent)
    cpus = trial_threads(job)
    total_gpus = sum(node.gpus for node in nodes) if job.scale.use_gpu is not False else 0
    gpus = (1.0 if total_gpus else 0.0) if gpus_per_trial == "auto" else gpus_per_trial
    fitting = [node for node in nodes if node.matches(job.scale.worker_label_selector)]
    by_cpus = sum(int(node.cpus // cpus) for node in fitting)
    seats = min(by_cpus, int(total_gpus / gpus + 1e-9)) if gpus else by_cpus
    if seats < 1 and is_autoscaled(nodes):
        seats = concurrent or _TO_COME  # each asks for its CPUs, and nodes come
    if seats < 1:
        raise ResourceError(
            f"a trial takes {cpus:g} CPUs and {gpus:g} GPUs, which no node has: lower scale.cpus_per_worker or "
            "gpus_per_trial"
        )
    return Room(min(seats, concurrent or seats), cpus, gpus, in_workers=False)


def trial_threads(job: Job) -> int:
    """CPUs, and threads of PyTorch, of a trial that is one process: one, unless the job names a number.

    Many trials on a thread each are faster than one after another on all.
    """
    return 1 if job.scale.cpus_per_worker == "auto" else job.scale.cpus_per_worker


def _room_for_workers(job: Job, concurrent: int | None) -> Room:
    nodes, seats = cluster_nodes(), 0
    most = concurrent or max(1, int(sum(node.cpus for node in nodes)))
    while seats < most:
        try:
            cluster_placement(job.scale, nodes, trials=seats + 1, autoscaled=False)
        except ResourceError:
            if seats == 0 and not is_autoscaled(nodes):
                raise
            break
        seats += 1
    return Room(max(1, seats), TRIAL_CPUS, 0.0, in_workers=True)


@dataclass
class Outcome:
    """How a trial went."""

    task: Task
    summary: dict[str, Any] | None = None
    error: AugftError | None = None


@dataclass
class _Seat:
    actor: Any
    task: Task | None = None
    running: Any = None


@dataclass
class Trials:
    """Runs tasks.

    Args:
        room: how many at a time.
        max_failures: how often a task is begun again after its process was lost.
        label_selector: of the nodes for seats that train.
        stop_is_asked: asked a few times a second.
    """

    room: Room
    max_failures: int = 3
    label_selector: dict[str, str] = field(default_factory=dict)
    stop_is_asked: Callable[[], bool] = lambda: False

    def run(self, tasks: Sequence[Task], look: Callable[[dict[str, Any]], None] = lambda _: None) -> Iterator[Outcome]:
        """Run all tasks; yields each as it ends.

        Args:
            tasks: begun in this order.
            look: called a few times a second with run directory → how far it is, of those that run.

        Raises:
            Stopped: somebody asked to stop; what was running has saved.
        """
        waiting = deque(tasks)
        failures: dict[str, int] = {}
        seats = [_Seat(self._seat()) for _ in range(min(self.room.seats, len(waiting)))]
        try:
            while waiting or any(seat.task for seat in seats):
                for seat in seats:
                    if seat.task is None and waiting:
                        seat.task = waiting.popleft()
                        seat.running = seat.actor.run.remote(seat.task, self.room)
                busy = [seat for seat in seats if seat.task]
                ready, _ = ray.wait([seat.running for seat in busy], num_returns=1, timeout=POLL_S)
                for seat in busy:
                    if seat.running in ready:
                        outcome = self._outcome(seat, failures)
                        task, seat.task = seat.task, None
                        if outcome is not None:
                            yield outcome
                        elif task is not None:
                            waiting.appendleft(task)
                look(self._progress(busy))
                if self.stop_is_asked():
                    self._stop([seat for seat in seats if seat.task])
                    raise Stopped("stopped, and what ran has saved; go on with --resume")
        finally:
            for seat in seats:
                with suppress(ray.exceptions.RayError):
                    ray.kill(seat.actor)

    def _seat(self) -> Any:
        options: dict[str, Any] = {
            "num_cpus": self.room.cpus,
            "num_gpus": self.room.gpus,
            "max_concurrency": 1 if self.room.in_workers else 3,
        }
        if self.label_selector and not self.room.in_workers:
            options["label_selector"] = self.label_selector
        return ray.remote(**options)(_Runner).remote()

    def _outcome(self, seat: _Seat, failures: dict[str, int]) -> Outcome | None:
        assert seat.task is not None
        try:
            result = ray.get(seat.running)
        except ray.exceptions.RayError as error:  # its process was lost
            seat.actor = self._seat()
            times = failures[seat.task.uri] = failures.get(seat.task.uri, 0) + 1
            if times <= self.max_failures:
                return None
            return Outcome(seat.task, error=RunError(f"{seat.task.uri}: {in_a_line(error)}, {times} times in all"))
        if isinstance(result, AugftError):
            return Outcome(seat.task, error=result)
        return Outcome(seat.task, summary=result)

    def _progress(self, seats: Sequence[_Seat]) -> dict[str, Any]:
        if self.room.in_workers or not seats:
            return {}
        asked = {seat.task.uri: seat.actor.progress.remote() for seat in seats if seat.task}
        found = {}
        for uri, reference in asked.items():
            with suppress(ray.exceptions.RayError):
                found[uri] = ray.get(reference, timeout=POLL_S)
        return found

    def _stop(self, seats: Sequence[_Seat]) -> None:
        """Have what runs save and end; training workers go on from their last checkpoint."""
        if self.room.in_workers:
            return
        with suppress(ray.exceptions.RayError):
            ray.get([seat.actor.stop.remote() for seat in seats], timeout=10.0)
            ray.wait([seat.running for seat in seats], num_returns=len(seats), timeout=60.0)


class _Runner:
    """A seat: runs one task after another."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._at: dict[str, Any] = {}

    def run(self, task: Task, room: Room) -> dict[str, Any] | AugftError:
        """The task's summary, or why there is none."""
        self._at = {}
        try:
            if room.in_workers:
                return train(
                    task.job, run_dir=task.uri, address="auto", resume=True, display=_Silent(), trials=room.seats
                ).summary
            return run_alone(
                task.job,
                task.uri,
                prepared=prepare_packed(task.job, task.packed),
                threads=trial_threads(task.job),
                on_event=self._hear,
                stop_is_asked=self._stop.is_set,
                keep_checkpoints=False,
                with_preview=False,
            )
        except AugftError as error:
            return error

    def progress(self) -> dict[str, Any]:
        """How far the task is: its newest step event."""
        return self._at

    def stop(self) -> None:
        """Have the task end after its step."""
        self._stop.set()

    def _hear(self, event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            self._at = event


class _Silent(Display):
    def say(self, text: str) -> None: ...

    def handle(self, event: dict[str, Any]) -> None: ...

    def count(self, what: str, done: int, total: int | None) -> None: ...
