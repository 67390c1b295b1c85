"""`augft doctor`: gather, measure, judge, show. No run is begun; what is left are packed pictures, for the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Protocol

import ray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from augft.config import Job, ScaleConfig
from augft.data.stream import MIN_UNIT_ROWS
from augft.display import Display
from augft.doctor import judge
from augft.doctor.facts import Clock, NodeFacts, clocks, node_facts
from augft.doctor.judge import HERE, Finding, Speed
from augft.doctor.measure import Trial, actor_rate, worker_rate
from augft.errors import AugftError, ResourceError
from augft.prepare import Prepared, prepare
from augft.storage import extend_uri
from augft.train.nodes import Node, ask_each, cluster_nodes, in_a_line, is_autoscaled
from augft.train.placement import Placement, cluster_placement, local_placement
from augft.train.session import ray_session
from augft.train.visibility import ANSWER_S, Files, look, look_everywhere, marked, weights_file

_MEASURED_S = 300.0
"""How long a measurement may take, with the wait for free CPUs and all that is compiled or downloaded."""
_WIDTH = 160
"""Columns of a table that no terminal shows."""
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass
class Checkup:
    """What was found; grows while it is looked for."""

    nodes: list[Node]
    facts: dict[str, NodeFacts]
    """By the name of the node."""
    clocks: dict[str, Clock] = field(default_factory=dict)
    cpus_in_use: float = 0.0
    """By others, just now."""
    placement: Placement | None = None
    speed: Speed | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """2 if there is a problem."""
        return 2 if any(finding.level == "problem" for finding in self.findings) else 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def examine(job: Job | None, *, address: str | None, trials: int | None, display: Display) -> Checkup:
    """Look at this machine or a cluster, and at a job on it.

    Args:
        job: None: only at the machines.
        address: of a Ray cluster; None: this machine, without starting Ray.
        trials: how many such jobs Ray Tune would run at a time; None: no Tune.
        display: where it is said what takes a while.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    if address is None:
        return _examine(_Here(), job, None, trials, display)
    display.say(f"connecting to Ray at {address}")
    with ray_session(address, num_cpus=0):
        packed_root = None if job is None else extend_uri(job.run.storage_path, "/.packed")
        return _examine(_Cluster(), job, packed_root, trials, display)


class _Place(Protocol):
    """Where a job would run."""

    def checkup(self) -> Checkup: ...

    def placement(self, scale: ScaleConfig, trials: int | None) -> Placement: ...

    def blind(self, files: Files) -> list[str]: ...

    def run(self, function: Callable[[Trial], float], trial: Trial, **resources: Any) -> float: ...


class _Here:
    """This machine."""

    def checkup(self) -> Checkup:
        facts = node_facts()
        self._node = Node(HERE, facts.cpus, facts.gpus, object_store_bytes=judge.local_store_bytes(facts))
        return Checkup([self._node], {HERE: facts})

    def placement(self, scale: ScaleConfig, trials: int | None) -> Placement:
        # One job pretends to have the CPUs that it needs; trials, of which there are many, do not.
        return local_placement(scale) if trials is None else cluster_placement(scale, [self._node], trials=trials)

    def blind(self, files: Files) -> list[str]:
        with marked(files.folder) as marker:
            return [f"{HERE} {problem}" for problem in look(files, marker)]

    def run(self, function: Callable[[Trial], float], trial: Trial, **resources: Any) -> float:
        return function(trial)


class _Cluster:
    """The Ray cluster that this process is connected to."""

    def checkup(self) -> Checkup:
        self._nodes = cluster_nodes()
        answers = ask_each(self._nodes, node_facts, timeout_s=ANSWER_S)
        facts = {answer.node.name: answer.value for answer in answers if answer.error is None}
        there = [node for node in self._nodes if node.name in facts]
        in_use = ray.cluster_resources().get("CPU", 0.0) - ray.available_resources().get("CPU", 0.0)
        checkup = Checkup(self._nodes, facts, clocks(there, timeout_s=ANSWER_S), in_use)
        checkup.findings += judge.of_answers(answers)
        checkup.findings += judge.of_versions({HERE: node_facts(), **facts})
        checkup.findings += judge.of_gpus(self._nodes, facts)
        checkup.findings += judge.of_clocks(checkup.clocks)
        return checkup

    def placement(self, scale: ScaleConfig, trials: int | None) -> Placement:
        return cluster_placement(scale, self._nodes, trials=trials, autoscaled=is_autoscaled(self._nodes))

    def blind(self, files: Files) -> list[str]:
        return [str(blind) for blind in look_everywhere(files, self._nodes)]

    def run(self, function: Callable[[Trial], float], trial: Trial, **resources: Any) -> float:
        asked = ray.remote(max_retries=0, **resources)(function).remote(trial)
        try:
            return float(ray.get(asked, timeout=_MEASURED_S))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(asked, force=True)
            raise ResourceError(f"no answer within {_MEASURED_S:g} s: are its CPUs in use by others?") from None
        except ray.exceptions.RayTaskError as error:
            raise ResourceError(in_a_line(error.cause or error)) from None


