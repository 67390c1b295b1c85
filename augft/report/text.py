"""Words and numbers for people, and the comparison that a terminal shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from rich import box
from rich.markup import escape
from rich.table import Table

from augft.report.interval import Score, difference

NOTHING = "–"
"""Stands where nothing was measured."""


def percent(share: object) -> str:
    """0.912 → 91.2 %."""
    return f"{100 * share:.1f} %" if _is_number(share) else NOTHING


def percent_range(interval: tuple[float, float]) -> str:
    """(0.877, 0.936) → 87.7 to 93.6 %."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def points(share: float) -> str:
    """A difference of shares in percentage points: 0.042 → +4.2 points."""
    return f"{signed(100 * share)} points"


def signed(number: float) -> str:
    """One decimal, a true minus, and no sign on zero."""
    text = f"{number:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def points_range(interval: tuple[float, float]) -> str:
    """(-0.004, 0.02) → −0.4 to +2.0."""
    return f"{signed(100 * interval[0])} to {signed(100 * interval[1])}"


def probability(number: object) -> str:
    """Whole per cent, with a decimal near the ends, and never quite 0 or 100 %."""
    if not _is_number(number):
        return NOTHING
    if number > 0.999:
        return "> 99.9 %"
    if number < 0.001:
        return "< 0.1 %"
    return f"{100 * number:.0f} %" if 0.01 <= number <= 0.99 else f"{100 * number:.1f} %"


def count(number: object) -> str:
    """12345.6 → 12,346."""
    return f"{number:,.0f}" if _is_number(number) else NOTHING


def rate(number: object) -> str:
    """Images a second: whole above ten."""
    return (count(number) if number >= 10 else f"{number:.2g}") if _is_number(number) else NOTHING


def duration(seconds: object) -> str:
    """4530.2 → 1 h 16 min; 75 → 1 min 15 s; 3.14 → 3.1 s."""
    if not _is_number(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def moment(iso: str) -> str:
    """2026-01-31T10:20:30+00:00 → 2026-01-31 10:20 UTC; what is no time stays as it is."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".rstrip()


def loss(number: object) -> str:
    """Four decimals."""
    return f"{number:.4f}" if _is_number(number) else NOTHING


def plain(value: object) -> str:
    """A value of a config, short."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)):  # of an op: a range
        return f"{value[0]:.4g}" if value[0] == value[1] else f"{value[0]:.4g} to {value[1]:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def stop_reason(reason: object, stop: Mapping[str, Any]) -> str:
    """Why a run ended, in words; `stop` is the section train.stop of its job."""
    words = {
        "epochs": "its epochs were done",
        "steps": f"the limit of {count(stop.get('steps'))} steps was reached",
        "time_s": f"its training time of {duration(stop.get('time_s'))} was up",
        "loss": f"the training loss had fallen to {stop.get('loss')}",
        "patience": f"validation had not improved for {stop.get('patience')} epochs",
    }
    return words.get(str(reason), str(reason)) if reason else NOTHING


def comparison(
    run: Mapping[str, Any],
    baseline: Mapping[str, Any],
    *,
    labels: tuple[str, str] = ("with augmentation", "without"),
) -> Table:
    """Two summaries side by side, as a table that Rich prints.

    Args:
        run: the content of a run's summary.json.
        baseline: the same of the run that it is held against, tested on the same samples.
        labels: what to call the two.
    """
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", caption_style="dim")
    table.add_column("")
    for label in (*labels, "difference"):
        table.add_column(escape(label), justify="right", no_wrap=True)
    val, val_of_baseline = run.get("val_top1"), baseline.get("val_top1")
    change = NOTHING
    if _is_number(val) and _is_number(val_of_baseline):
        change = points(val - val_of_baseline)
    table.add_row("val top1", percent(val), percent(val_of_baseline), change)
    tests = [Score.of(summary.get("test_top1"), summary.get("test_num_samples")) for summary in (run, baseline)]
    ours, theirs = tests
    change = points(difference(ours, theirs)[0]) if ours and theirs else NOTHING
    table.add_row("test top1", *(percent(test and test.top1) for test in tests), change, style="bold")
    table.add_row("  95 % interval", *(percent_range(test.interval) if test else NOTHING for test in tests), "")
    for name, key, form in (
        ("steps", "steps", count),
        ("images/s", "images_per_s", rate),
        ("wall time", "wall_s", duration),
    ):
        table.add_row(name, form(run.get(key)), form(baseline.get(key)), "")
    table.caption = "One seed each: an example; proof takes several seeds of each."
    return table


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
