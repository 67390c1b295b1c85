"""Ops whose parameters change with the progress of a run.

A parameter may be a schedule: `{"schedule": [[0, 5], [1, 30]]}` goes from 5 at the first epoch to 30 at the last, in a
straight line between knots and level beyond them. Progress is epoch / (epochs - 1). It is the plain form into which a
policy search writes what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from augft.augment.ops import Op

KEY = "schedule"

Knots = tuple[tuple[float, tuple[float, ...]], ...]
"""(progress, numbers): the numbers are one, or two of a range."""


@dataclass(frozen=True)
class ScheduledOp:
    """An op, some of whose parameters are functions of progress.

    Args:
        op: its class.
        fixed: names and values of the parameters that stay.
        schedules: names and knots of those that change.
    """

    op: type[Op]
    fixed: tuple[tuple[str, Any], ...]
    schedules: tuple[tuple[str, Knots], ...]

    @property
    def name(self) -> str:
        return self.op.name

    def at(self, progress: float) -> Op:
        """The op at a progress from 0 to 1."""
        parameters = dict(self.fixed)
        for name, knots in self.schedules:
            numbers = _interpolate(knots, progress)
            whole = self.op.model_fields[name].annotation is int
            parameters[name] = round(numbers[0]) if whole else numbers[0] if len(numbers) == 1 else numbers
        return self.op(**parameters)

    def to_config(self) -> dict[str, Any]:
        """The parameters as a policy file has them."""
        written = {name: list(value) if isinstance(value, tuple) else value for name, value in self.fixed}
        for name, knots in self.schedules:
            written[name] = {KEY: [[x, list(y) if len(y) > 1 else y[0]] for x, y in knots]}
        return written


def is_schedule(value: object) -> bool:
    """Whether a parameter is given as a schedule."""
    return isinstance(value, Mapping) and set(value) == {KEY}


def read_schedule(value: Mapping[str, Any]) -> Knots:
    """The knots of `{"schedule": [[progress, value], …]}`.

    Raises:
        ValueError: it is none.
    """
    entries = value[KEY]
    advice = "a schedule is a list of [progress, value], progress rising from 0 to 1"
    if not isinstance(entries, list | tuple) or not entries:
        raise ValueError(f"{advice}, found {entries!r}")
    knots: list[tuple[float, tuple[float, ...]]] = []
    for entry in entries:
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise ValueError(f"{advice}, found {entry!r} in it")
        numbers = entry[1] if isinstance(entry[1], list | tuple) else [entry[1]]
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in [entry[0], *numbers]):
            raise ValueError(f"{advice}, found {entry!r} in it")
        if not 0 <= entry[0] <= 1 or (knots and entry[0] <= knots[-1][0]):
            raise ValueError(f"{advice}, found {entry[0]!r}")
        if knots and len(numbers) != len(knots[0][1]):
            raise ValueError(f"all values of a schedule are numbers, or all are ranges, found {entries!r}")
        knots.append((float(entry[0]), tuple(float(number) for number in numbers)))
    return tuple(knots)


def _interpolate(knots: Knots, progress: float) -> tuple[float, ...]:
    if progress <= knots[0][0]:
        return knots[0][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        if progress <= x1:
            share = (progress - x0) / (x1 - x0)
            return tuple(a + (b - a) * share for a, b in zip(y0, y1, strict=True))
    return knots[-1][1]
