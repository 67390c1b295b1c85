"""Learning curves of several seeds: the mean as a line, the seeds' range as a band about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from augft.report.lenient import items, number
from augft.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Kind,
    Table,
    figure,
    legend,
    marker,
    path,
    x_axis,
    y_axis,
)
from augft.report.svg import number as shown


@dataclass(frozen=True)
class Point:
    """An epoch, over the seeds that got there."""

    epoch: float
    mean: float
    low: float
    high: float
    num_seeds: int


@dataclass(frozen=True)
class Band:
    """A policy's curve."""

    label: str
    kind: Kind
    points: Sequence[Point]


def band(label: str, kind: Kind, epochs: object, seeds: object, scale: float = 1.0) -> Band:
    """From the curves of comparison.json: epochs, and for each seed its values; what is no number is left out."""
    points = []
    for i, epoch in enumerate(map(number, items(epochs))):
        values = [scale * v for one in items(seeds) if i < len(items(one)) and (v := number(one[i])) is not None]
        if epoch is not None and values:
            points.append(Point(epoch, sum(values) / len(values), min(values), max(values), len(values)))
    return Band(label, kind, points)


def bounds_of(bands: Sequence[Band]) -> tuple[float, float] | None:
    """Lowest and highest value in any of them."""
    points = [point for one in bands for point in one.points]
    return (min(p.low for p in points), max(p.high for p in points)) if points else None


def band_chart(
    title: str, y_label: str, bands: Sequence[Band], bounds: tuple[float, float], about: str
) -> Markup | None:
    """Curves with their bands; None without a point.

    Args:
        title: what is shown.
        y_label: quantity with its unit.
        bands: at most one of each kind, the foremost last.
        bounds: lowest and highest value, the same in charts that stand side by side.
        about: what is shown, for screen readers.
    """
    bands = [one for one in bands if one.points]
    if not bands:
        return None
    epochs = [point.epoch for one in bands for point in one.points]
    lone = 0.5 if min(epochs) == max(epochs) else 0.0
    x = Axis(min(epochs) - lone, max(epochs) + lone, LEFT + 6, WIDTH - RIGHT - 6)
    air = 0.05 * (bounds[1] - bounds[0]) or 1.0
    y = Axis(bounds[0] - air, bounds[1] + air, HEIGHT - BOTTOM, TOP)
    parts = [y_axis(y, y_label), x_axis(x, "epoch", whole=True), legend([(one.label, one.kind) for one in bands])]
    for one in bands:
        upper = [(x.at(p.epoch), y.at(p.high)) for p in one.points]
        lower = [(x.at(p.epoch), y.at(p.low)) for p in reversed(one.points)]
        parts.append(path(f"band {one.kind}", upper + lower, "Z"))
    for one in bands:
        parts.append(path(f"line {one.kind}", [(x.at(p.epoch), y.at(p.mean)) for p in one.points]))
        last = one.points[-1]
        parts.append(marker(one.kind, x.at(last.epoch), y.at(last.mean), f"{one.label}: {shown(last.mean)}", 3.2))
    heads = ["epoch"] + [f"{one.label}, {what}" for one in bands for what in ("mean", "lowest", "highest", "seeds")]
    by_epoch = [{p.epoch: p for p in one.points} for one in bands]
    rows = [
        [f"{epoch:g}", *(cell for points in by_epoch for cell in _cells(points.get(epoch)))]
        for epoch in sorted(set(epochs))
    ]
    told = f"{about}: {'; '.join(map(_told, bands))}."
    return figure(title, told, Markup().join(parts), HEIGHT, Table(heads, rows), about)


def _cells(point: Point | None) -> list[str]:
    if point is None:
        return ["–"] * 4
    return [*map(shown, (point.mean, point.low, point.high)), str(point.num_seeds)]


def _told(one: Band) -> str:
    first, last = one.points[0], one.points[-1]
    return (
        f"{one.label}, mean {shown(first.mean)} at epoch {first.epoch:g}, {shown(last.mean)} at epoch {last.epoch:g}, "
        f"where the seeds range from {shown(last.low)} to {shown(last.high)}"
    )
