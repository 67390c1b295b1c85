"""A policy in words, for the tables of a page."""

from __future__ import annotations

from dataclasses import dataclass

from augft.augment.policy import Entry, Policy
from augft.augment.schedule import Knots, ScheduledOp
from augft.report import text


@dataclass(frozen=True)
class OpWords:
    """An op of the policy, for people."""

    name: str
    what: str
    parameters: list[tuple[str, str, str]]
    """Name, value, meaning."""


@dataclass(frozen=True)
class Phase:
    """Ops that hold from an epoch on; `when` is empty where they always hold."""

    when: str
    ops: list[OpWords]


def phases_in_words(policy: Policy) -> list[Phase]:
    """The policy in words; a policy of no ops at all is an empty list."""
    if not policy.phases:
        return [Phase("", list(map(in_words, policy.ops)))] if policy.ops else []
    first = Phase("at first", list(map(in_words, policy.ops)))
    return [first, *(Phase(f"from epoch {epoch} on", list(map(in_words, ops))) for epoch, ops in policy.phases)]


def in_words(entry: Entry) -> OpWords:
    """An op: a probability of 1 goes without saying."""
    op = entry.op if isinstance(entry, ScheduledOp) else type(entry)
    what = " ".join((op.__doc__ or "").split("\n\n")[0].split()).replace("`", "")
    if isinstance(entry, ScheduledOp):
        words = {name: text.plain(value) for name, value in entry.fixed}
        words |= {name: _schedule(knots) for name, knots in entry.schedules}
        words = {name: words[name] for name in op.model_fields}
    else:
        words = {name: text.plain(value) for name, value in entry.model_dump().items()}
    shown = [(name, value, op.model_fields[name].description or "") for name, value in words.items()]
    return OpWords(op.name, what, [one for one in shown if one[:2] != ("p", "1")])


def _schedule(knots: Knots) -> str:
    """Progress and value: "5 at 0 %, 30 at 100 % of the run"."""
    points = [f"{text.plain(tuple(y) if len(y) > 1 else y[0])} at {100 * x:g} %" for x, y in knots]
    return f"{', '.join(points)} of the run"


def fill_in_words(policy: Policy) -> str:
    """What lies outside a picture is filled with this."""
    if isinstance(policy.fill, str):
        words = {"mean": "each picture's average colour", "edge": "the nearest pixel", "reflect": "its mirror image"}
        return words[policy.fill]
    return f"RGB {', '.join(map(str, policy.fill))}"
