"""What charts are made of, as inline SVG: colours come from the page's CSS, so they follow dark, light and print.

Each chart has a title and a description for screen readers, and may carry its numbers as a table that opens below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 44, 42

Kind = Literal["train", "val", "other"]


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


@dataclass(frozen=True)
class Table:
    """The numbers of a chart: heads of columns, and rows whose first cell names them."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __html__(self) -> str:
        heads = (f"<th scope=col{' class=n' if i else ''}>{escape(head)}</th>" for i, head in enumerate(self.heads))
        rows = (
            f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td class=n>{escape(cell)}</td>' for cell in rest)}</tr>"
            for first, *rest in self.rows
        )
        table = f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        return Markup(table)  # of cells escaped above


def figure(
    title: str, description: str, body: Markup, height: float, table: Table | None = None, about: str | None = None
) -> Markup:
    """A chart with its caption.

    Args:
        title: the caption.
        description: what the chart shows, in words.
        body: the marks.
        height: of the picture, where its width is `WIDTH`.
        table: the numbers that it shows.
        about: its name for screen readers, where the caption alone does not tell it from others.
    """
    name = about or title
    picture = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}"><desc>{}</desc>{}</svg>').format(
        WIDTH, height, name, description, body
    )
    numbers = Markup()
    if table is not None:
        region = Markup('<div class="scroll long" tabindex="0" role="region" aria-label="{}, as a table">{}</div>')
        numbers = Markup('<details class="data"><summary>As a table</summary>{}</details>').format(
            region.format(name, table)
        )
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(title, picture, numbers)


def y_axis(y: Axis, label: str, form: Callable[[float], str] | None = None) -> Markup:
    """Grid lines, their numbers, and the quantity above."""
    parts = [words(4, 14, label, "start", "axis-title")]
    for tick in y.ticks(5):
        parts.append(grid(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick)))
        parts.append(words(LEFT - 7, y.at(tick) + 4, (form or number)(tick), "end"))
    return Markup().join(parts)


def x_axis(x: Axis, label: str, *, whole: bool, height: float = HEIGHT) -> Markup:
    """Numbers below the chart, and the quantity below them."""
    parts = [words(x.at(t), height - BOTTOM + 17, number(t), "middle") for t in x.ticks(8, whole=whole)]
    parts.append(words((LEFT + WIDTH - RIGHT) / 2, height - 6, label, "middle", "axis-title"))
    return Markup().join(parts)


def legend(entries: Sequence[tuple[str, Kind]]) -> Markup:
    """Top right, from right to left; nothing for a single line."""
    parts, right = [], float(WIDTH - RIGHT)
    for label, kind in reversed(entries if len(entries) > 1 else ()):
        shown = short(label)
        start = right - 6.2 * len(shown)
        path = Markup('<path class="line {}" d="M{:.1f} 10h22"/>').format(kind, start - 28)
        parts += [words(start, 14, shown, "start", "row"), path, marker(kind, start - 17, 10, label)]
        right = start - 40
    return Markup().join(parts)


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


def marker(kind: str, x: float, y: float, tooltip: str, radius: float = 3.2) -> Markup:
    """A hollow circle, a square, a diamond."""
    return _MARKERS[kind](x, y, radius) + Markup("<title>{}</title>").format(tooltip) + _ENDS[kind]


def dot(css: str, x: float, y: float, tooltip: str, radius: float = 3.2) -> Markup:
    """A circle of a class of its own."""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        css, x, y, radius, tooltip
    )


def grid(x0: float, y0: float, x1: float, y1: float, css: str = "grid") -> Markup:
    """A straight line."""
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(css, x0, y0, x1, y1)


def path(css: str, places: Iterable[tuple[float, float]], end: str = "") -> Markup:
    """A line through places of the picture; `end="Z"` closes it."""
    return Markup('<path class="{}" d="M{}{}"/>').format(css, "L".join(f"{x:.1f} {y:.1f}" for x, y in places), end)


def words(x: float, y: float, text: str, anchor: str, css: str = "tick") -> Markup:
    """Text in the picture."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(css, x, y, anchor, text)


# ---- numbers -------------------------------------------------------------------------------------------


def padded(low: float, high: float, from_zero: bool = False) -> tuple[float, float]:
    """A range with a little air, never empty."""
    low = min(0.0, low) if from_zero else low
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if from_zero else low - air), high + air


def number(value: float) -> str:
    """Four digits, a true minus."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "−")


def short(label: str, most: int = 24) -> str:
    """A label that fits."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def label_width(labels: Iterable[str]) -> float:
    """Room at the left for the names of rows."""
    return 16 + 6.9 * max((len(short(label)) for label in labels), default=0)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
