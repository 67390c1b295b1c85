"""Who gets which CPUs and GPUs: a job's `scale` against what a machine or a cluster's nodes have.

On a cluster a worker is one bundle and lies on one node; an augmentation actor takes one CPU, of whatever node its
labels allow. Ray Train reserves all workers first and the actors get what is left, so a job whose workers leave too
little would wait for ever without a word. What would do that is refused here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from augft.config import ScaleConfig
from augft.errors import ResourceError
from augft.train.nodes import Node, selector_error

GPU_WORKER_CPUS = 2
"""CPUs that `auto` gives to a worker with a GPU, at most: it only feeds the device, and actors use the others."""
TRIAL_CPUS = 1
"""CPUs that Ray Tune reserves for the function that drives a trial."""
_SHOWN = 6


@dataclass(frozen=True)
class Seat:
    """Who is likely to sit on a node; Ray decides when the time comes."""

    node: str
    cpus: int
    gpus: int
    workers: int
    actors: int

    def __str__(self) -> str:
        has = _count(self.cpus, "CPU") + (f", {_count(self.gpus, 'GPU')}" if self.gpus else "")
        return f"{self.node} ({has}): {_count(self.workers, 'worker')}, up to {_count(self.actors, 'actor')}"


@dataclass(frozen=True)
class Placement:
    """The resources of a run."""

    use_gpu: bool
    cpus_per_worker: int
    """CPUs that a worker reserves, and threads that it runs."""
    min_actors: int
    max_actors: int
    num_cpus: int
    """CPUs that all of it asks for: what a local Ray has to be given."""
    note: str | None = None
    """What people should know, in a line."""
    strategy: str = "PACK"
    """Ray's, of the workers: PACK or SPREAD."""
    worker_labels: dict[str, str] = field(default_factory=dict)
    """Label selector of the workers; none on this machine, whose node has no labels."""
    actor_labels: dict[str, str] = field(default_factory=dict)
    """Label selector of the actors."""
    seats: tuple[Seat, ...] = ()
    """Nodes where somebody sits; none on this machine."""
    waits: bool = False
    """It does not fit yet, and an autoscaler may bring what is missing."""


