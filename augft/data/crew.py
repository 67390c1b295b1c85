"""How many augmentation actors there are: more while training waits for pictures, fewer while they have nothing to do.

Ray Data's own rule looks at its actors alone: it grows while each has a task waiting. But every stream begins with all
its tasks waiting, and has some again each time a buffer is drawn down; a pool that is large enough for training tenfold
grew to its limit and shrank again, over and over, and each new actor takes seconds of a CPU to start. So the one figure
that counts is measured where it hurts: how long training has waited.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 2.0
"""How often it is looked at."""
MUCH_WAIT = 0.05
"""Share of the time since the last look: training that waits longer gets another actor."""
START_S = 15.0
"""What a new actor is given to start and to be felt."""
IDLE_S = 30.0
"""How long nobody waits before an actor goes."""
REMEMBERED_S = 600.0
"""How long a number that was too small is not gone back to."""


class CrewSize:
    """Decides on the number of actors, one more or one fewer at a time.

    Args:
        low: fewest.
        high: most.
        clock: seconds, for tests.
    """

    def __init__(self, low: int, high: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._low, self._high, self._clock = low, high, clock
        self._looked_at = self._idle_since = clock()
        self._waited_s = 0.0
        self._settled_at = self._looked_at
        self._looks, self._looks_ahead = 0, 0
        self._too_few_at: dict[int, float] = {}

    def is_due(self) -> bool:
        """Whether to look again."""
        return self._high > self._low and self._clock() - self._looked_at >= LOOK_S

    def change(self, size: int, waited_s: float, is_ahead: bool) -> int:
        """Look once.

        Args:
            size: how many actors there are, with those that are starting.
            waited_s: how long training has waited for pictures until now, in all.
            is_ahead: whether actors rest because enough finished pictures lie ready.

        Returns:
            1, 0 or -1: what to change the number by.
        """
        now = self._clock()
        waited = max(0.0, waited_s - self._waited_s)
        share = waited / max(1e-9, now - self._looked_at)
        self._looked_at, self._waited_s = now, waited_s
        self._looks += 1
        self._looks_ahead += is_ahead
        if waited:
            self._begin_to_idle(now)
        if share > MUCH_WAIT and now >= self._settled_at:
            self._too_few_at[size] = now
            if size < self._high:
                self._settled_at = now + START_S
                return 1
        is_idle = now - self._idle_since >= IDLE_S and self._looks_ahead > self._looks / 2
        if is_idle and size > self._low and now - self._too_few_at.get(size - 1, float("-inf")) >= REMEMBERED_S:
            self._begin_to_idle(now)
            return -1
        return 0

    def _begin_to_idle(self, now: float) -> None:
        self._idle_since, self._looks, self._looks_ahead = now, 0, 0
