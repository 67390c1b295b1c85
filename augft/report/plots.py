"""Charts as inline SVG: colours come from the page's CSS, so they follow dark, light and print.

Each series has a colour, a dash and a marker of its own, so that none is told by colour alone; each chart has
a title and a description for screen readers, and each mark its number as a tooltip. A value that is not
finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from augft.report.text import percent, percent_range

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 44, 42
MAX_MARKED_POINTS = 30
"""With more points than this, a series is a line without markers."""

Kind = Literal["train", "val", "other"]


@dataclass(frozen=True)
class Series:
    """Points of one line, in order of x."""

    label: str
    kind: Kind
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """One axis: its range in data, and where that lies in the picture."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Data to picture."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int, *, whole: bool = False) -> list[float]:
        """Round numbers in the range, about `most` of them."""
        step = _round_step((self.high - self.low) / most)
        step = max(1.0, step) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


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
    low, high = _padded(min(ys), max(ys), from_zero or bars)
    half = 0.5 if bars else 0.0
    first, last = min(xs), max(xs)
    lone = 0.5 if first == last and not bars else half
    x = Axis(first - lone, last + lone, LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y, y_label), _x_axis(x, x_label, whole=True), _legend(series) if not bars else Markup()]
    if kept_at is not None and x.low <= kept_at <= x.high:
        parts.append(_kept_line(x.at(kept_at)))
    parts += [_bars(s, x, y, y_label) if bars else _line(s, x, y, y_label) for s in series]
    return _figure(title, _described(title, y_label, x_label, series), Markup().join(parts), HEIGHT)


def interval_plot(title: str, x_label: str, rows: Sequence[tuple[str, float, tuple[float, float]]]) -> Markup:
    """A dot and its interval a row, shares from 0 to 1; the rows come with a label each."""
    height = 26 * len(rows) + 56
    low, high = _padded(min(row[2][0] for row in rows), max(row[2][1] for row in rows), False)
    left = 14 + 6.4 * min(24, max(len(row[0]) for row in rows))
    x = Axis(100 * max(0.0, low), 100 * min(1.0, high), left, WIDTH - 66)
    parts = []
    for tick in x.ticks(5):
        parts.append(_grid(x.at(tick), 8, x.at(tick), height - 42))
        parts.append(_text(x.at(tick), height - 27, _number(tick), "middle"))
    parts.append(_text((x.start + x.end) / 2, height - 8, x_label, "middle", "axis-title"))
    for i, (label, share, (start, end)) in enumerate(rows):
        y, kind = 24 + 26 * i, "val" if i == 0 else "other"
        parts.append(_text(left - 10, y + 4, _short(label), "end", "row"))
        parts.append(
            Markup('<path class="line {} solid" d="M{:.1f} {}H{:.1f}M{:.1f} {}v10M{:.1f} {}v10"/>').format(
                kind, x.at(100 * start), y, x.at(100 * end), x.at(100 * start), y - 5, x.at(100 * end), y - 5
            )
        )
        parts.append(_marker(kind, x.at(100 * share), y, f"{label}: {percent(share)}", 4.5))
        parts.append(_text(WIDTH - 4, y + 4, percent(share), "end", "row"))
    words = "; ".join(f"{label} {percent(share)}, 95 % interval {percent_range(ends)}" for label, share, ends in rows)
    return _figure(title, f"{title}: {words}.", Markup().join(parts), height)


# ---- parts of a chart ----------------------------------------------------------------------------------


def _figure(title: str, description: str, body: Markup, height: float) -> Markup:
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, description, body
    )
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}</figure>').format(title, svg)


def _described(title: str, y_label: str, x_label: str, series: Sequence[Series]) -> str:
    def words(s: Series) -> str:
        (x0, y0), (x1, y1) = s.points[0], s.points[-1]
        if len(s.points) == 1:
            return f"{s.label} {_number(y0)} at {x_label} {x0:g}"
        return f"{s.label} from {_number(y0)} at {x_label} {x0:g} to {_number(y1)} at {x_label} {x1:g}"

    return f"{title}; {y_label}: {'; '.join(map(words, series))}."


