"""What follows from the facts: findings, each a line that says what, where and what to do. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

from augft.data.stream import UNITS_AHEAD, UNITS_IN_STORE
from augft.data.units import steps_per_unit
from augft.doctor.facts import Clock, Disk, NodeFacts
from augft.train.nodes import Answer, Node
from augft.train.placement import Placement

HERE = "this machine"
"""What this process's machine is called beside the names of nodes."""

_MUST_AGREE = ("augft", "ray", "torch")
_GB = 1e9
_LOW_TEMP_BYTES, _FULL_SHARE = 2 * _GB, 0.06
_CLOCK_S, _WRONG_CLOCK_S = 1.0, 300.0
# As Ray does it.
_STORE_SHARE, _SHM_SHARE, _MAX_STORE_BYTES = 0.3, 0.95, 200 * _GB


@dataclass(frozen=True)
class Finding:
    """A line."""

    level: Literal["ok", "warning", "problem"]
    text: str


@dataclass(frozen=True)
class Speed:
    """What was measured, in pictures a second."""

    actor: float
    """Of one augmentation actor."""
    worker: float
    """Of one training worker."""
    num_workers: int

    @property
    def actors_needed(self) -> int:
        """Actors that keep all workers busy."""
        return ceil(self.num_workers * self.worker / self.actor)


def of_answers(answers: Sequence[Answer]) -> list[Finding]:
    """Nodes that said nothing, or only what went wrong."""
    return [
        Finding(
            "problem",
            f"node {answer.node.name}: {answer.error}; it needs the same augft and packages as {HERE}, or is down",
        )
        for answer in answers
        if answer.error is not None
    ]


def of_versions(facts: Mapping[str, NodeFacts]) -> list[Finding]:
    """Packages of which nodes have different versions; Python's third number may differ."""
    if len(facts) == 1:
        return []
    found = []
    names = next(iter(facts.values())).versions
    for package in names:
        versions = {node: _comparable(package, one.versions[package]) for node, one in facts.items()}
        if len(set(versions.values())) == 1:
            continue
        usual, _ = Counter(versions.values()).most_common(1)[0]
        others = "; ".join(f"{node} has {version}" for node, version in versions.items() if version != usual)
        level: Literal["warning", "problem"] = "problem" if package in (*_MUST_AGREE, "python") else "warning"
        found.append(Finding(level, f"{package}: most nodes have {usual}, {others}; install the same on all"))
    if not found:
        found.append(Finding("ok", f"Python and {len(names) - 1} packages are the same on {len(facts)} machines"))
    return found