def local_placement(scale: ScaleConfig) -> Placement:
    """On this machine: whatever the job names runs, on more CPUs than there are if need be, and says so."""
    cpus = local_cpus()
    num_gpus = _local_gpus()
    if scale.use_gpu is True and num_gpus < scale.min_workers:
        raise ResourceError(_too_few_gpus(scale.min_workers, num_gpus))
    use_gpu = num_gpus >= scale.max_workers if scale.use_gpu == "auto" else scale.use_gpu
    # Augmenting takes a few per cent of the time that training on CPUs does, so the workers share all of them.
    per_worker = scale.cpus_per_worker if scale.cpus_per_worker != "auto" else max(1, cpus // scale.max_workers)
    low, high = _actors(scale, spare_cpus=cpus // 2)
    needed = scale.max_workers * per_worker + high
    named = scale.max_workers * (1 if scale.cpus_per_worker == "auto" else per_worker) + low
    note = None
    if named > max(cpus, 2):
        note = (
            f"{scale.max_workers} workers and {low} augmentation actors share {cpus} CPUs: "
            "the result is the same, the time is not"
        )
    return Placement(use_gpu, per_worker, low, high, max(cpus, needed), note, scale.placement_strategy.upper())


def local_trials_cpus(scale: ScaleConfig) -> int:
    """CPUs that a local Ray is given for trials: this machine's; or, for trials of several workers, what one takes."""
    if scale.max_workers == 1:
        return local_cpus()
    return local_placement(scale).num_cpus + TRIAL_CPUS


def cluster_placement(
    scale: ScaleConfig, nodes: Sequence[Node], *, trials: int | None = None, autoscaled: bool = False
) -> Placement:
    """On a cluster: what its nodes have is all there is, unless more come when they are asked for.

    Args:
        scale: of the job.
        nodes: those that are up.
        trials: how many such jobs Ray Tune runs at a time; None: one, without Tune.
        autoscaled: what is not there may come: what does not fit becomes a note.

    Raises:
        ResourceError: the workers and the fewest actors do not fit; or a label selector is none.
    """
    for key in ("worker_label_selector", "actor_label_selector"):
        if error := selector_error(getattr(scale, key)):
            raise ResourceError(f"scale.{key}: {error}")
    fit = _Fit(scale, nodes, trials)
    per_worker = fit.best_cpus() if scale.cpus_per_worker == "auto" else scale.cpus_per_worker
    notes = []
    if problem := fit.problem(per_worker):
        if not autoscaled:
            raise ResourceError(problem)
        notes.append(f"waits for nodes that the autoscaler has to start ({problem})")
    if autoscaled:
        notes.append("`auto` counts the nodes that are up: name numbers for those that are still to come")
    if scale.use_gpu == "auto" and 0 < fit.num_gpus < fit.fewest:
        notes.append(f"{fit.num_gpus} GPUs are too few for {fit.fewest} workers, which train on CPUs")
    if not problem and (risk := fit.risk(per_worker)):
        notes.append(risk)
    workers = fit.workers(per_worker)
    low, high = _actors(scale, fit.spare(per_worker) // fit.times)
    high = max(low, min(high, fit.spare(per_worker) // fit.times))
    return Placement(
        use_gpu=fit.use_gpu,
        cpus_per_worker=per_worker,
        min_actors=low,
        max_actors=high,
        num_cpus=workers * per_worker + fit.least_cpus,
        note="; ".join(notes) or None,
        strategy=scale.placement_strategy.upper(),
        worker_labels=dict(scale.worker_label_selector),
        actor_labels=dict(scale.actor_label_selector),
        seats=fit.seats(per_worker, high * fit.times),
        waits=problem is not None,
    )


def local_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Fit:
    """What fits where, as a function of the CPUs of a worker."""

    def __init__(self, scale: ScaleConfig, nodes: Sequence[Node], trials: int | None) -> None:
        self._scale, self._trials = scale, trials
        self._nodes = [node for node in nodes if node.cpus > 0]
        self._for_workers = [node for node in self._nodes if node.matches(scale.worker_label_selector)]
        self._for_actors = [node for node in self._nodes if node.matches(scale.actor_label_selector)]
        self.times = trials or 1
        self.fewest, self._most = scale.min_workers * self.times, scale.max_workers * self.times
        self.num_gpus = sum(node.gpus for node in self._for_workers)
        self.use_gpu = self.num_gpus >= self.fewest if scale.use_gpu == "auto" else scale.use_gpu
        if self.use_gpu and self.num_gpus:
            self._for_workers = [node for node in self._for_workers if node.gpus]
        self._num_actors = _actors(scale, spare_cpus=1)[0] * self.times
        self.least_cpus = self._num_actors + TRIAL_CPUS * (trials or 0)
        """CPUs, beside those of the workers, without which nothing moves."""
        self._spread = scale.placement_strategy == "spread"

    def slots(self, nodes: Sequence[Node], cpus: int) -> int:
        """Workers that some nodes could hold."""
        return sum(min(node.cpus // cpus, node.gpus) if self.use_gpu else node.cpus // cpus for node in nodes)

    def workers(self, cpus: int) -> int:
        """Workers that Ray Train would start.

        An elastic run gets as many as the nodes could hold: Ray Train counts neither actors nor labels.
        """
        return max(self.fewest, min(self._most, self.slots(self._nodes, cpus)))

    def spare(self, cpus: int) -> int:
        """CPUs left for actors (and what drives the trials), wherever Ray places the workers."""
        return self._spare(self._for_workers, cpus, self.workers(cpus))

    def _spare(self, hosts: Sequence[Node], cpus: int, workers: int) -> int:
        """The same where workers may lie on `hosts` alone; other nodes that could hold workers are lost."""
        lost = {node.name for node in self._for_workers} - {node.name for node in hosts}
        for_actors = [node for node in self._for_actors if node.name not in lost]
        names = {node.name for node in for_actors}
        shared = [node for node in hosts if node.name in names]
        return sum(node.cpus for node in for_actors) - cpus * min(workers, self.slots(shared, cpus))

    def best_cpus(self) -> int:
        """The most CPUs of a worker with which as many workers as possible fit; of an elastic run if possible such
        that it still fits when it loses nodes."""
        most = max((node.cpus for node in self._for_workers), default=1)
        candidates = range(min(most, GPU_WORKER_CPUS) if self.use_gpu else most, 0, -1)
        for workers in range(self._most, self.fewest - 1, -1):
            if fitting := [cpus for cpus in candidates if self._fits(cpus, workers)]:
                return next((cpus for cpus in fitting if self.risk(cpus) is None), fitting[0])
        return 1

    def _fits(self, cpus: int, workers: int) -> bool:
        if self._spread and len(self._for_workers) >= workers > self._hosts(cpus):
            return False
        enough = workers <= self.workers(cpus) <= self.slots(self._for_workers, cpus)
        return enough and self.spare(cpus) >= self.least_cpus

    def _hosts(self, cpus: int) -> int:
        return sum(node.cpus >= cpus for node in self._for_workers)

    def problem(self, cpus: int) -> str | None:
        """Why the workers and the fewest actors cannot all start."""
        scale = self._scale
        if not self._nodes:
            return "the cluster has no node with CPUs: start Ray there with --num-cpus"
        for key, selector, found in (
            ("worker_label_selector", scale.worker_label_selector, self._for_workers),
            ("actor_label_selector", scale.actor_label_selector, self._for_actors),
        ):
            if not found:
                return (
                    f"scale.{key}: no node has {_pairs(selector.items())}, the labels there are "
                    f"{_labels(self._nodes)}: change it, or start Ray on some node with --labels"
                )
        if self.use_gpu and self.num_gpus < self.fewest:
            return _too_few_gpus(self.fewest, self.num_gpus, " on the nodes it may use")
        workers, room = self.workers(cpus), self.slots(self._for_workers, cpus)
        if room < workers:
            return self._no_room(cpus, workers, room)
        if self.spare(cpus) < self.least_cpus:
            return self._starved(cpus, workers)
        return None

    def _no_room(self, cpus: int, workers: int, room: int) -> str:
        sizes = _list(str(node.cpus) for node in self._for_workers)
        if room == 0:
            return f"a worker of {cpus} CPUs fits on no node, they have {sizes} CPUs: lower scale.cpus_per_worker"
        if workers > self.fewest:
            return (
                f"Ray Train would wait for {workers} workers, since it counts the CPUs of nodes with any label, and "
                f"those for workers have room for {room}: lower the most of scale.num_workers to {room // self.times}"
            )
        return (
            f"{self._those(workers, cpus)} do not fit, there is room for {room} (each lies on one node, they have "
            f"{sizes} CPUs); {self._fewer('scale.num_workers or scale.cpus_per_worker')}"
        )

    def _starved(self, cpus: int, workers: int) -> str:
        total = sum(node.cpus for node in self._for_actors)
        where = " of the nodes for actors" if len(self._for_actors) < len(self._nodes) else ""
        who = _count(self._num_actors, "augmentation actor")
        if self._trials:
            who += f" and the {_count(self._trials, 'driver')} of trials"
        change = self._fewer("scale.num_workers, scale.cpus_per_worker or scale.augment_actors")
        return (
            f"{self._those(workers, cpus)} leave {max(0, self.spare(cpus))} of {total} CPUs{where}, too few for {who}: "
            f"they would wait for each other for ever; {change}"
        )

    def _fewer(self, keys: str) -> str:
        return f"run fewer trials at a time, or lower {keys}" if self._trials else f"lower {keys}"

    def _those(self, workers: int, cpus: int) -> str:
        of = f" of {_count(self._trials, 'trial')}" if self._trials else ""
        return f"{_count(workers, 'worker')} x {_count(cpus, 'CPU')}{of}"

    def risk(self, cpus: int) -> str | None:
        """What would stop an elastic run, which fits now, once it loses nodes."""
        if self.fewest == self._most:
            return None
        hosts = [node for node in self._for_workers if self.slots([node], cpus)]
        if self.slots(self._nodes, cpus) > self.slots(hosts, cpus):
            return (
                "an elastic run that loses a node may wait for ever: Ray Train counts the CPUs of nodes that do not "
                "match scale.worker_label_selector too; give those fewer CPUs than a worker takes"
            )
        # The nodes that workers fill most completely are the worst to be left with.
        left: list[Node] = []
        for node in sorted(hosts, key=lambda node: (node.cpus - cpus * self.slots([node], cpus), -node.cpus)):
            left.append(node)
            if self.slots(left, cpus) >= self.fewest:
                break
        if self._spare(left, cpus, min(self._most, self.slots(left, cpus))) >= self.least_cpus:
            return None
        return (
            f"an elastic run that keeps only {_list(node.name for node in left)} would wait for ever: workers of "
            f"{_count(cpus, 'CPU')} leave too little for {_count(self._num_actors, 'augmentation actor')}; lower "
            "scale.cpus_per_worker, or have larger nodes"
        )

    def seats(self, cpus: int, num_actors: int) -> tuple[Seat, ...]:
        """A likely plan: workers fill node after node, or go one to each; actors keep off GPU nodes while they can."""
        workers = dict.fromkeys((node.name for node in self._nodes), 0)
        left = min(self.workers(cpus), self.slots(self._for_workers, cpus))
        while left:
            for node in sorted(self._for_workers, key=lambda node: node.cpus):
                room = min(left, self.slots([node], cpus) - workers[node.name])
                taken = min(1, room) if self._spread else room
                workers[node.name] += taken
                left -= taken
        seats = {}
        actor_nodes = {node.name for node in self._for_actors}
        for node in sorted(self._nodes, key=lambda node: node.gpus > 0):
            free = node.cpus - cpus * workers[node.name] if node.name in actor_nodes else 0
            seats[node.name] = Seat(node.name, node.cpus, node.gpus, workers[node.name], min(num_actors, free))
            num_actors -= seats[node.name].actors
        found = [seats[node.name] for node in self._nodes]
        return tuple(seat for seat in found if seat.workers or seat.actors)


def _actors(scale: ScaleConfig, spare_cpus: int) -> tuple[int, int]:
    if isinstance(scale.augment_actors, int):
        return scale.augment_actors, scale.augment_actors
    low, high = scale.augment_actors
    return low, max(low, spare_cpus) if high == "auto" else high


def _too_few_gpus(workers: int, num_gpus: int, where: str = "") -> str:
    return (
        f"scale.use_gpu: {workers} workers need a GPU each, there are {num_gpus}{where}; set scale.use_gpu=false or "
        "lower scale.num_workers"
    )


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _pairs(labels: Iterable[tuple[str, str]]) -> str:
    return _list(f"{key}={value}" for key, value in labels)


def _labels(nodes: Sequence[Node]) -> str:
    """The labels that people gave, of all nodes."""
    pairs = {(key, value) for node in nodes for key, value in node.labels.items() if not key.startswith("ray.io/")}
    return _pairs(sorted(pairs)) or "none"


def _list(words: Iterable[str]) -> str:
    """A few of them, and how many more there are."""
    every = list(words)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