def _y_axis(y: Axis, label: str) -> Markup:
    parts = [_text(4, 14, label, "start", "axis-title")]
    for tick in y.ticks(5):
        parts.append(_grid(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick)))
        parts.append(_text(LEFT - 7, y.at(tick) + 4, _number(tick), "end"))
    return Markup().join(parts)


def _x_axis(x: Axis, label: str, *, whole: bool) -> Markup:
    parts = [_text(x.at(t), HEIGHT - BOTTOM + 17, _number(t), "middle") for t in x.ticks(8, whole=whole)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, label, "middle", "axis-title"))
    return Markup().join(parts)


def _legend(series: Sequence[Series]) -> Markup:
    """Top right, from right to left."""
    parts, right = [], float(WIDTH - RIGHT)
    for s in reversed(series if len(series) > 1 else ()):
        label = _short(s.label)
        text = right - 6.2 * len(label)
        path = Markup('<path class="line {}" d="M{:.1f} 10h22"/>').format(s.kind, text - 28)
        parts += [_text(text, 14, label, "start", "row"), path, _marker(s.kind, text - 17, 10, s.label)]
        right = text - 40
    return Markup().join(parts)


def _line(s: Series, x: Axis, y: Axis, y_label: str) -> Markup:
    places = [(x.at(px), y.at(py)) for px, py in s.points]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
    marked = list(zip(places, s.points, strict=True)) if len(places) <= MAX_MARKED_POINTS else []
    markers = [
        _marker(s.kind, px, py, f"{s.label}, {point[0]:g}: {y_label} {_number(point[1])}") for (px, py), point in marked
    ]
    return Markup('<path class="line {}" d="{}"/>').format(s.kind, path) + Markup().join(markers)


def _bars(s: Series, x: Axis, y: Axis, y_label: str) -> Markup:
    width = min(40, 0.7 * (x.at(1) - x.at(0)))
    bar = Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
    return Markup().join(
        bar.format(x.at(px) - width / 2, y.at(py), width, y.start - y.at(py), f"{px:g}: {y_label} {_number(py)}")
        for px, py in s.points
    )


def _kept_line(x: float) -> Markup:
    side, anchor = (5, "start") if x < WIDTH / 2 else (-5, "end")
    line = Markup('<path class="kept" d="M{:.1f} {}V{}"/>').format(x, TOP - 15, HEIGHT - BOTTOM)
    return line + _text(x + side, TOP - 7, "weights kept", anchor, "note")


_MARKERS: dict[str, Callable[[float, float, float], Markup]] = {
    "train": lambda x, y, r: Markup('<circle class="marker train" cx="{:.1f}" cy="{:.1f}" r="{}">').format(x, y, r),
    "val": lambda x, y, r: Markup('<rect class="marker val" x="{:.1f}" y="{:.1f}" width="{}" height="{}">').format(
        x - r, y - r, 2 * r, 2 * r
    ),
    "other": lambda x, y, r: Markup(
        '<path class="marker other" d="M{:.1f} {:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z">'
    ).format(x, y - 1.3 * r, r=1.3 * r),
}
_ENDS = {"train": Markup("</circle>"), "val": Markup("</rect>"), "other": Markup("</path>")}


def _marker(kind: str, x: float, y: float, tooltip: str, radius: float = 3.2) -> Markup:
    """A hollow circle, a square, a diamond."""
    return _MARKERS[kind](x, y, radius) + Markup("<title>{}</title>").format(tooltip) + _ENDS[kind]


def _grid(x0: float, y0: float, x1: float, y1: float) -> Markup:
    return Markup('<path class="grid" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(x0, y0, x1, y1)


def _text(x: float, y: float, text: str, anchor: str, css: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(css, x, y, anchor, text)


# ---- numbers -------------------------------------------------------------------------------------------


def _padded(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """A range with a little air, never empty."""
    low = min(0.0, low) if from_zero else low
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if from_zero else low - air), high + air


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "−")


def _short(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def finite(points: Iterable[tuple[float, object]], scale: float = 1.0) -> list[tuple[float, float]]:
    """Points whose y is a number, scaled; what is missing is NaN."""
    return [(x, scale * y if isinstance(y, int | float) else math.nan) for x, y in points]
