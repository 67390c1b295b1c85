"""The reliability plot: how often a model is right, over how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    Table,
    figure,
    grid,
    legend,
    marker,
    path,
    x_axis,
    y_axis,
)
from augft.report.text import percent


def reliability_plot(series: Sequence[tuple[str, Kind, Sequence[Mapping[str, Any]]]]) -> Markup:
    """Mean confidence and accuracy of each bin, in per cent, and the line where they agree.

    Args:
        series: label, kind, and bins as `augft.assess.calibrate.Bin` has them; at most one of each kind.
    """
    points = {label: [(100 * each["confidence"], 100 * each["accuracy"]) for each in bins] for label, _, bins in series}
    least = min(value for places in points.values() for place in places for value in place)
    low = max(0.0, least - 0.06 * (100 - least) - 1)
    x = Axis(low, 100.0, LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis(low, 100.0, HEIGHT - BOTTOM, TOP)
    parts = [
        y_axis(y, "right (%)"),
        x_axis(x, "confidence (%)", whole=False),
        legend([(label, kind) for label, kind, _ in series]),
        grid(x.at(low), y.at(low), x.at(100), y.at(100), "kept"),
    ]
    for label, kind, bins in series:
        places = [(x.at(px), y.at(py)) for px, py in points[label]]
        parts.append(path(f"line {kind}", places))
        parts += [
            marker(
                kind,
                *place,
                f"{label}: {each['num']} pictures, sure {percent(each['confidence'])}, "
                f"right {percent(each['accuracy'])}",
            )
            for place, each in zip(places, bins, strict=True)
        ]
    rows = [
        [label, str(each["num"]), *(percent(each[key]) for key in ("low", "high", "confidence", "accuracy"))]
        for label, _, bins in series
        for each in bins
    ]
    table = Table(["", "pictures", "from", "to", "confidence", "right"], rows)
    told = "; ".join(
        f"{label} from confidence {places[0][0]:.1f} %, right {places[0][1]:.1f} %, "
        f"to confidence {places[-1][0]:.1f} %, right {places[-1][1]:.1f} %"
        for label, places in points.items()
    )
    return figure(
        "Reliability", f"Share of right answers over confidence: {told}.", Markup().join(parts), HEIGHT, table
    )
