"""Charts of a search: how each trial learned, what was best so far, and whether short trials rank as whole runs do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from augft.report import text
from augft.report.contenders import without_name
from augft.report.lenient import items, mapping, mappings, name, number
from augft.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Table,
    dot,
    figure,
    marker,
    padded,
    path,
    short,
    words,
    x_axis,
    y_axis,
)

TALL = 300
"""Height of a chart with a line for each trial."""
_LABEL = 74
"""Room for names at the ends of lines."""


@dataclass(frozen=True)
class Trial:
    """A trial of search.json; shares are fractions of 1."""

    id: str
    baseline: str
    """Its name, of a baseline; else empty."""
    status: str
    words: str
    overrides: list[str]
    history: list[tuple[float, float]]
    """Epoch and val top1."""
    val_top1: float | None
    train_s: float | None
    error: str
    """Why it failed."""
    is_found: bool

    @classmethod
    def read(cls, raw: dict[str, Any], found: str) -> Trial:
        history = [(number(line.get("epoch")), number(line.get("val_top1"))) for line in mappings(raw.get("history"))]
        identity = name(raw.get("id"), text.NOTHING)
        return cls(
            id=identity,
            baseline=name(raw.get("name")),
            status=name(raw.get("status"), text.NOTHING),
            words=without_name(name(raw.get("words")), name(mapping(raw.get("policy")).get("name"))),
            overrides=[name(one) for one in items(raw.get("overrides"))],
            history=[(epoch, top1) for epoch, top1 in history if epoch is not None and top1 is not None],
            val_top1=number(raw.get("val_top1")),
            train_s=number(raw.get("train_s")),
            error=name(raw.get("error")),
            is_found=identity == found,
        )

    @property
    def role(self) -> str:
        """Class of its line."""
        if self.is_found:
            return "found"
        return "baseline" if self.baseline else "stopped" if self.status == "stopped early" else "tried"

    @property
    def label(self) -> str:
        """What its line is called, where it has a name."""
        return self.baseline or ("found" if self.is_found else "")

    @property
    def title(self) -> str:
        return f"trial {self.id}" + (f", {self.label}" if self.label else "")


def history_chart(trials: Sequence[Trial]) -> Markup | None:
    """Val top1 of each trial over its epochs; None where nothing was recorded."""
    shown = sorted((one for one in trials if one.history), key=lambda one: _ORDER.index(one.role))
    if not shown:
        return None
    epochs = [epoch for one in shown for epoch, _ in one.history]
    tops = [100 * top1 for one in shown for _, top1 in one.history]
    lone = 0.5 if min(epochs) == max(epochs) else 0.0
    x = Axis(min(epochs) - lone, max(epochs) + lone, LEFT + 6, WIDTH - _LABEL)
    y = Axis(*padded(min(tops), max(tops)), TALL - BOTTOM, 26)
    parts = [y_axis(y, "val top1 (%)"), x_axis(x, "epoch", whole=True, height=TALL)]
    for one in shown:
        places = [(x.at(epoch), y.at(100 * top1)) for epoch, top1 in one.history]
        parts.append(path(f"trial {one.role}", places))
        last = one.history[-1]
        tip = f"{one.title}, {one.status}: {text.percent(last[1])} after epoch {last[0]:g}"
        parts.append(dot(f"end {one.role}", *places[-1], tip, 2.6))
    at = 0.0
    for one in sorted((one for one in shown if one.label), key=lambda one: -one.history[-1][1]):
        epoch, top1 = one.history[-1]
        at = max(y.at(100 * top1), at + 13)
        parts.append(words(x.at(epoch) + 7, at + 4, short(one.label, 12), "start", "row"))
    columns = sorted(set(epochs))
    rows = [[one.title, one.status, *_at_epochs(one, columns)] for one in trials]
    table = Table(["trial", "status", *(f"epoch {epoch:g}" for epoch in columns)], rows)
    told = "; ".join(f"{one.title} {text.percent(one.history[-1][1])}" for one in shown if one.label)
    title = "How the trials learned"
    description = f"{title}: val top1 over epochs, {len(shown)} lines. At their ends: {told or 'none is named'}."
    return figure(title, description, Markup().join(parts), TALL, table)


_ORDER = ("stopped", "tried", "baseline", "found")
"""Later ones are drawn over earlier ones."""


def _at_epochs(one: Trial, epochs: Sequence[float]) -> list[str]:
    known = dict(one.history)
    return [f"{100 * known[epoch]:.1f}" if epoch in known else text.NOTHING for epoch in epochs]


def best_chart(trials: Sequence[Trial]) -> Markup | None:
    """The best val top1 of each trial, and the best so far, in the order of the trials."""
    scored = [(float(i), 100 * one.val_top1, one) for i, one in enumerate(trials, 1) if one.val_top1 is not None]
    if not scored:
        return None
    x = Axis(0.5, len(trials) + 0.5, LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(*padded(min(top1 for _, top1, _ in scored), max(top1 for _, top1, _ in scored)), TALL - BOTTOM, 26)
    steps, best, rows = [], scored[0][1], []
    for at, top1, one in scored:
        steps += [(x.at(at), y.at(best)), (x.at(at), y.at(max(best, top1)))]
        best = max(best, top1)
        rows.append([one.title, one.status, f"{top1:.1f}", f"{best:.1f}"])
    steps.append((x.end, y.at(best)))
    parts = [y_axis(y, "val top1 (%)"), x_axis(x, "trial, in order of its start", whole=True, height=TALL)]
    parts.append(path("line best", steps))
    for at, top1, one in scored:
        tip = f"{one.title}, {one.status}: {top1:.1f} %"
        place = x.at(at), y.at(top1)
        parts.append(
            marker("other", *place, tip, 3.6) if one.role == "baseline" else dot(f"spot {one.role}", *place, tip, 4)
        )
    title = "The best so far"
    last = f"of {len(scored)} trials with a result the best has {best:.1f} % val top1"
    table = Table(["trial", "status", "val top1, %", "best so far, %"], rows)
    return figure(title, f"{title}: {last}.", Markup().join(parts), TALL, table)


def proxy_chart(raw: dict[str, Any]) -> Markup | None:
    """What policies score in the search's short training, against whole training; None without a pair."""
    points = [
        (name(one.get("name")), number(one.get("proxy")), number(one.get("full")))
        for one in mappings(raw.get("points"))
    ]
    known = [
        (label, 100 * proxy, 100 * full) for label, proxy, full in points if proxy is not None and full is not None
    ]
    if not known:
        return None
    x = Axis(*padded(min(p for _, p, _ in known), max(p for _, p, _ in known)), LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(*padded(min(f for _, _, f in known), max(f for _, _, f in known)), HEIGHT - BOTTOM, TOP - 18)
    parts = [y_axis(y, "top1 of whole training (%)"), x_axis(x, "top1 in the search's training (%)", whole=False)]
    for label, proxy, full in known:
        side, anchor = (9, "start") if x.at(proxy) < 0.62 * WIDTH else (-9, "end")
        place = x.at(proxy), y.at(full)
        parts.append(
            dot("spot found" if label == "found" else "spot tried", *place, f"{label}: {proxy:.1f} %, {full:.1f} %", 4)
        )
        parts.append(words(place[0] + side, place[1] + 4, short(label, 18), anchor, "row"))
    title = "Short training against whole training"
    told = "; ".join(f"{label} {proxy:.1f} % and {full:.1f} %" for label, proxy, full in known)
    rows = [[label, f"{proxy:.1f}", f"{full:.1f}"] for label, proxy, full in known]
    table = Table(["policy", "in the search, %", "whole, %"], rows)
    return figure(title, f"{title}: {told}.", Markup().join(parts), HEIGHT, table)
