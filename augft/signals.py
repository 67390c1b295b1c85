"""Asked to stop: SIGINT and SIGTERM, for as long as somebody listens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def when_asked_to_stop(act: Callable[[int], None]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM call `act` with their number; then they do what they did before.

    Signals are the main thread's: in another, nobody can ask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: act(number)) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
