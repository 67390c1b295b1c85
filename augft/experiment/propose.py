"""Who chooses the next policy: chance, or Optuna, which learns from how earlier ones did.

Neither keeps a state of its own on the storage: chance has none, and Optuna is told again all that the ledger says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from augft.errors import ConfigError
from augft.experiment.ledger import Trial
from augft.experiment.space import Chance, Point, Space


class Proposer(Protocol):
    """Proposes points of a space."""

    def propose(self, trial_id: str) -> tuple[Point, dict[str, Any] | None]:
        """The point of a new trial, and how it was come to, for the ledger."""

    def learn(self, trial: Trial) -> None:
        """Take up how a trial ended."""


@dataclass(frozen=True)
class ByChance:
    """Each point a function of the seed and the trial."""

    space: Space
    seed: int

    def propose(self, trial_id: str) -> tuple[Point, dict[str, Any] | None]:
        return self.space.point(Chance(f"search/{self.seed}/{trial_id}")), None

    def learn(self, trial: Trial) -> None: ...


class ByOptuna:
    """Tree-structured Parzen estimators (Bergstra et al., NIPS 2011), as Optuna has them.

    Args:
        space: to choose from.
        seed: of its draws.
        trials: those of before.

    Raises:
        ConfigError: Optuna is not installed.
    """

    def __init__(self, space: Space, seed: int, trials: Iterable[Trial] = ()) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError(
                "search.sampler optuna: is not installed; `pip install 'augft[search]'`, or set search.sampler=random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._states = optuna.trial.TrialState
        # Trials run beside each other: those that are not done yet count as bad, or it would propose the same again.
        sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: dict[str, Any] = {}
        for trial in trials:
            if trial.drawn is not None:
                self._study.enqueue_trial(trial.drawn)
                self._ask(trial.id)
                if trial.status != "unfinished":
                    self.learn(trial)

    def propose(self, trial_id: str) -> tuple[Point, dict[str, Any] | None]:
        return self._ask(trial_id)

    def _ask(self, trial_id: str) -> tuple[Point, dict[str, Any]]:
        asked = self._asked[trial_id] = self._study.ask()
        chooser = _Asking(asked)
        return self._space.point(chooser), chooser.drawn

    def learn(self, trial: Trial) -> None:
        asked = self._asked.pop(trial.id, None)
        if asked is None:
            return
        for line in trial.history:
            asked.report(line["val_top1"], line["epoch"])
        if trial.status == "finished" and trial.val_top1 is not None:
            self._study.tell(asked, trial.val_top1)
        else:
            stopped = trial.status == "stopped early" and trial.history
            self._study.tell(asked, state=self._states.PRUNED if stopped else self._states.FAIL)


@dataclass
class _Asking:
    """Answers by Optuna."""

    asked: Any
    drawn: dict[str, Any] = field(default_factory=dict)

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        return self._drawn(name, self.asked.suggest_categorical(name, list(options)))

    def between(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._drawn(name, self.asked.suggest_float(name, low, high, log=log)))

    def whole(self, name: str, low: int, high: int) -> int:
        return int(self._drawn(name, self.asked.suggest_int(name, low, high)))

    def _drawn(self, name: str, value: Any) -> Any:
        self.drawn[name] = value
        return value
