"""What a run says to the person who waits: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_INTERVAL_S = 30.0


class Display:
    """Shows the events of a run.

    Args:
        console: where to; its `is_terminal` decides how.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._printed_at = time.monotonic()
        self._counted: tuple[str, int, float] | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """A line."""
        (self._bar.console if self._bar else self.console).print(
            text, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def count(self, what: str, done: int, total: int | None) -> None:
        """How far something is that counts: pictures packed. Tells how fast it goes, and how long it will."""
        now = time.monotonic()
        if self._counted is None or self._counted[0] != what:
            self._counted = what, done, now  # what was done before, it has not done now
        _, first, began_at = self._counted
        detail = ""
        if done > first and now > began_at:
            rate = (done - first) / (now - began_at)
            detail = f"{rate:,.0f}/s"
            if total is not None and not self.console.is_terminal:  # whose bar tells it itself
                detail += f"  {max(0, total - done) / rate / 60:,.0f} min left"
        self._advance(what, done, total, detail)

    def handle(self, event: dict[str, Any]) -> None:
        """An event of the training loop."""
        if event["kind"] == "say":
            self.say(event["text"])
        elif event["kind"] == "line":
            self.say(_metrics(event))
        else:
            detail = (
                f"loss {event['loss']:.3f}  {event['images_per_s']:,.0f} images/s  "
                f"stall {event['data_stall_fraction']:.1%}"
            )
            label = f"epoch {event['epoch'] + 1}/{event['epochs']}"
            self._advance(label, event["step"], event["num_steps"], detail)

    def _advance(self, label: str, done: int, total: int | None, detail: str) -> None:
        if self.console.is_terminal:
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[detail]}"),
                    console=self.console,
                    transient=True,
                )
                self._bar.start()
                self._task = self._bar.add_task(label, total=total or done, detail=detail)
            self._bar.update(self._task, completed=done, total=total or done, description=label, detail=detail)
        elif time.monotonic() - self._printed_at > QUIET_INTERVAL_S:
            self._printed_at = time.monotonic()
            self.say(f"{label}  {done:,}" + (f"/{total:,}" if total else "") + f"  {detail}")


def _metrics(line: dict[str, Any]) -> str:
    text = (
        f"step {line['step']:>6}  epoch {line['epoch'] + 1:>3}  {line['split']:<5}  loss {line['loss']:.4f}  "
        f"top1 {line['top1']:.4f}  of {line['num_samples']:,}"
    )
    if "images_per_s" in line:
        text += f"  {line['images_per_s']:,.0f} images/s"
    return text
