"""The policies that a search chooses among, and how one is chosen.

A point of the space is some ops in order, each with a probability and a strength, and perhaps values for a few keys of
the job. Whoever chooses (chance, Optuna) is asked one question after another, and does not know what for: so the space
is written down once. A point says all by itself which policy it is.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from augft.augment.automatic import AugMix
from augft.augment.policy import ALL_OPS, Policy
from augft.config import Job, SearchConfig
from augft.errors import ConfigError
from augft.experiment.strength import has_strength, parameters

MIN_P, MIN_STRENGTH = 0.1, 0.05
"""Below that an op might as well not be there, and fewer ops are in the space too."""
RESAMPLE_P = 0.25
"""Chance that a change takes another op, instead of changing one a little (Jaderberg et al., 2017)."""
_LR_FACTOR = 3.0


class Chooser(Protocol):
    """Answers the questions of a space; each has a name of its own."""

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        """One of some options."""

    def between(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number of [low, high]; `log`: as likely to be in each octave."""

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high."""


@dataclass(frozen=True)
class Chance:
    """Chooses at random: an answer depends on the key and the question's name, and on nothing else."""

    key: str

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        return options[int(len(options) * self._uniform(name))]

    def between(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        uniform = self._uniform(name)
        return float(low * (high / low) ** uniform) if log else low + (high - low) * uniform

    def whole(self, name: str, low: int, high: int) -> int:
        return low + int((high - low + 1) * self._uniform(name))

    def _uniform(self, name: str) -> float:
        digest = hashlib.blake2b(f"{self.key}/{name}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53


@dataclass(frozen=True)
class ChosenOp:
    """An op of a point."""

    name: str
    p: float
    strength: float

    def to_config(self) -> dict[str, dict[str, Any]]:
        """As a policy has it."""
        return {self.name: {"p": self.p, **parameters(self.name, self.strength)}}


@dataclass(frozen=True)
class Point:
    """A point of the space.

    Args:
        ops: in order.
        settings: (key of the job, value), for what else is searched.
    """

    ops: tuple[ChosenOp, ...]
    settings: tuple[tuple[str, float | int], ...] = ()

    def policy(self, base: Policy) -> Policy:
        """The policy: the base's ops, then those chosen; an op chosen twice counts once, and AugMix comes last."""
        chosen = {op.name: op for op in reversed(self.ops)}
        ordered = [op for op in self.ops if chosen.get(op.name) is op]
        ordered.sort(key=lambda op: op.name == AugMix.name)
        found = Policy.from_config([op.to_config() for op in ordered])
        return replace(base, ops=base.ops + found.ops, name="found")

    @property
    def overrides(self) -> list[str]:
        """`key=value` of the job, beside the policy."""
        return [f"{key}={value}" for key, value in self.settings]

    def to_config(self) -> dict[str, Any]:
        """Plain data; `from_config` gives the point again."""
        return {"ops": [vars(op) for op in self.ops], "settings": [list(setting) for setting in self.settings]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Point:
        return cls(tuple(ChosenOp(**op) for op in config["ops"]), tuple((key, at) for key, at in config["settings"]))


@dataclass(frozen=True)
class Space:
    """What a job's search looks through.

    Args:
        job: whose `search` says it.

    Raises:
        ConfigError: an op that there is none of, or a base that is no base.
    """

    job: Job

    def __post_init__(self) -> None:
        for op in self.search.ops:
            if op not in ALL_OPS:
                near = difflib.get_close_matches(op, ALL_OPS, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; the ops are {', '.join(ALL_OPS)}"
                raise ConfigError(f"search.ops: unknown op {op!r}{hint}")
        if self.base.changes:
            raise ConfigError(f"search.base {self.search.base}: changes with the epochs; give a policy that does not")
        taken = {op.name for op in self.base.ops}
        if AugMix.name in taken:
            raise ConfigError(f"search.base {self.search.base}: ends with {AugMix.name}, and nothing can come after it")
        if (both := "elastic") in taken & set(self.search.ops):
            raise ConfigError(f"search.ops: {both} is in search.base already, and a policy has at most one")
        if self.search.algorithm == "pbt" and (given := self._settings_asked()):
            raise ConfigError(
                f"search.{given[0]}: pbt finds a policy file and nothing beside it; leave it out, or use "
                "search.algorithm=asha"
            )

    @property
    def search(self) -> SearchConfig:
        return self.job.search

    @property
    def base(self) -> Policy:
        """The policy whose ops come first."""
        return Policy.from_config(self.search.base)

    def point(self, chooser: Chooser) -> Point:
        """A point, as somebody chooses."""
        fewest, most = self.search.num_ops
        number = chooser.whole("num_ops", fewest, most)
        ops = tuple(self._op(f"op{slot + 1}", chooser) for slot in range(number))
        search = self.search
        settings = [(f"augment.{key}", round(chooser.between(key, *ends), 2)) for key, ends in self._ranges()]
        if search.copies:
            settings.append(("augment.copies", chooser.one_of("copies", search.copies)))
        if search.learning_rate:
            lr = self.job.train.optimizer.lr
            chosen = chooser.between("learning_rate", lr / _LR_FACTOR, lr * _LR_FACTOR, log=True)
            settings.append(("train.optimizer.lr", float(f"{chosen:.3g}")))
        return Point(ops, tuple(settings))

    def changed(self, point: Point, chooser: Chooser) -> Point:
        """A point near by: each op a little more or less of itself, or another op in its place."""
        ops = []
        for slot, op in enumerate(point.ops):
            name = f"op{slot + 1}"
            if chooser.between(f"{name}.resample", 0, 1) < RESAMPLE_P:
                ops.append(self._op(name, chooser))
                continue
            step = 1.2 if chooser.one_of(f"{name}.more", [False, True]) else 0.8
            if has_strength(op.name) and chooser.one_of(f"{name}.which", [False, True]):
                ops.append(replace(op, strength=_limited(op.strength * step, MIN_STRENGTH)))
            else:
                ops.append(replace(op, p=_limited(op.p * step, MIN_P)))
        return replace(point, ops=tuple(ops))

    def words(self) -> list[str]:
        """The space, a line for each of its axes."""
        fewest, most = self.search.num_ops
        number = str(most) if fewest == most else f"{fewest} to {most}"
        lines = [
            f"first: {', '.join(op.name for op in self.base.ops) or 'nothing'} (search.base {self.search.base})",
            f"then {number} of {len(self.search.ops)} ops: {', '.join(self.search.ops)}",
            f"each with a probability from {MIN_P:g} to 1, and a strength from {MIN_STRENGTH:g} to 1 of its strongest",
        ]
        lines += [f"augment.{key} from {low:g} to {high:g}" for key, (low, high) in self._ranges()]
        if self.search.copies:
            lines.append(f"augment.copies of {', '.join(map(str, self.search.copies))}")
        if self.search.learning_rate:
            lr = self.job.train.optimizer.lr
            lines.append(f"train.optimizer.lr from {lr / _LR_FACTOR:.3g} to {lr * _LR_FACTOR:.3g}")
        return lines

    def _op(self, name: str, chooser: Chooser) -> ChosenOp:
        op = chooser.one_of(name, self.search.ops)
        p = _limited(chooser.between(f"{name}.p", MIN_P, 1), MIN_P)
        strength = _limited(chooser.between(f"{name}.strength", MIN_STRENGTH, 1), MIN_STRENGTH)
        return ChosenOp(op, p, strength if has_strength(op) else 1.0)

    def _ranges(self) -> list[tuple[str, list[float]]]:
        """Keys of `augment` that are searched between two ends."""
        ranges = [(key, getattr(self.search, key)) for key in ("select", "mixup_alpha", "cutmix_alpha")]
        return [(key, ends) for key, ends in ranges if ends is not None]

    def _settings_asked(self) -> list[str]:
        keys = ("select", "copies", "mixup_alpha", "cutmix_alpha", "learning_rate")
        return [key for key in keys if getattr(self.search, key)]


def _limited(value: float, low: float) -> float:
    return round(min(1.0, max(low, value)), 3)


Choose = Callable[[str], Chooser]
"""Trial → who chooses its point."""
