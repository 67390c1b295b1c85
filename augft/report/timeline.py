"""A policy that changes while a run goes on: which op was in force in which epochs, how strong and how likely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from augft.augment.policy import Entry, Policy
from augft.augment.schedule import ScheduledOp
from augft.report import text
from augft.report.lenient import number
from augft.report.op_words import in_words
from augft.report.svg import WIDTH, Axis, Table, figure, grid, label_width, short, words

ROW = 36


@dataclass(frozen=True)
class Span:
    """Something that holds for some epochs, `until` not among them; epochs count from 0."""

    start: float
    until: float
    row: str
    strength: str
    p: float | None
    """Probability; None where there is none."""
    tip: str


def spans_of(policy: Policy, num_epochs: float) -> list[Span]:
    """The ops of a policy with phases; of several of a name in a phase each has a row."""
    lists = [(0, policy.ops), *policy.phases]
    ends = [float(first) for first, _ in lists[1:]] + [max(num_epochs, lists[-1][0] + 1.0)]
    spans = []
    for (start, ops), until in zip(lists, ends, strict=True):
        seen: Counter[str] = Counter()
        for entry in ops:
            told = in_words(entry)
            seen[told.name] += 1
            row = told.name if seen[told.name] == 1 else f"{told.name} {seen[told.name]}"
            strength = ", ".join(value for key, value, _ in told.parameters if key != "p")
            parameters = ", ".join(f"{key} = {value}" for key, value, _ in told.parameters)
            spans.append(Span(float(start), until, row, strength, _p(entry), parameters))
    return spans


def _p(entry: Entry) -> float | None:
    return number(dict(entry.fixed).get("p")) if isinstance(entry, ScheduledOp) else entry.p


def timeline(title: str, spans: Sequence[Span], lineage: Sequence[Span] = ()) -> Markup | None:
    """A row for each op, a block for each stretch of epochs, the fainter the less likely; None without a span.

    Args:
        title: what is shown.
        spans: of ops.
        lineage: whose weights they were, in a row above the ops.
    """
    everything = [*lineage, *spans]
    if not everything:
        return None
    rows = list(dict.fromkeys(span.row for span in everything))
    top, height = 8, 8 + ROW * len(rows) + 44
    last = max(span.until for span in everything)
    x = Axis(0.0, last, label_width(rows), WIDTH - 8)
    changes = sorted({span.start for span in everything} | {last})
    parts = [grid(x.at(at), top, x.at(at), height - 40) for at in changes]
    for left, right in pairwise(changes):
        if x.at(right) - x.at(left) > 14:
            shown = f"{left + 1:g}–{right:g}" if right - left > 1 else f"{right:g}"
            parts.append(words((x.at(left) + x.at(right)) / 2, height - 25, shown, "middle"))
    parts.append(words((x.start + x.end) / 2, height - 6, "epochs", "middle", "axis-title"))
    for i, row in enumerate(rows):
        y = top + ROW * i
        parts.append(words(x.start - 10, y + ROW / 2 + 4, short(row), "end", "row"))
        parts += [_block(span, x, y, is_op=span not in lineage) for span in everything if span.row == row]
    cells = [[span.row, f"{span.start + 1:g} to {span.until:g}", span.tip or text.NOTHING] for span in everything]
    told = "; ".join(f"{row} in epochs {epochs} {tip}" for row, epochs, tip in cells)
    table = Table(["", "epochs", "what held"], cells)
    return figure(title, f"{title}: {told}.", Markup().join(parts), height, table)


def _block(span: Span, x: Axis, y: float, *, is_op: bool) -> Markup:
    left, width = x.at(span.start) + 1, x.at(span.until) - x.at(span.start) - 2
    css = "block" if is_op else "block weights"
    p = 1.0 if span.p is None else span.p
    lines = [span.strength] if span.strength else []
    lines += [f"p {span.p:.2g}"] if span.p is not None and span.p < 1 else []
    lines = [line for line in lines if 6 * len(line) < width]
    box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="3" style="--v:{:.2f}">').format(
        css, left, y + 3, max(width, 1.0), ROW - 6, p
    )
    tip = Markup("<title>{}: epochs {:g} to {:g}. {}</title></rect>").format(
        span.row, span.start + 1, span.until, span.tip
    )
    first = y + ROW / 2 + 4 - 6 * (len(lines) - 1)
    inside = [words(left + width / 2, first + 12 * i, line, "middle", "inside") for i, line in enumerate(lines)]
    return box + tip + Markup().join(inside)