def _examine(place: _Place, job: Job | None, packed_root: str | None, trials: int | None, display: Display) -> Checkup:
    checkup = place.checkup()
    found = checkup.findings
    if job is None:
        found += judge.of_disks(checkup.facts, None)
        return checkup
    try:
        checkup.placement = place.placement(job.scale, trials)
        total = sum(node.cpus for node in checkup.nodes)
        found += judge.of_placement(checkup.placement, total, trials)
        if checkup.cpus_in_use:
            found += judge.of_use(checkup.placement.num_cpus, total, checkup.cpus_in_use)
    except ResourceError as error:
        found.append(Finding("problem", str(error)))
    try:
        prepared = prepare(job, display, packed_root)
        manifest = prepared.dataset.manifest
        laid_down = sum(prepared.dataset.split(name).num_bytes for name in prepared.dataset.splits)
        found += judge.of_disks(checkup.facts, laid_down)
        files = Files(
            str(prepared.dataset.path), manifest.digest, job.run.storage_path, weights_file(job.model.weights)
        )
        blind = place.blind(files)
        found += [Finding("problem", each) for each in blind]
        if not blind:
            found.append(Finding("ok", f"pictures, weights and {job.run.storage_path} are seen, and can be written to"))
        if checkup.placement is not None and not checkup.placement.waits and not blind:
            found += _of_stream(job, prepared, checkup, checkup.placement)
            display.say("measuring an augmentation actor and a training worker")
            checkup.speed = _measure(place, job, prepared, checkup.placement)
            found += judge.of_speed(checkup.speed, checkup.placement)
    except AugftError as error:
        found.append(Finding("problem", str(error)))
    return checkup


def _of_stream(job: Job, prepared: Prepared, checkup: Checkup, placement: Placement) -> list[Finding]:
    needed, unit = judge.stream_bytes(
        global_batch_size=job.train.global_batch_size,
        num_workers=job.scale.max_workers,
        max_actors=placement.max_actors,
        row_bytes=prod(prepared.dataset.manifest.image_shape),
        unit_rows=MIN_UNIT_ROWS if job.scale.unit_rows == "auto" else job.scale.unit_rows,
    )
    return judge.of_store(needed, unit, checkup.nodes)


def _measure(place: _Place, job: Job, prepared: Prepared, placement: Placement) -> Speed:
    trial = Trial(
        job=job,
        policy=prepared.policy,
        plan=prepared.plan,
        packed=str(prepared.dataset.path),
        sample_ids=prepared.samples.train_ids,
        num_workers=job.scale.max_workers,
        threads=placement.cpus_per_worker,
    )
    gpu = {"num_gpus": 1} if placement.use_gpu else {}
    return Speed(
        actor=place.run(actor_rate, trial, num_cpus=1, label_selector=placement.actor_labels or None),
        worker=place.run(
            worker_rate,
            trial,
            num_cpus=placement.cpus_per_worker,
            label_selector=placement.worker_labels or None,
            **gpu,
        ),
        num_workers=job.scale.max_workers,
    )


# ---- for people ------------------------------------------------------------------------------------------------------


def show(checkup: Checkup, console: Console | None = None) -> None:
    """Print a checkup: the machines, who sits where, the findings."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    console.print(_machines(checkup))
    if checkup.placement is not None:
        for line in _plan(checkup.placement):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print()
    for finding in checkup.findings:
        level = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
        console.print(level.append(f" {finding.text}", style="default"), soft_wrap=True)


def _machines(checkup: Checkup) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("node", "CPUs", "GPUs", "memory", "object store", "clock", "Python", "Ray", "PyTorch", "labels"):
        table.add_column(name, overflow="fold")
    for node in checkup.nodes:
        facts, clock = checkup.facts.get(node.name), checkup.clocks.get(node.name)
        versions = facts.versions if facts else {}
        table.add_row(
            node.name,
            str(node.cpus),
            str(node.gpus),
            judge.size(facts.memory_bytes) if facts else "",
            judge.size(node.object_store_bytes),
            f"{clock.offset_s:+.3f} ± {clock.uncertainty_s:.3f} s" if clock else "",
            *(versions.get(name, "no answer") for name in ("python", "ray", "torch")),
            " ".join(f"{key}={value}" for key, value in node.labels.items() if not key.startswith("ray.io/")),
        )
    return table


def _plan(placement: Placement) -> list[str]:
    device = "a GPU" if placement.use_gpu else f"{placement.cpus_per_worker} CPUs"
    head = f"who sits where: workers with {device} each, {placement.min_actors} to {placement.max_actors} actors"
    return ["", head, *(f"  {seat}" for seat in placement.seats), "  driver: where augft runs; it reserves nothing"]
