"""Sends a run to its trackers in a thread of its own, so that a server that is slow or gone costs the run nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol

from augft.errors import Stopped
from augft.run import METRICS, Run
from augft.train.trackers.contents import reason
from augft.train.trackers.ledger import Ledger, Line, Page

_LONGEST_END_S = 300.0
"""For sending what is left when a run ends."""
_LONGEST_BREAK_S = 5.0
"""The same after Ctrl-C."""


class Tracker(Protocol):
    """Where a run is sent. Its methods may raise whatever they like, and are then called again later."""

    place: str
    """Which server or folder; at another, a run is sent anew."""

    def begin(self, page: Page) -> str | None:
        """Make the run there, or go on with the one that the page names; says where to look."""

    def log(self, lines: list[Line]) -> None:
        """Send lines of metrics."""

    def finish(self, page: Page) -> None:
        """Send what a finished run has: summary, report, pictures, model."""

    def end(self, how: str) -> None:
        """Nothing more comes now. `how`: finished, stopped or failed."""


class Followed:
    """A run that trackers follow; a context that ends when the run does.

    Args:
        trackers: by name.
        run: whose directory has all but the newest lines.
        say: told of where to look, and of trackers that fail.
    """

    def __init__(self, trackers: dict[str, Tracker], run: Run, say: Callable[[str], None]) -> None:
        self._trackers, self._run, self._say = trackers, run, say
        self._orders: SimpleQueue[Line | str] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Followed:
        if self._trackers:
            self._thread = threading.Thread(target=self._follow, name="trackers", daemon=True)
            self._thread.start()
        return self

    def log(self, line: Line) -> None:
        """Send a line of metrics.jsonl; returns at once."""
        self._orders.put(line)

    def finish(self) -> None:
        """The run directory is complete: send the rest of it, and wait until that is done or has failed."""
        self._end("finished", _LONGEST_END_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        broken = isinstance(error, KeyboardInterrupt)
        self._end("stopped" if broken or isinstance(error, Stopped) else "failed", _LONGEST_BREAK_S if broken else 60.0)

    def _end(self, how: str, timeout_s: float) -> None:
        if self._thread is not None:
            self._orders.put(how)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._say(f"{', '.join(self._trackers)}: still not done after {timeout_s:g} s; left as it is")
            self._thread = None

    def _follow(self) -> None:
        try:
            ledger, storage = Ledger(self._run.storage), self._run.storage
            lines = self._run.metrics if storage.exists(METRICS) else []
        except Exception as error:
            self._say(f"{', '.join(self._trackers)}: {reason(error)}; the run goes on without")
            return
        following = [
            _Following(name, tracker, ledger.page(name, tracker.place), self._run, self._say)
            for name, tracker in self._trackers.items()
        ]
        for each in following:
            each.go_on(lines)
        while isinstance(order := self._orders.get(), dict):
            for each in following:
                each.take(order)
        for each in following:
            each.end(order)


class _Following:
    """One tracker that follows. What it could not take stays pending and is tried again with the next line."""

    def __init__(self, name: str, tracker: Tracker, page: Page, run: Run, say: Callable[[str], None]) -> None:
        self._name, self._tracker, self._page, self._run, self._say = name, tracker, page, run, say
        self._pending: list[Line] = []
        self._has_begun = False
        self._ails = False

    def go_on(self, lines: list[Line]) -> None:
        """Begin with lines of which some may have been sent; a run that was sent to its end stays untouched."""
        self._pending = lines
        if not self._page.is_complete:
            self._attempt(self._send)

    def take(self, line: Line) -> None:
        self._pending.append(line)
        self._attempt(self._send)

    def end(self, how: str) -> None:
        missing = self._attempt(self._finish if how == "finished" else self._send, last=True)
        if missing:
            self._say(f"{self._name}: {missing}; {self._run.uri} has all of it, and --resume sends it again")
        if self._has_begun and not missing:
            self._attempt(lambda: self._tracker.end(how))

    def _send(self) -> None:
        fresh = self._page.unsent(self._pending)
        if not self._has_begun and (fresh or not self._page.is_complete):
            where = self._tracker.begin(self._page)
            self._has_begun = True
            if where is not None:
                self._say(f"{self._name}: {where}")
        if fresh:
            self._tracker.log(fresh)
            self._page.note(fresh)
        self._pending.clear()

    def _finish(self) -> None:
        self._pending = self._run.metrics
        self._send()
        if not self._page.is_complete:
            self._tracker.finish(self._page)
            self._page.complete()

    def _attempt(self, what: Callable[[], None], *, last: bool = False) -> str | None:
        """Do something with the tracker; why it failed, None if it did not.

        The first failure of several is told; the last attempt's is left to the caller.
        """
        try:
            what()
        except Exception as error:  # these are other people's programs
            why = reason(error)
            if not self._ails and not last:
                self._say(f"{self._name}: {why}; the run goes on, and sends later what is missing")
            self._ails = True
            return why
        self._ails = False
        return None