def of_gpus(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> list[Finding]:
    """Nodes whose GPUs Ray hands out and PyTorch does not see."""
    return [
        Finding(
            "problem",
            f"node {node.name}: Ray counts {_count(node.gpus, 'GPU')}, PyTorch sees {facts[node.name].gpus or 'none'} "
            f"(built for CUDA {facts[node.name].versions['cuda']}); install a PyTorch that fits the driver there",
        )
        for node in nodes
        if node.name in facts and facts[node.name].gpus < node.gpus
    ]


def of_disks(facts: Mapping[str, NodeFacts], raw_bytes: int | None) -> list[Finding]:
    """Too little room for Ray, or for the packed pictures as plain pixels (`raw_bytes`, where there is a job)."""
    found = []
    for node, one in facts.items():
        if one.temp.free_bytes < max(_LOW_TEMP_BYTES, _FULL_SHARE * one.temp.total_bytes):
            found.append(
                Finding(
                    "warning",
                    f"{node}: {_room(one.temp)}; Ray stops storing objects on a disk that is 95 % full: free some, or "
                    "start Ray there with another --temp-dir",
                )
            )
        if raw_bytes is not None and one.cache.free_bytes < raw_bytes:
            found.append(
                Finding(
                    "warning",
                    f"{node}: {_room(one.cache)}, and the pictures take {size(raw_bytes)} there; each process will "
                    "hold its own copy: free some, or set AUGFT_CACHE",
                )
            )
    return found or [Finding("ok", "there is room on the disks of Ray and of the cache")]


def of_clocks(clocks: Mapping[str, Clock]) -> list[Finding]:
    """Clocks that are surely off by more than a second."""
    found = []
    for node, clock in clocks.items():
        surely = abs(clock.offset_s) - clock.uncertainty_s
        if surely > _CLOCK_S:
            found.append(
                Finding(
                    "problem" if surely > _WRONG_CLOCK_S else "warning",
                    f"node {node}: its clock is {clock.offset_s:+.1f} s off from {HERE}'s (± {clock.uncertainty_s:.1f} "
                    "s); let a time service (chrony) run there",
                )
            )
    if clocks and not found:
        worst = max(abs(clock.offset_s) + clock.uncertainty_s for clock in clocks.values())
        found.append(Finding("ok", f"the clocks agree within {worst:.2g} s"))
    return found


def of_store(needed: int, largest_block: int, nodes: Sequence[Node]) -> list[Finding]:
    """Whether the pictures on their way fit into the object store."""
    total = sum(node.object_store_bytes for node in nodes)
    small = [node for node in nodes if node.cpus and node.object_store_bytes < 2 * largest_block]
    if small:
        return [
            Finding(
                "problem",
                f"node {small[0].name}: its object store of {size(small[0].object_store_bytes)} does not hold two "
                f"units of {size(largest_block)}; start Ray there with a larger --object-store-memory, or lower "
                "scale.unit_rows",
            )
        ]
    if needed > total:
        return [
            Finding(
                "warning",
                f"the object store of {size(total)} is less than the {size(needed)} that the stream may use: it runs "
                "less far ahead, or spills to disk; lower scale.augment_actors or scale.unit_rows, or start Ray with "
                "a larger --object-store-memory",
            )
        ]
    return [Finding("ok", f"the stream takes at most {size(needed)} of an object store of {size(total)}")]


def of_placement(placement: Placement, total_cpus: int, trials: int | None) -> list[Finding]:
    """What a plan that fits means, and its note."""
    found = []
    if placement.seats and not placement.waits:
        who, drivers, times = "Data and Train", "", trials or 1
        if trials:
            who, drivers = "Data, Train and Tune", f", and {_count(trials, 'driver')} of trials,"
        workers = _count(sum(seat.workers for seat in placement.seats), "worker")
        actors = f"{placement.min_actors * times} to {placement.max_actors * times} actors"
        found.append(
            Finding(
                "ok",
                f"{who} cannot starve each other: {workers} x {_count(placement.cpus_per_worker, 'CPU')} and "
                f"{actors}{drivers} fit into {total_cpus} CPUs",
            )
        )
    if placement.note:
        found.append(Finding("warning", placement.note))
    return found


def of_use(num_cpus: int, total: int, in_use: float) -> list[Finding]:
    """CPUs that others use just now."""
    if total - in_use >= num_cpus:
        return []
    return [
        Finding(
            "warning",
            f"{in_use:g} of {total} CPUs are in use by others just now: this job needs {num_cpus}, and waits for them",
        )
    ]


def of_speed(speed: Speed, placement: Placement) -> list[Finding]:
    """Whether there is room for as many actors as training asks for."""
    asked = speed.num_workers * speed.worker
    ratio = f"training asks for {asked:,.0f} pictures a second, an actor makes {speed.actor:,.0f}"
    if speed.actors_needed <= placement.max_actors:
        return [
            Finding(
                "ok",
                f"{ratio}: it takes {_count(speed.actors_needed, 'actor')}, there is room for {placement.max_actors}",
            )
        ]
    stall = 1 - placement.max_actors / speed.actors_needed
    return [
        Finding(
            "warning",
            f"{ratio}: it takes {_count(speed.actors_needed, 'actor')}, there is room for {placement.max_actors}, and "
            f"training will wait for some {100 * stall:.0f} % of its time; raise scale.augment_actors, lower "
            "scale.cpus_per_worker, or add nodes with CPUs",
        )
    ]


def stream_bytes(
    *, global_batch_size: int, num_workers: int, max_actors: int, row_bytes: int, unit_rows: int
) -> tuple[int, int]:
    """Of the object store: what the stream may take, and one unit of it."""
    width = ceil(global_batch_size / num_workers)
    unit = steps_per_unit(width, row_bytes, unit_rows) * width * row_bytes
    return (UNITS_IN_STORE * (num_workers + max_actors) + UNITS_AHEAD * num_workers) * unit, unit


def local_store_bytes(facts: NodeFacts) -> int:
    """The object store that Ray would make on a machine."""
    limits = [_STORE_SHARE * facts.memory_bytes, _MAX_STORE_BYTES]
    if facts.shared_memory_bytes is not None:
        limits.append(_SHM_SHARE * facts.shared_memory_bytes)
    return int(min(limits))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _comparable(package: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if package == "python" else version


def _room(disk: Disk) -> str:
    return f"{size(disk.free_bytes)} of {size(disk.total_bytes)} are free at {disk.folder}"


def size(num_bytes: float) -> str:
    """1.2 GB, 34.5 MB."""
    return f"{num_bytes / _GB:.1f} GB" if num_bytes >= _GB / 10 else f"{num_bytes / 1e6:.1f} MB"
