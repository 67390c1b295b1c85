"""Which trials go on: asynchronous successive halving (Li et al., MLSys 2020), as Ray Tune has it.

Two things are added. Baselines run to their end whatever they score, and still count for the cutoff: without them
nobody would know later whether the small task ranks policies as the whole one does. And what earlier trials scored is
told to it when a search goes on, since Ray Tune does not keep it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from augft.experiment.ledger import Trial


@dataclass(frozen=True)
class _Known:
    """A trial by the search's own id, which Ray Tune's changes when a search goes on."""

    trial_id: str


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Stops the worse of the trials that reach a rung.

    Args:
        epochs: of a trial that is not stopped.
        first: epochs of the lowest rung.
        reduction: one of so many goes on.
        trials: those of before, with what they scored.
        exempt: ids of trials that are never stopped.
    """

    def __init__(
        self, *, epochs: int, first: int, reduction: float, trials: Iterable[Trial] = (), exempt: Collection[str] = ()
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric="val_top1",
            mode="max",
            max_t=epochs,
            grace_period=min(first, epochs),
            reduction_factor=reduction,
            stop_last_trials=False,
        )
        self._epochs, self._exempt = epochs, set(exempt)
        for trial in trials:
            known = _Known(trial.id)
            super().on_trial_add(None, known)
            for line in trial.history:
                super().on_trial_result(None, known, line)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _known(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        known = _known(trial)
        if result.get("epoch", 0) >= self._epochs:  # it ends by itself
            return str(TrialScheduler.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, known, result)
        return str(TrialScheduler.CONTINUE) if known.trial_id in self._exempt else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing more: each epoch was told already."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: it may come back."""


def _known(trial: Any) -> _Known:
    return _Known(trial.config["id"])


def rungs(epochs: int, first: int, reduction: float) -> list[int]:
    """Epochs after which a trial may be stopped, rising; the last epoch is none."""
    found: list[int] = []
    at = float(first)
    while at < epochs:
        if not found or ceil(at) > found[-1]:
            found.append(ceil(at))
        at *= reduction
    return found
