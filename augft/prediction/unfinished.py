"""The folder of a prediction that is not done: `<out>.partial/`, with its listing, and a part file for each unit done.

A part file is written whole by whoever has predicted its unit: so one that is there is right, and a prediction that was
killed goes on with the units that have none. What prediction it is of is written first; another one is refused.

A part file holds all rows of its unit in order, also those of pictures that cannot be used: these have a `reason`.

One process at a time is at it. Its lease lies in a folder of its own, `<out>.lease/`: the parts can then be removed in
one go while it is held, and a heartbeat never makes anew what was removed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from augft.data.destination import FLEETING
from augft.errors import ConfigError, RunDirectoryError, RunError
from augft.prediction.listing import LISTING
from augft.storage import Storage, extend_uri
from augft.train.lease import Lease

RETRY_S = 60.0
"""For how long storage that fails is tried again."""
ASSEMBLING = "assembling-"
"""Of a folder in it where the result is put together."""
_IDENTITY, _PUBLISHING, _FORCED = "prediction.json", "publishing", "forced"
_PART = re.compile(r"part-(\d{7})\.parquet")
_OURS = re.compile(
    rf"{_PART.pattern}|{_IDENTITY}|{LISTING}|{_PUBLISHING}|{_FORCED}|{ASSEMBLING}.*|{re.escape(FLEETING)}.*"
)
_WORDS = {
    "pictures": "other pictures",
    "model": "another model",
    "source": "another source",
    "format": "another format",
}


@dataclass(frozen=True)
class Identity:
    """What a prediction is of: equal ones have equal parts."""

    source: str
    pictures: str
    """Digest of the listing."""
    model: str
    """Digest of the model and how pictures come to it."""
    format: int = 1
    """Of part files and listing."""


def unfinished_uri(out: str) -> str:
    """Where the parts of a prediction are until it is done."""
    return extend_uri(out, ".partial")


def lease_uri(out: str) -> str:
    """Where the lease of a prediction is while somebody is at it."""
    return extend_uri(out, ".lease")


def part_name(unit: int) -> str:
    """The file of a unit."""
    return f"part-{unit:07d}.parquet"


class PredictionLease(Lease):
    """Hold a prediction. Use as a context manager.

    Args:
        out: URI of the predictions that shall be.
        say: told when it has to watch another's lease for a while.

    Raises:
        RunDirectoryError: on entering, another process is at this prediction.
        StorageError: on entering, it cannot be written.
    """

    def __init__(self, out: str, say: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(Storage(lease_uri(out)), say)
        self._out = out

    def check(self) -> None:
        """Whether it is still held.

        Raises:
            RunError: another process has taken it.
        """
        if self.lost:
            raise RunError(f"{self._out}: another process has taken over this prediction; this one ends")

    def _in_use(self, other: dict[str, Any]) -> RunDirectoryError:
        return RunDirectoryError(
            f"--out {self._out}: another `augft predict` is at it (process {other['pid']} on {other['host']}); "
            "wait for it, stop it, or give another --out"
        )


class Unfinished:
    """The folder of part files.

    Args:
        out: URI of the predictions that shall be.
    """

    def __init__(self, out: str) -> None:
        self.storage = Storage(unfinished_uri(out), retry_s=RETRY_S)
        self.uri = self.storage.uri

    @property
    def may_replace(self) -> bool:
        """Whether it may write over what is at its place: it was begun by force, or has put its own result there."""
        return self.storage.exists(_PUBLISHING) or self.storage.exists(_FORCED)

    def begin(self, identity: Identity, listing: Path, *, force: bool) -> frozenset[int]:
        """Begin, or go on.

        Args:
            identity: of the prediction.
            listing: the file to keep.
            force: begin anew, whatever prediction is there; go on without it.

        Returns:
            The units that are done.

        Raises:
            ConfigError: another prediction is there, or something else.
            RunDirectoryError: a file is there.
            StorageError: it cannot be written.
        """
        if not force and self.storage.exists(_IDENTITY):
            if other := self._difference(identity):
                raise ConfigError(
                    f"{self.uri}: holds an unfinished prediction of {other}; finish that one with its own command, "
                    "give another --out, or begin anew with --force"
                )
            for name in self.storage.list():
                if name.startswith(ASSEMBLING):  # by one that was killed
                    self.storage.remove(name)
            self.storage.upload(LISTING, listing)
            return self.done()
        if strange := [name for name in self.storage.list() if not _OURS.fullmatch(name)]:
            raise ConfigError(f"{self.uri}: holds {strange[0]}, which is no prediction's; give another --out")
        self.remove()
        if force:
            self.storage.write(_FORCED, b"")
        self.storage.write(_IDENTITY, (json.dumps(asdict(identity), indent=2) + "\n").encode())
        self.storage.upload(LISTING, listing)
        return frozenset()

    def done(self) -> frozenset[int]:
        """The units that have a part file."""
        return frozenset(int(match[1]) for name in self.storage.list() if (match := _PART.fullmatch(name)))

    def write(self, unit: int, rows: pa.Table) -> None:
        """Write a part.

        Raises:
            StorageError: it cannot be written.
        """
        content = io.BytesIO()
        pq.write_table(rows, content, compression="zstd")
        self.storage.write(part_name(unit), content.getvalue())

    def read(self, unit: int) -> pa.Table:
        """Read a part.

        Raises:
            RunError: it is damaged.
        """

        def once() -> pa.Table:
            with self.storage.open(part_name(unit)) as file:
                return pq.read_table(file, memory_map=False)

        try:
            return self.storage.attempt("read", part_name(unit), once)
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"{extend_uri(self.uri, '/' + part_name(unit))}: is damaged ({' '.join(str(error).split())}); remove "
                "it, and give the same command again, without --force"
            ) from error

    def publish(self) -> None:
        """Note that the result is being put in place."""
        self.storage.write(_PUBLISHING, b"")

    def remove(self) -> None:
        """Remove all of it."""
        self.storage.remove("")
        self.storage = Storage(self.uri, retry_s=RETRY_S)  # whose folder may be made anew

    def _difference(self, identity: Identity) -> str | None:
        """What of another prediction than this one is there, in words."""
        try:
            found = json.loads(self.storage.read(_IDENTITY))
        except ValueError:
            return _WORDS["format"]
        expected = asdict(identity)
        differing = [key for key in ("format", "source", "pictures", "model") if found.get(key) != expected[key]]
        return _WORDS[differing[0]] if differing else None
