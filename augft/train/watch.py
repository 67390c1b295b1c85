"""Is the run getting on? If not, who holds it up?

A hung worker holds up all others, who wait for it in the next reduction. What tells them apart is the pulse that each
sends from a thread of its own: a process that is stopped, or whose machine is gone, sends none; of those that do, the
one that is behind, or that is at something else than training, is the one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from augft.train.contact import PULSE_S, Pulse

SILENT_S = 10 * PULSE_S


class Watch:
    """Watches the pulses of a run's workers.

    Args:
        timeout_s: how long the run may make no step; None: for ever.
        clock: seconds, for tests.
    """

    def __init__(self, timeout_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._pulses: dict[int, Pulse] = {}
        self._heard_at: dict[int, float] = {}
        self._moved_at = clock()
        self._left_behind: set[tuple[str, int, float]] = set()

    def hear(self, pulses: dict[int, Pulse]) -> None:
        """Take up the newest pulses; of processes that a restart has left behind the last may still come in."""
        now = self._clock()
        pulses = {rank: pulse for rank, pulse in pulses.items() if pulse.process not in self._left_behind}
        known = self._pulses
        if any(rank in known and known[rank].process != pulse.process for rank, pulse in pulses.items()):
            self.restart()
        for rank, pulse in pulses.items():
            before = self._pulses.get(rank)
            if before is None or pulse.beats != before.beats:
                self._moved_at = now
            self._pulses[rank], self._heard_at[rank] = pulse, now

    def restart(self) -> None:
        """The workers are started anew."""
        self._left_behind |= {pulse.process for pulse in self._pulses.values()}
        self._pulses, self._heard_at, self._moved_at = {}, {}, self._clock()

    def hung(self) -> list[Pulse]:
        """The workers that hold the run up, by their last pulse; empty while it gets on, starts, or time is left.

        Once they are returned, the clock begins anew.
        """
        now = self._clock()
        begun = any(pulse.beats for pulse in self._pulses.values())
        if self.timeout_s is None or not begun or now - self._moved_at < self.timeout_s:
            return []
        self._moved_at = now
        pulses = list(self._pulses.values())
        silent = [pulse for pulse in pulses if self.is_silent(pulse)]
        behind = [pulse for pulse in pulses if pulse.step < max(other.step for other in pulses)]
        aside = [pulse for pulse in pulses if pulse.phase != "trains"]
        # With none of these, all look alike: stop one, and all are started anew.
        return silent or behind or aside or pulses[:1]

    def is_silent(self, pulse: Pulse) -> bool:
        """Whether a worker has stopped sending pulses."""
        enough = SILENT_S if self.timeout_s is None else min(SILENT_S, self.timeout_s / 2)
        return self._clock() - self._heard_at[pulse.rank] > enough
