"""The charts of a single run.

Each series has a colour, a dash and a marker of its own, so that none is told by colour alone, and each mark its
number as a tooltip. A value that is not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from augft.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Kind,
    figure,
    grid,
    label_width,
    legend,
    marker,
    number,
    padded,
    path,
    short,
    words,
    x_axis,
    y_axis,
)
from augft.report.text import percent, percent_range

MAX_MARKED_POINTS = 30
"""With more points than this, a series is a line without markers."""


@dataclass(frozen=True)
class Series:
    """Points of one line, in order of x."""

    label: str
    kind: Kind
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str,
    y_label: str,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    kept_at: float | None = None,
    bars: bool = False,
    x_label: str = "epoch",
) -> Markup | None:
    """Lines, or bars for a single series, over epochs; None if there is no finite point.

    Args:
        title: what is shown.
        y_label: quantity with its unit.
        series: at most one of each kind.
        from_zero: whether the y axis must begin at 0.
        kept_at: x of the weights that were kept.
        bars: draw bars instead of lines.
        x_label: quantity along x, in whole numbers.
    """
    series = [Series(s.label, s.kind, [p for p in s.points if math.isfinite(p[1])]) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return None
    xs, ys = zip(*(point for s in series for point in s.points), strict=True)
    low, high = padded(min(ys), max(ys), from_zero or bars)
    half = 0.5 if bars else 0.0
    first, last = min(xs), max(xs)
    lone = 0.5 if first == last and not bars else half
    x = Axis(first - lone, last + lone, LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    names = [(s.label, s.kind) for s in series]
    parts = [y_axis(y, y_label), x_axis(x, x_label, whole=True), legend(names) if not bars else Markup()]
    if kept_at is not None and x.low <= kept_at <= x.high:
        parts.append(_kept_line(x.at(kept_at)))
    parts += [_bars(s, x, y, y_label) if bars else _line(s, x, y, y_label) for s in series]
    return figure(title, _described(title, y_label, x_label, series), Markup().join(parts), HEIGHT)


def interval_plot(title: str, x_label: str, rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Markup:
    """A dot and its interval a row, shares from 0 to 1; the rows come with a label each."""
    height = 26 * len(rows) + 56
    low, high = padded(min(row[2][0] for row in rows), max(row[2][1] for row in rows))
    left = label_width(row[0] for row in rows)
    x = Axis(100 * max(0.0, low), 100 * min(1.0, high), left, WIDTH - 66)
    parts = []
    for tick in x.ticks(5):
        parts.append(grid(x.at(tick), 8, x.at(tick), height - 42))
        parts.append(words(x.at(tick), height - 27, number(tick), "middle"))
    parts.append(words((x.start + x.end) / 2, height - 8, x_label, "middle", "axis-title"))
    for i, (label, share, (start, end)) in enumerate(rows):
        y, kind = 24 + 26 * i, "val" if i == 0 else "other"
        parts.append(words(left - 10, y + 4, short(label), "end", "row"))
        parts.append(
            Markup('<path class="line {} solid" d="M{:.1f} {}H{:.1f}M{:.1f} {}v10M{:.1f} {}v10"/>').format(
                kind, x.at(100 * start), y, x.at(100 * end), x.at(100 * start), y - 5, x.at(100 * end), y - 5
            )
        )
        parts.append(marker(kind, x.at(100 * share), y, f"{label}: {percent(share)}", 4.5))
        parts.append(words(WIDTH - 4, y + 4, percent(share), "end", "row"))
    told = "; ".join(f"{label} {percent(share)}, 95 % interval {percent_range(ends)}" for label, share, ends in rows)
    return figure(title, f"{title}: {told}.", Markup().join(parts), height)


def finite(points: Iterable[tuple[float, object]], scale: float = 1.0) -> list[tuple[float, float]]:
    """Points whose y is a number, scaled; what is missing is NaN."""
    return [(x, scale * y if isinstance(y, int | float) else math.nan) for x, y in points]


def _described(title: str, y_label: str, x_label: str, series: Sequence[Series]) -> str:
    def told(s: Series) -> str:
        (x0, y0), (x1, y1) = s.points[0], s.points[-1]
        if len(s.points) == 1:
            return f"{s.label} {number(y0)} at {x_label} {x0:g}"
        return f"{s.label} from {number(y0)} at {x_label} {x0:g} to {number(y1)} at {x_label} {x1:g}"

    return f"{title}; {y_label}: {'; '.join(map(told, series))}."


def _line(s: Series, x: Axis, y: Axis, y_label: str) -> Markup:
    places = [(x.at(px), y.at(py)) for px, py in s.points]
    marked = list(zip(places, s.points, strict=True)) if len(places) <= MAX_MARKED_POINTS else []
    markers = [
        marker(s.kind, px, py, f"{s.label}, {point[0]:g}: {y_label} {number(point[1])}") for (px, py), point in marked
    ]
    return path(f"line {s.kind}", places) + Markup().join(markers)


def _bars(s: Series, x: Axis, y: Axis, y_label: str) -> Markup:
    width = min(40, 0.7 * (x.at(1) - x.at(0)))
    bar = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    return Markup().join(
        bar.format(x.at(px) - width / 2, y.at(py), width, y.start - y.at(py), f"{px:g}: {y_label} {number(py)}")
        for px, py in s.points
    )


def _kept_line(x: float) -> Markup:
    side, anchor = (5, "start") if x < WIDTH / 2 else (-5, "end")
    return grid(x, TOP - 15, x, HEIGHT - BOTTOM, "kept") + words(x + side, TOP - 7, "weights kept", anchor, "note")
