"""Population-based training (Jaderberg et al., 2017; Ho et al., 2019, of policies): a schedule, found while it trains.

All members train an interval; then the worst quarter takes over run directory and policy of members of the best
quarter, and changes the policy from there on. Who takes over from whom, and what is changed, follows from the seed and
the scores: the same search gives the same schedule, also when it was killed and gone on with.

Each member's policy says what was in force in each epoch of the weights it has, its ancestors' epochs included; with
the seed, which all share, that is all there is to a run: training with the winner's policy file from the start gives
the winner's weights again.

Ray Tune runs the intervals. Its own `PopulationBasedTraining` was not used: its choices depend on timing and on the
global random state, and what it knows of the population is not saved with the search.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from augft.augment.policy import Policy
from augft.config import Job
from augft.data.plan import Plan
from augft.errors import RunError
from augft.experiment.bench import Bench, Work
from augft.experiment.ledger import Ledger, Trial
from augft.experiment.space import Chance, Point, Space
from augft.run import LEASE
from augft.storage import Storage

POPULATION = "population.json"

_QUARTER = 4


@dataclass(frozen=True)
class Member:
    """A member of the population, and where its weights come from."""

    trial: str
    phases: tuple[tuple[int, Point], ...]
    """(epoch, point): what is in force from that epoch on; the first from epoch 0."""
    lineage: tuple[tuple[str, int], ...]
    """(trial, epoch): whose weights these were from that epoch on."""

    @property
    def point(self) -> Point:
        """What is in force at last."""
        return self.phases[-1][1]

    def policy(self, base: Policy) -> Policy:
        """What was and is in force, as a policy of phases."""
        (_, first), *later = self.phases
        phases = tuple((epoch, point.policy(base).ops) for epoch, point in later)
        return replace(first.policy(base), phases=phases)

    def to_config(self) -> dict[str, Any]:
        phases = [[epoch, point.to_config()] for epoch, point in self.phases]
        return {"trial": self.trial, "phases": phases, "lineage": [list(entry) for entry in self.lineage]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Member:
        phases = tuple((epoch, Point.from_config(point)) for epoch, point in config["phases"])
        return cls(config["trial"], phases, tuple((trial, epoch) for trial, epoch in config["lineage"]))


def evolve(
    members: list[Member], scores: Mapping[str, float | None], space: Space, *, seed: int, epoch: int, change_at: int
) -> tuple[list[Member], list[tuple[str, str]]]:
    """The population after an interval.

    Args:
        members: before.
        scores: trial → val_top1, None for one that failed.
        space: of the points.
        seed: of the search.
        epoch: epochs that are done.
        change_at: first epoch of which nothing was seen yet: a change holds from there on.

    Returns:
        The members after it, and (trial, trial): who takes over the run directory of whom.
    """
    by_score = sorted(members, key=lambda member: (-(scores[member.trial] or -1.0), member.trial))
    well = [member for member in by_score if scores[member.trial] is not None]
    quarter = max(1, len(members) // _QUARTER)
    best = well[: min(quarter, len(members) // 2)]
    worst = {member.trial for member in by_score[-quarter:]} - {member.trial for member in best}
    worst |= {member.trial for member in members if scores[member.trial] is None}
    after, moves = [], []
    for member in members:
        if member.trial not in worst or not best:
            after.append(member)
            continue
        winner = Chance(f"{seed}/take/{epoch}/{member.trial}").one_of("winner", best)
        point = space.changed(winner.point, Chance(f"{seed}/change/{epoch}/{member.trial}"))
        moves.append((member.trial, winner.trial))
        after.append(
            Member(
                member.trial,
                (*(phase for phase in winner.phases if phase[0] < change_at), (change_at, point)),
                (*winner.lineage, (member.trial, epoch)),
            )
        )
    return after, moves


class Population:
    """The population of a search, on the storage after every interval.

    Args:
        storage: the search's folder; what is there is gone on with.
        job: of the trials.
        plan: of the job.
        space: to choose from.
        ledger: of the search.
        uri_of: trial id → its run directory.
    """

    def __init__(
        self, storage: Storage, job: Job, plan: Plan, space: Space, ledger: Ledger, uri_of: Callable[[str], str]
    ) -> None:
        self._storage, self._job, self._plan, self._space = storage, job, plan, space
        self._ledger, self._uri_of = ledger, uri_of
        self.epoch = 0
        """Epochs that all members have done."""
        self.members: list[Member] = []
        self._moves: list[tuple[str, str]] = []
        if storage.exists(POPULATION):
            state = json.loads(storage.read(POPULATION))
            self.epoch, self._moves = state["epoch"], [(loser, winner) for loser, winner in state["moves"]]
            self.members = [Member.from_config(member) for member in state["members"]]

    def found(self, size: int) -> None:
        """Begin with `size` members, if it has not begun."""
        if self.members:
            return
        there = [trial for trial in self._ledger.trials if trial.name is None]  # it was killed right here
        for number in range(size):
            point = self._space.point(Chance(f"search/{self._job.seed}/{number}"))
            policy = point.policy(self._space.base).to_config()
            known = there[number] if number < len(there) else None
            trial = known or self._ledger.add(policy=policy, overrides=[], point=point.to_config())
            self.members.append(Member(trial.id, ((0, point),), ((trial.id, 0),)))
        self._ledger.save()
        self._save()

    def train(self, bench: Bench, say: Callable[[str], None], on_end: Callable[[Trial], None]) -> None:
        """Train to the end of the job's epochs.

        Raises:
            RunError: all members failed.
        """
        epochs, every = self._job.train.epochs, self._job.search.interval_epochs
        while self.epoch < epochs:
            self._move()
            until = min(self.epoch + every, epochs)
            bench.run(self._works(until), len(self.members), self._job, on_end=on_end)
            if bench.is_left():
                return
            scores = {member.trial: self._score(member) for member in self.members}
            if all(score is None for score in scores.values()):
                raise RunError(f"all members of the population failed ({self._ledger[self.members[0].trial].error})")
            self.epoch = until
            change_at = ceil(self._plan.items_before(self._plan.epoch_end(until - 1)) / self._plan.epoch_length)
            if change_at < epochs:
                self.members, self._moves = evolve(
                    self.members, scores, self._space, seed=self._job.seed, epoch=until, change_at=change_at
                )
            self._save()
            best = max(score for score in scores.values() if score is not None)
            took = "; ".join(f"{loser} goes on from {winner}" for loser, winner in self._moves)
            say(f"epoch {until} of {epochs}: best val_top1 {best:.4f}" + (f"; {took}" if took else ""))

    def _score(self, member: Member) -> float | None:
        trial = self._ledger[member.trial]
        return None if trial.status == "failed" or not trial.history else float(trial.history[-1]["val_top1"])

    def _works(self, until: int) -> Iterator[Work]:
        last = until == self._job.train.epochs
        stop = self._job.train.stop.model_copy(update={} if last else {"epochs": until})
        train = self._job.train.model_copy(update={"stop": stop})
        for member in self.members:
            trial = self._ledger[member.trial]
            augment = self._job.augment.model_copy(update={"policy": trial.policy})
            job = self._job.model_copy(update={"train": train, "augment": augment})
            yield Work(trial, job, self._uri_of(trial.id), last=last)

    def _move(self) -> None:
        """Have those who take over do so. The winners stand still meanwhile, so it may be done again after a kill."""
        for loser, winner in self._moves:
            target, source = self._ledger[loser], self._ledger[winner]
            Storage(self._uri_of(loser)).remove("")
            _copy(Storage(self._uri_of(winner)), Storage(self._uri_of(loser)))
            member = next(member for member in self.members if member.trial == loser)
            target.policy = member.policy(self._space.base).to_config()
            target.point = member.point.to_config()
            target.history = [dict(line) for line in source.history]
            target.status, target.error = "unfinished", None
        if self._moves:
            self._ledger.save()
            self._moves = []
            self._save()

    def _save(self) -> None:
        state = {
            "epoch": self.epoch,
            "members": [member.to_config() for member in self.members],
            "moves": [list(move) for move in self._moves],
        }
        self._storage.write(POPULATION, json.dumps(state, indent=1).encode())


def _copy(source: Storage, target: Storage, folder: str = "") -> None:
    """All files of a run directory but its lease."""
    files = source.sizes(folder)
    for name in source.list(folder):
        path = f"{folder}/{name}" if folder else name
        if name not in files:
            _copy(source, target, path)
        elif name != LEASE:
            target.write(path, source.read(path))
