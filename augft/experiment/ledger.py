"""What is known of each trial of a search, on the storage after every report.

A search that was killed goes on from this and from the trials' own run directories: Ray Tune's state of it would come
back without what its scheduler knew, and only to the same version of Ray.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from augft.augment.policy import Policy
from augft.storage import Storage

LEDGER = "trials.json"

Status = Literal["unfinished", "finished", "stopped early", "failed"]


@dataclass
class Trial:
    """A policy that is tried."""

    id: str
    policy: dict[str, Any]
    """`Policy.to_config()`."""
    overrides: list[str]
    """`key=value` of the job, beside the policy."""
    name: str | None = None
    """A baseline's."""
    point: dict[str, Any] | None = None
    """`Point.to_config()`, of a policy that was found in the space."""
    drawn: dict[str, Any] | None = None
    """How Optuna came to it."""
    status: Status = "unfinished"
    history: list[dict[str, Any]] = field(default_factory=list)
    """`{"epoch": 1, "val_top1": 0.31}`, epochs counted from 1."""
    train_s: float = 0.0
    error: str | None = None

    @property
    def val_top1(self) -> float | None:
        """The best so far."""
        return max((line["val_top1"] for line in self.history), default=None)

    @property
    def words(self) -> str:
        """The policy, and what else is set."""
        return "; ".join([str(Policy.from_config(self.policy)), *self.overrides])

    def reported(self, epoch: int, val_top1: float) -> None:
        """Take up an epoch; one that is reported again, after a restart, counts once."""
        self.history = [line for line in self.history if line["epoch"] < epoch]
        self.history.append({"epoch": epoch, "val_top1": val_top1})


class Ledger:
    """The trials of a search.

    Args:
        storage: the search's folder; what is there is read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage, self._began_at = storage, time.monotonic()
        self._before_s = 0.0
        self.trials: list[Trial] = []
        if storage.exists(LEDGER):
            state = json.loads(storage.read(LEDGER))
            self._before_s = state["wall_s"]
            self.trials = [Trial(**trial) for trial in state["trials"]]

    @property
    def wall_s(self) -> float:
        """Time of the search, over all resumes."""
        return self._before_s + time.monotonic() - self._began_at

    def __getitem__(self, trial_id: str) -> Trial:
        return next(trial for trial in self.trials if trial.id == trial_id)

    def add(self, **about: Any) -> Trial:
        """A new trial, with the next id."""
        trial = Trial(id=f"{len(self.trials):04d}", **about)
        self.trials.append(trial)
        return trial

    def save(self) -> None:
        """Write all of it."""
        state = {"wall_s": self.wall_s, "trials": [asdict(trial) for trial in self.trials]}
        self._storage.write(LEDGER, json.dumps(state, indent=1).encode())

    @property
    def best(self) -> Trial | None:
        """Of the trials that are no baselines the best by validation: a finished one, where there is any."""
        searched = [trial for trial in self.trials if trial.name is None and trial.val_top1 is not None]
        to_the_end = [trial for trial in searched if trial.status == "finished"]
        return max(to_the_end or searched, key=lambda trial: trial.val_top1 or 0.0, default=None)
