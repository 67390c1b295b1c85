"""A run held against a baseline: what differs in the jobs, and what that did."""

from __future__ import annotations

from markupsafe import Markup

from augft.report import text
from augft.report.interval import difference
from augft.report.plots import interval_plot
from augft.report.record import Record


class Versus:
    """A run against its baseline."""

    def __init__(self, run: Record, baseline: Record) -> None:
        self.run, self.baseline = run, baseline
        self.labels = _labels(run, baseline)
        self.rows = list(zip(_ROWS, _cells(run), _cells(baseline), strict=True))
        digests = {run.data.get("digest"), baseline.data.get("digest")}
        self.same_data = len(digests) == 1 and None not in digests
        old, new = baseline.flat_config(), run.flat_config()
        self.changes = [
            (key, text.plain(new.get(key)), text.plain(old.get(key)))
            for key in {**new, **old}
            if new.get(key) != old.get(key) and key != "name" and not key.startswith("run.")
        ]

    @property
    def plot(self) -> Markup | None:
        """Both results with their intervals."""
        ends = [(label, r.test) for label, r in zip(self.labels, (self.run, self.baseline), strict=True)]
        rows = [(label, test.top1, test.interval) for label, test in ends if test]
        return interval_plot("Test top1 with its 95 % interval", "test top1 (%)", rows) if rows else None

    @property
    def verdict(self) -> str:
        ours, theirs = self.run.test, self.baseline.test
        if not ours or not theirs:
            return "The two cannot be compared: one of them has no test result."
        if not self.same_data or ours.num_samples != theirs.num_samples:
            return "The two are not known to be tested on the same data, so their figures cannot be compared."
        middle, low, high = difference(ours, theirs)
        interval = f"95 % interval {text.signed(100 * low)} to {text.signed(100 * high)}, taken as independent"
        if low <= 0 <= high:
            chance = "That could be chance in which pictures were tested"
        else:
            chance = "That is more than chance in which pictures were tested, and says nothing of other seeds"
        subject = f"Test top1 of {self.labels[0]} against {self.labels[1]}"
        return f"{subject}: {text.points(middle)} ({interval}). {chance}. One seed each: this is an example, not proof."


def _labels(run: Record, baseline: Record) -> tuple[str, str]:
    """Names that tell the two apart: of the policies, or else of the jobs."""
    policies = [record.policy.name if record.policy else "" for record in (run, baseline)]
    if all(policies) and policies[0] != policies[1]:
        return f"policy {policies[0]}", f"policy {policies[1]}"
    return (run.name, baseline.name) if run.name != baseline.name else ("this run", "the baseline")


_ROWS = ("Test top1", "95 % interval", "Validation top1", "Steps", "Images/s", "Wall time")


def _cells(record: Record) -> list[str]:
    """A column of the comparison's table."""
    test, summary = record.test, record.summary
    return [
        text.percent(test.top1) if test else text.NOTHING,
        text.percent_range(test.interval) if test else text.NOTHING,
        text.percent(summary.get("val_top1")),
        text.count(summary.get("steps")),
        text.rate(summary.get("images_per_s")),
        text.duration(summary.get("wall_s")),
    ]
