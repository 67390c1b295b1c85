"""Differences to a baseline with their intervals: a row each, or along an axis of the comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from augft.report import text
from augft.report.contenders import Versus
from augft.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    Table,
    dot,
    figure,
    grid,
    label_width,
    padded,
    short,
    words,
)

ROW = 30
_POINTS = "points of top1"


def forest_plot(
    title: str,
    rows: Sequence[Versus],
    against: str,
    per_seed: Callable[[str], list[float]] | None = None,
    of: str = "policy",
    about: str | None = None,
) -> Markup | None:
    """A dot and its interval a row, about a line at zero; None without a row.

    Args:
        title: what is shown.
        rows: from the top down; without an interval a row is a dot alone.
        against: what the differences are to, written at the line.
        per_seed: the differences of the single seeds, by a row's name.
        of: what a row is called.
        about: what is shown, for screen readers, where the title alone does not tell.
    """
    rows = [row for row in rows if row.difference is not None]
    if not rows:
        return None
    seeds = {row.name: per_seed(row.name) if per_seed else [] for row in rows}
    low, high = _range(rows, [one for values in seeds.values() for one in values])
    top, height = 26, 26 + ROW * len(rows) + 46
    x = Axis(low, high, label_width(row.name for row in rows), WIDTH - 46)
    parts = []
    for tick in x.ticks(5):
        parts.append(grid(x.at(tick), top, x.at(tick), height - 44))
        parts.append(words(x.at(tick), height - 28, _signed(tick), "middle"))
    parts.append(grid(x.at(0), top - 6, x.at(0), height - 44, "zero"))
    parts.append(words(x.at(0), top - 12, short(against, 18), "middle", "note"))
    middle = (x.start + x.end) / 2
    parts.append(words(middle, height - 8, f"{_POINTS} above {short(against, 18)}", "middle", "axis-title"))
    for i, row in enumerate(rows):
        y = top + ROW * (i + 0.5)
        parts.append(words(x.start - 10, y + 4, short(row.name), "end", "row"))
        parts += [
            dot("seed", x.at(100 * one), y + 8, f"{row.name}, one seed: {text.points(one)}", 1.8)
            for one in seeds[row.name]
        ]
        parts.append(_interval(row, x, y, upright=False))
        parts.append(words(WIDTH - 2, y + 4, row.in_points, "end", "row"))
    single = {name: ", ".join(text.signed(100 * one) for one in values) for name, values in seeds.items()}
    heads = [of, "difference, points", "low", "high"]
    cells = [[row.name, row.in_points, *_ends(row)] for row in rows]
    if per_seed:
        heads.append("single seeds")
        cells = [[*row, single[row[0]] or text.NOTHING] for row in cells]
    table = Table(heads, cells)
    told = f"{about or title}, in {_POINTS}: {'; '.join(map(_told, rows))}."
    return figure(title, told, Markup().join(parts), height, table, about)


@dataclass(frozen=True)
class Spot:
    """Differences at a place of an axis."""

    at: float | str
    versus: Versus


def against_axis(title: str, x_label: str, spots: Sequence[Spot], bounds: tuple[float, float]) -> Markup:
    """Differences along an axis of the comparison: numbers on a logarithmic scale, or names side by side.

    Args:
        title: which policy's.
        x_label: the axis.
        spots: at least one, each with a difference.
        bounds: lowest and highest difference to show, in points: the same in charts that stand side by side.
    """
    numeric = all(isinstance(spot.at, float) and spot.at > 0 for spot in spots)
    places = [math.log10(float(spot.at)) if numeric else float(i) for i, spot in enumerate(spots)]
    air = 0.12 * (max(places) - min(places)) or 0.5
    x = Axis(min(places) - air, max(places) + air, LEFT, WIDTH - RIGHT)
    y = Axis(*bounds, HEIGHT - BOTTOM, 28)
    parts = [words(4, 14, "difference (points)", "start", "axis-title")]
    for tick in y.ticks(5):
        parts.append(grid(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick)))
        parts.append(words(LEFT - 7, y.at(tick) + 4, _signed(tick), "end"))
    parts.append(grid(LEFT, y.at(0), WIDTH - RIGHT, y.at(0), "zero"))
    names = [f"{spot.at:,g}" if isinstance(spot.at, float) else spot.at for spot in spots]
    most = max(6, 48 // len(spots))
    for place, shown in zip(places, names, strict=True):
        parts.append(words(x.at(place), HEIGHT - BOTTOM + 17, short(shown, most), "middle"))
    scale = " (log scale)" if numeric and len(spots) > 1 else ""
    parts.append(words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, f"{x_label}{scale}", "middle", "axis-title"))
    known = [(place, spot.versus) for place, spot in zip(places, spots, strict=True)]
    if numeric and len(known) > 1:
        line = " L".join(f"{x.at(place):.1f} {y.at(100 * (one.difference or 0)):.1f}" for place, one in known)
        parts.append(Markup('<path class="line thin" d="M{}"/>').format(line))
    for place, one in known:
        parts.append(_interval(one, y, x.at(place), upright=True))
    rows = [[shown, spot.versus.in_points, *_ends(spot.versus)] for shown, spot in zip(names, spots, strict=True)]
    told = "; ".join(f"at {row[0]} {row[1]}" for row in rows)
    table = Table([x_label, "difference, points", "low", "high"], rows)
    about = f"Difference of {title} against {x_label}"
    return figure(title, f"{about}, in {_POINTS}: {told}.", Markup().join(parts), HEIGHT, table, about)


def bounds_of(rows: Sequence[Versus]) -> tuple[float, float]:
    """A range, in points, that holds zero and the rows with their intervals."""
    return _range(rows, [])


def _range(rows: Sequence[Versus], more: Sequence[float]) -> tuple[float, float]:
    values = [0.0, *more]
    for row in rows:
        values += [row.difference] if row.difference is not None else []
        values += row.interval or ()
    return padded(100 * min(values), 100 * max(values))


def _interval(row: Versus, along: Axis, across: float, *, upright: bool) -> Markup:
    """A dot with its interval: full where the interval excludes zero, hollow where it does not."""

    def place(value: float) -> tuple[float, float]:
        at = along.at(100 * value)
        return (across, at) if upright else (at, across)

    side, parts = row.side or "open", []
    if row.interval:
        (x0, y0), (x1, y1) = map(place, row.interval)
        cap = (5, 0) if upright else (0, 5)
        line = "M{:.1f} {:.1f}L{:.1f} {:.1f}".format
        drawn = line(x0, y0, x1, y1)
        drawn += "".join(line(x - cap[0], y - cap[1], x + cap[0], y + cap[1]) for x, y in ((x0, y0), (x1, y1)))
        parts.append(Markup('<path class="line {}" d="{}"/>').format(side, drawn))
    return Markup().join([*parts, dot(f"marker {side}", *place(row.difference or 0.0), _told(row), 4.5)])


def _ends(row: Versus) -> list[str]:
    return [text.signed(100 * end) for end in row.interval] if row.interval else [text.NOTHING] * 2


def _told(row: Versus) -> str:
    interval = f" ({row.interval_in_points})" if row.interval else ""
    return f"{row.name} {row.in_points}{interval}"


def _signed(tick: float) -> str:
    return f"{tick:+.3g}".replace("-", "−") if abs(tick) > 1e-9 else "0"
