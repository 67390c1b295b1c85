"""Part files → the predictions: one Parquet file or a folder of some, in the source's order, whole or not at all.

They are put together in a file beside the place and renamed, or, for an object store, in a temporary file of this
machine and uploaded. What is held in memory is some rows; of a compressed archive, whose parts come in another order,
the names of all pictures too, but not their probabilities, which go through a file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from augft.errors import ConfigError, RunDirectoryError, StorageError
from augft.prediction.listing import Catalogue
from augft.prediction.unfinished import ASSEMBLING, Unfinished, lease_uri, unfinished_uri
from augft.storage import Storage, extend_uri, reason

_GROUP_BYTES, _FILE_BYTES = 16 * 2**20, 256 * 2**20
"""Of probabilities: of a row group, and of a file of a folder."""
_SHARDS = "assembled"
_PART = re.compile(r"part-\d{5,}\.parquet")
_METADATA = "augft"


class Target:
    """The place of the predictions.

    Args:
        out: a path or a URI; one file where it ends in .parquet, else a folder.

    Raises:
        ConfigError: it names no file or folder, but a bucket or the like.
        RunDirectoryError: it is not understood.
    """

    def __init__(self, out: str) -> None:
        self.uri = extend_uri(Storage(out).uri, "")
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        folder, _, self.name = base.rpartition("/")
        if self.name in ("", "..") or folder.endswith(":/"):
            example = extend_uri(out, "/predictions.parquet")
            raise ConfigError(f"--out {out}: names no file or folder; give one, as {example}")
        self.is_file = self.name.endswith(".parquet")
        self.parent = Storage((folder or "/") + mark + query)
        self.rejected_name = f"{self.name.removesuffix('.parquet')}.rejected.jsonl"

    def check(self, *, force: bool) -> None:
        """Whether predictions may be written there.

        Args:
            force: in place of other predictions; of nothing else.

        Raises:
            ConfigError: something is there already.
            RunDirectoryError: the folder above is none, or may not be written to.
        """
        self.parent.check_possible()
        if self.parent.local and os.path.islink(self.uri):
            raise ConfigError(f"--out {self.uri}: is a link; give the place that it points to")
        if self.parent.local and os.path.ismount(self.uri):
            raise ConfigError(f"--out {self.uri}: is a disk of its own, not to be replaced; give a name in it")
        if not self._is_taken():
            return
        if not (force or Unfinished(self.uri).may_replace):
            raise ConfigError(f"--out {self.uri}: is there already; give another name, or --force")
        if why := self._foreign():
            raise ConfigError(
                f"--out {self.uri}: {why}, and only predictions are written over; give another name, or remove it"
            )

    def check_apart(self, *others: str) -> None:
        """Whether what is written is apart from what is read; links are followed.

        Args:
            others: paths or URIs of the source and the run.

        Raises:
            ConfigError: it is one of them, or lies in it, or the other way round.
        """
        rejected = extend_uri(self.parent.uri, f"/{self.rejected_name}")
        written = (self.uri, unfinished_uri(self.uri), lease_uri(self.uri), rejected)
        for other in others:
            for mine in written:
                ours, theirs = _steps(mine), _steps(other)
                if ours[: len(theirs)] == theirs or theirs[: len(ours)] == ours:
                    how = "is" if ours == theirs else "lies in" if len(ours) > len(theirs) else "holds"
                    beside = "" if mine == self.uri else f"its {mine} "
                    raise ConfigError(f"--out {self.uri}: {beside}{how} {other}, which is read; give another place")

    def _is_taken(self) -> bool:
        if self.parent.local and Path(self.uri).is_dir():
            return self.is_file or any(Path(self.uri).iterdir())
        return self.parent.exists(self.name)

    def _foreign(self) -> str | None:
        """Why what is there is no prediction of this kind, in words; None where it is one."""
        if self.is_file:
            return None if _is_ours(self.parent, self.name) else "is no file of predictions"
        folder = Storage(self.uri)
        with suppress(RunDirectoryError):
            if names := folder.list():
                strange = (name for name in names if not _PART.fullmatch(name) or not _is_ours(folder, name))
                return next((f"holds {name}" for name in strange), None)
        return "is a file, not a folder of predictions"


def _is_ours(folder: Storage, name: str) -> bool:
    """Whether a file is Parquet that `predict` has written."""

    def once() -> bool:
        with folder.open(name) as file:
            return _METADATA.encode() in (pq.read_schema(file).metadata or {})

    try:
        return folder.attempt("read", name, once)
    except (OSError, pa.ArrowException):  # what is a folder, or damaged, or no Parquet
        return False


def _steps(where: str) -> list[str]:
    """A place from its root on, so that one that lies in another begins as that does."""
    if "://" in where:
        scheme, _, rest = extend_uri(where, "").partition("?")[0].partition("://")
        return [scheme, *rest.rpartition("@")[2].split("/")]
    return list(Path(os.path.realpath(Storage(where).uri)).parts)


@dataclass(frozen=True)
class Result:
    """What is there now."""

    num_rows: int
    num_rejected: int


def put_together(unfinished: Unfinished, catalogue: Catalogue, classes: tuple[str, ...], target: Target) -> Result:
    """Write the predictions and the list of what was rejected, and remove the parts.

    Raises:
        StorageError: they cannot be written; the parts stay.
    """
    try:
        with _workshop(target) as folder:
            files = _Files(folder, classes, target.is_file)
            rejected = folder / target.rejected_name
            num_rejected = 0
            with files, rejected.open("w") as lines:
                for rows in _in_order(unfinished, catalogue, len(classes), folder):
                    num_rejected += _list_rejected(rows, lines)
                    files.add(rows.filter(pc.is_null(rows["reason"])))
            unfinished.publish()
            _publish_rejected(rejected if num_rejected else None, target)
            _publish(files, target)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"{target.uri}: cannot be written ({reason(error)}); free some space, and give the same command again, "
            "without --force"
        ) from error
    unfinished.remove()
    return Result(files.num_rows, num_rejected)


@contextmanager
def _workshop(target: Target) -> Iterator[Path]:
    """A folder that files can be renamed from; for an object store, one of this machine."""
    with tempfile.TemporaryDirectory(
        prefix=ASSEMBLING,
        dir=unfinished_uri(target.uri) if target.parent.local else None,
        ignore_cleanup_errors=True,
    ) as folder:
        yield Path(folder)


def _publish_rejected(listed: Path | None, target: Target) -> None:
    if listed is None:
        target.parent.remove(target.rejected_name)  # of predictions that are written over
    elif target.parent.local:
        os.replace(listed, Path(target.parent.uri) / target.rejected_name)
    else:
        target.parent.upload(target.rejected_name, listed)


def _publish(files: _Files, target: Target) -> None:
    if not target.parent.local:
        if not target.is_file:
            target.parent.remove(target.name)
        for path in files.paths:
            target.parent.upload(target.name if target.is_file else f"{target.name}/{path.name}", path)
        return
    place = Path(target.uri)
    if place.is_dir():
        shutil.rmtree(place)
    os.replace(files.paths[0] if target.is_file else files.folder, place)


def _list_rejected(rows: pa.Table, lines: TextIO) -> int:
    bad = rows.filter(pc.is_valid(rows["reason"])).drop_columns(["class_index", "probabilities"]).to_pylist()
    lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
    return len(bad)


class _Files:
    """Parquet files of the rows that are added: one, or as many as are needed, of row groups of a size."""

    def __init__(self, folder: Path, classes: tuple[str, ...], is_one: bool) -> None:
        self.folder = folder / _SHARDS
        self.folder.mkdir()
        self.paths: list[Path] = []
        self.num_rows = 0
        self._classes = pa.array(classes, pa.string())
        self._group_rows = max(1, _GROUP_BYTES // (4 * len(classes)))
        self._rows_left = self._file_rows = 2**62 if is_one else max(1, _FILE_BYTES // (4 * len(classes)))
        self._held: list[pa.Table] = []
        self._writer: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with self._stack:
            if kind is None:
                self._flush(everything=True)

    def add(self, rows: pa.Table) -> None:
        """Rows of a unit that have probabilities."""
        rows = rows.drop_columns(["reason"])
        label = self._classes.take(rows["class_index"].combine_chunks())
        self._held.append(rows.add_column(rows.column_names.index("class_index"), "label", label))
        self.num_rows += len(rows)
        if sum(map(len, self._held)) >= self._group_rows:
            self._flush(everything=False)

    def _flush(self, everything: bool) -> None:
        rows = pa.concat_tables(self._held)
        first = 0
        while len(rows) - first >= self._group_rows or (everything and (first < len(rows) or self._writer is None)):
            writer = self._open(rows.schema)
            group = rows.slice(first, min(self._group_rows, self._rows_left))
            writer.write_table(group, row_group_size=self._group_rows)
            first += len(group)
            self._rows_left -= len(group)
        self._held = [rows.slice(first)]

    def _open(self, schema: pa.Schema) -> Any:
        if self._writer is None or not self._rows_left:
            self._stack.close()
            self.paths.append(self.folder / f"part-{len(self.paths):05d}.parquet")
            about = {_METADATA: json.dumps({"classes": self._classes.to_pylist()}, ensure_ascii=False)}
            self._writer = self._stack.enter_context(
                pq.ParquetWriter(
                    self.paths[-1], schema.with_metadata(about), compression="zstd", use_dictionary=["label"]
                )
            )
            self._rows_left = self._file_rows
        return self._writer


# ---- order -----------------------------------------------------------------------------------------------


def _in_order(unfinished: Unfinished, catalogue: Catalogue, num_classes: int, scratch: Path) -> Iterator[pa.Table]:
    parts = (unfinished.read(unit) for unit in range(len(catalogue.counts)))
    first = next(parts)
    if "rank" not in first.column_names:
        yield first
        yield from parts
        return
    yield from _ranked([first], parts, catalogue.num_pictures, num_classes, scratch)


def _ranked(
    first: list[pa.Table], parts: Iterator[pa.Table], num_rows: int, num_classes: int, scratch: Path
) -> Iterator[pa.Table]:
    """Rows by rank: probabilities go through a file, to which each row is written at its place."""
    with (scratch / "ranked").open("wb") as file:
        # A full disk is an error here; where a page of a mapped file finds no place, the process is killed.
        file.writelines(bytes(4 * num_classes) for _ in range(num_rows))
    probabilities = np.memmap(scratch / "ranked", np.float32, "r+", shape=(num_rows, num_classes))
    names: list[pa.Table] = []
    for part in chain(first, parts):
        ranks = part["rank"].to_numpy()
        cells = part["probabilities"].combine_chunks()
        probabilities[ranks] = cells.flatten().to_numpy().reshape(-1, num_classes)
        names.append(part.drop_columns(["probabilities"]))
    rows = pa.concat_tables(names).sort_by("rank").drop_columns(["rank"])
    step = max(1, _GROUP_BYTES // (4 * num_classes))
    for start in range(0, num_rows, step):
        flat = pa.array(probabilities[start : start + step].reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, num_classes)
        yield rows.slice(start, step).append_column("probabilities", column)
