"""What befell a run: `incidents.jsonl` in its directory, a line for each restart, lost actor, hang, bad checkpoint.

Each line holds `time` (seconds since 1970), `step` (steps done, where known), `what` (one word) and `text`. A run that
nothing befell has no such file.
"""

from __future__ import annotations

import json
import time

from augft.errors import StorageError
from augft.run import INCIDENTS
from augft.storage import Storage


class Incidents:
    """The incidents of a run; the driver alone writes them.

    Args:
        storage: the run directory; what it holds already is kept.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lines = storage.read(INCIDENTS).decode().splitlines() if storage.exists(INCIDENTS) else []

    def add(self, what: str, text: str, step: int | None = None) -> None:
        """Record an incident; a storage that fails loses no other line, and does not stop the run."""
        self._lines.append(json.dumps({"time": time.time(), "step": step, "what": what, "text": text}))
        try:
            self.flush()
        except StorageError:
            return

    def flush(self) -> None:
        """Write all lines.

        Raises:
            StorageError: it cannot be done.
        """
        if self._lines:
            self._storage.write(INCIDENTS, "".join(f"{line}\n" for line in self._lines).encode())
