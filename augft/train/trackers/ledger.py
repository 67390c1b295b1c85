"""trackers.json: what of a run was sent where."""

from __future__ import annotations

import json
from typing import Any

from augft.storage import Storage

TRACKERS = "trackers.json"

Line = dict[str, Any]
"""Of metrics.jsonl."""


class Ledger:
    """The run's trackers.json; one thread at a time writes it.

    Args:
        storage: the run directory.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pages: dict[str, dict[str, Any]] = {}
        if storage.exists(TRACKERS):
            self._pages = json.loads(storage.read(TRACKERS))

    def page(self, name: str, place: str) -> Page:
        """What was sent to a tracker at a place (a server, say); a page that is empty if it was another place."""
        if self._pages.get(name, {}).get("place") != place:
            self._pages[name] = {"place": place, "complete": False, "sent": []}
        return Page(self, self._pages[name])

    def write(self) -> None:
        """Write trackers.json."""
        self._storage.write(TRACKERS, json.dumps(self._pages, indent=1).encode())


class Page:
    """One tracker's part of the ledger."""

    def __init__(self, ledger: Ledger, content: dict[str, Any]) -> None:
        self._ledger, self._content = ledger, content
        self._sent = set(content["sent"])

    def __getitem__(self, key: str) -> Any:
        """What a tracker remembers; None where it remembers nothing."""
        return self._content.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if self._content.get(key) != value:
            self._content[key] = value
            self._ledger.write()

    @property
    def is_complete(self) -> bool:
        """Whether all that a finished run sends was sent."""
        return bool(self._content["complete"])

    def complete(self) -> None:
        self["complete"] = True

    def unsent(self, lines: list[Line]) -> list[Line]:
        """Those that were not sent, each once; a resumed run makes lines again that it had made before."""
        fresh = {_key(line): line for line in lines}
        return [line for key, line in fresh.items() if key not in self._sent]

    def note(self, lines: list[Line]) -> None:
        """These were sent."""
        self._sent.update(map(_key, lines))
        self._content["complete"] = False
        self._content["sent"] = sorted(self._sent)
        self._ledger.write()


def _key(line: Line) -> str:
    return f"{line['epoch']:06d} {line['split']} {line['step']}"
