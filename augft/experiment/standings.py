"""How a comparison stands while its runs are made: one table on a terminal, a line for each finished run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import mean
from typing import Any

from rich.live import Live
from rich.table import Table

from augft.display import Display
from augft.experiment.design import Trial

_NOTHING = "–"


class Standings:
    """The standings of a comparison.

    Args:
        tasks: run directory → trial.
        baseline: the contender that differences are to.
        shown: for people.
    """

    def __init__(self, tasks: Mapping[str, Trial], baseline: str, shown: Display) -> None:
        self._tasks, self._baseline, self._shown = dict(tasks), baseline, shown
        self._done: dict[str, dict[str, Any]] = {}
        self._running: Mapping[str, Any] = {}
        self._began_at, self._done_before = time.monotonic(), 0
        self._live: Live | None = None

    @property
    def num_done(self) -> int:
        """Runs that are finished."""
        return len(self._done)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Within the block runs are made."""
        self._began_at, self._done_before = time.monotonic(), len(self._done)
        if not self._shown.console.is_terminal:
            yield
            return
        with Live(self._table(), console=self._shown.console, transient=True, refresh_per_second=2) as self._live:
            yield
        self._live = None

    def add(self, uri: str, summary: Mapping[str, Any]) -> None:
        """A run is finished."""
        self._done[uri] = dict(summary)
        if len(self._done) > self._done_before and self._live is None and self._running:
            trial = self._tasks[uri]
            where = f"{trial.cell.title}: " if trial.cell.title else ""
            self._shown.say(
                f"{len(self._done):>4}/{len(self._tasks)}  {where}{trial.contender}, seed {trial.seed}: "
                f"{_scores(summary)}, {summary['train_s']:.0f} s  ({self._left()})"
            )
        self._refresh()

    def look(self, running: Mapping[str, Any]) -> None:
        """How far the runs are that are being made."""
        self._running = running
        self._refresh()

    def show(self, comparison: Mapping[str, Any]) -> None:
        """The result."""
        for cell in comparison["cells"]:
            table = Table(title=cell["title"] or None, title_justify="left")
            for name, justify in (
                ("policy", "left"),
                (f"{comparison['judged_on']} top1", "right"),
                (f"difference to {comparison['baseline']}", "right"),
                ("P(better)", "right"),
                ("verdict", "left"),
                ("time", "right"),
            ):
                table.add_column(name, justify=justify)  # type: ignore[arg-type]
            for policy in cell["policies"]:
                table.add_row(*_result(policy))
            self._shown.console.print(table)
            self._shown.say(cell["text"])

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Table:
        table = Table(title=f"{len(self._done)} of {len(self._tasks)} runs, {self._left()}", title_justify="left")
        for name in ("policy", "runs"):
            table.add_column(name)
        for name in ("val top1", f"to {self._baseline}", "now"):
            table.add_column(name, justify="right")
        for cell in dict.fromkeys(trial.cell.folder for trial in self._tasks.values()):
            trials = {uri: trial for uri, trial in self._tasks.items() if trial.cell.folder == cell}
            title = next(iter(trials.values())).cell.title
            for name in dict.fromkeys(trial.contender for trial in trials.values()):
                uris = [uri for uri, trial in trials.items() if trial.contender == name]
                done = [self._done[uri] for uri in uris if uri in self._done]
                table.add_row(
                    f"{title}: {name}" if title else name,
                    f"{len(done)}/{len(uris)}",
                    f"{mean(values):.1%}" if (values := _known(done, "val_top1")) else _NOTHING,
                    self._difference(trials, name),
                    ", ".join(_at(self._running[uri]) for uri in uris if uri in self._running) or _NOTHING,
                )
        return table

    def _difference(self, trials: Mapping[str, Trial], name: str) -> str:
        """In validation, over the seeds that both have: how it looks, no verdict."""
        if name == self._baseline:
            return _NOTHING
        by_seed: dict[int, dict[str, float]] = {}
        for uri, trial in trials.items():
            if uri in self._done and self._done[uri]["val_top1"] is not None:
                by_seed.setdefault(trial.seed, {})[trial.contender] = self._done[uri]["val_top1"]
        pairs = [
            each[name] - each[self._baseline] for each in by_seed.values() if {name, self._baseline} <= each.keys()
        ]
        return f"{100 * mean(pairs):+.1f}" if pairs else _NOTHING

    def _left(self) -> str:
        """How long the rest will take, by what has been done since it began."""
        done, left = len(self._done) - self._done_before, len(self._tasks) - len(self._done)
        if not left:
            return "all done"
        if not done:
            return "time left not known yet"
        minutes = (time.monotonic() - self._began_at) / done * left / 60
        return f"about {minutes:.0f} min left" if minutes >= 1.5 else "about a minute left"


def _known(summaries: list[dict[str, Any]], key: str) -> list[float]:
    return [summary[key] for summary in summaries if summary[key] is not None]


def _scores(summary: Mapping[str, Any]) -> str:
    """Validation; test is not looked at before all is done."""
    return f"val {summary['val_top1']:.1%}" if summary["val_top1"] is not None else "done"


def _at(event: Mapping[str, Any]) -> str:
    if not event:
        return "starts"
    return f"{event['step'] / event['num_steps']:.0%}"


def _result(policy: Mapping[str, Any]) -> tuple[str, ...]:
    versus = policy["versus"]
    time_ratio = f"{policy['time_ratio']:.2f}" if policy["time_ratio"] else _NOTHING
    if versus is None:
        return policy["name"], f"{policy['top1']:.2%}", _NOTHING, _NOTHING, "baseline", time_ratio
    difference = f"{100 * versus['difference']:+.2f}"
    if versus["low"] is not None:
        difference += f" ({100 * versus['low']:+.2f} to {100 * versus['high']:+.2f})"
    seeds = versus["further_seeds"]
    further = f", {seeds} more seed{'s' if seeds > 1 else ''}" if seeds else ""
    return (
        policy["name"],
        f"{policy['top1']:.2%}",
        difference,
        f"{versus['probability_better']:.3f}",
        versus["verdict"] + further,
        time_ratio,
    )
