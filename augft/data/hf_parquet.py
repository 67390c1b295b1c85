"""Parquet files of encoded pictures and labels, as Hugging Face's `datasets` writes them.

Splits are told by a word of the file name (`train-00000-of-00001.parquet`) or by folder (`train/0000.parquet`). The
picture column is `image` or `img`, a struct with `bytes` or plain binary; the label column is the first there is of
`label`, `labels`, `fine_label`. Class names come from the schema's `huggingface` metadata or from labels that
are text; else they are numbers. Files lie on a disk or, under a URI, on an object store. Files without a picture column
beside picture files, as a `metadata.parquet`, are tables about these, and no source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from augft.data.packed import set_files
from augft.data.picture import is_picture
from augft.data.tree import open_tree
from augft.errors import DataError
from augft.storage import Place, extend_uri, split_uri

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLIT_NAME = re.compile(r"(?<![a-z])(train|test|validation|valid|val)(?![a-z0-9])")


def find(path: Place, names: Collection[str] | None = None) -> dict[Place, str]:
    """Parquet files at or below `path` in sorted order, and the split of each; none if it is something else.

    Args:
        path: a file, a folder, or the URI of one; a file of a URI is told by its name.
        names: of the files below a folder, where they are known already.

    Raises:
        DataError: only some of the files tell their split.
        StorageError: an object store fails.
    """
    if isinstance(path, Path) and path.is_file():
        with _reading(path), path.open("rb") as content:
            return {path: "train"} if content.read(4) == b"PAR1" else {}
    if isinstance(path, str) and path.partition("?")[0].endswith(".parquet"):
        return {path: "train"}
    below = open_tree(path).files if names is None else names
    files = sorted(PurePosixPath(name) for name in files_of_pictures(path, below))
    splits = {_below(path, file): _split_of(file) for file in files}
    if not any(splits.values()):
        return dict.fromkeys(splits, "train")
    for place, split in splits.items():
        if split is None:
            raise DataError(f"{place} tells no split: name it train-…, val-… or test-….parquet")
    return {place: split for place, split in splits.items() if split is not None}


def files_of_pictures(path: Place, names: Iterable[str]) -> list[str]:
    """Those of the files below a folder that are Parquet; none where they are tables about pictures beside them.

    Raises:
        DataError: a file is damaged.
        StorageError: an object store fails.
    """
    found, beside_pictures = [], False
    for name in names:
        if name.endswith(".parquet"):
            found.append(name)
        beside_pictures = beside_pictures or is_picture(name)
    if beside_pictures and not any(_has_pictures(_below(path, PurePosixPath(name))) for name in found):
        return []
    return found


def _has_pictures(file: Place) -> bool:
    with opened(file) as parquet:
        return any(name in parquet.schema_arrow.names for name in _IMAGE_COLUMNS)


def _below(path: Place, file: PurePosixPath) -> Place:
    return path / file if isinstance(path, Path) else extend_uri(path, f"/{file}")


def _split_of(relative: PurePosixPath) -> str | None:
    """By a word of the file's name, as in `cifar10-train-00000.parquet`, or by the first of its folder's."""
    for match in (_SPLIT_NAME.search(relative.name.lower()), _SPLIT_NAME.match(relative.parent.name.lower())):
        if match is not None:
            return "val" if match[1].startswith("val") else match[1]
    return None


def read_labels(files: Mapping[Place, str]) -> tuple[tuple[str, ...], list[tuple[str, int, str]]]:
    """Class names, and (split, label, name) of each row: files in order, rows in order.

    Raises:
        DataError: a file is damaged, a column is missing, or a label is none of train's.
    """
    raw: list[tuple[str, Any, str]] = []
    names: list[str] | None = None
    for file, split in files.items():
        with opened(file) as parquet:
            schema = parquet.schema_arrow
            image_column(file, schema)
            column = _column(file, schema, _LABEL_COLUMNS)
            names = names or _class_names(schema, column)
            labels = parquet.read(columns=[column])[column].to_pylist()
        name = PurePosixPath(str(file).partition("?")[0]).name
        raw += [(split, label, f"{name}#{row:09d}") for row, label in enumerate(labels)]
    trained = {label for split, label, _ in raw if split == "train"} or {label for _, label, _ in raw}
    if all(isinstance(label, str) for label in trained):
        names = sorted(trained)
        label_of: dict[Any, int] = {name: label for label, name in enumerate(names)}
    elif all(isinstance(label, int) for label in trained):
        # More classes than rows cannot be: a stray huge label must not make as many names.
        highest = min(max(trained), len(raw))
        names = names or [str(label) for label in range(highest + 1)]
        label_of = {label: label for label in range(len(names))}
    else:
        raise DataError(f"labels in {next(iter(files))} are neither integers nor text, or some are missing")
    for _, label, name in raw:
        if label not in label_of:
            raise DataError(f"label {label!r} of {name} is not one of train's {len(names)} classes: remove the row")
    return tuple(names), [(split, label_of[label], name) for split, label, name in raw]


def row_ranges(file: Place, num_rows: int) -> Iterator[tuple[int, int]]:
    """(first, end) of rows that are best read together: row groups up to `num_rows`, or parts of a large one."""
    with opened(file) as parquet:
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
    first = end = 0
    for rows in groups:
        if end > first and end + rows > first + num_rows:
            yield first, end
            first = end
        end += rows
        while end - first > num_rows:
            yield first, first + num_rows
            first += num_rows
    if end > first:
        yield first, end


def read_images(file: Place, first: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Encoded pictures of a file's rows from `first` to before `end`; no bytes where a row has none."""
    with opened(file) as parquet:
        column = image_column(file, parquet.schema_arrow)
        sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.metadata.num_row_groups)]
        ends = list(accumulate(sizes))
        groups = [i for i, e in enumerate(ends) if e > first and (end is None or e - sizes[i] < end)]
        at = ends[groups[0]] - sizes[groups[0]] if groups else 0
        for batch in parquet.iter_batches(batch_size=64, row_groups=groups, columns=[column]):
            cells = batch.column(0)
            if pa.types.is_struct(cells.type):
                cells = cells.field("bytes")
            for row, cell in enumerate(cells, at):
                if row >= first and (end is None or row < end):
                    yield cell.as_py() or b""
            at += len(batch)


def image_column(file: Place, schema: Any) -> str:
    """The name of the column with the pictures' bytes.

    Raises:
        DataError: there is none, or it holds something else.
    """
    return _column(file, schema, _IMAGE_COLUMNS)


def _column(file: Place, schema: Any, wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in schema.names:
            break
    else:
        raise DataError(f"{file} has no column {' or '.join(wanted)}: it has {', '.join(schema.names)}")
    if wanted is _IMAGE_COLUMNS:
        cell = schema.field(name).type
        if pa.types.is_struct(cell) and cell.get_field_index("bytes") >= 0:
            cell = cell.field("bytes").type
        if not (pa.types.is_binary(cell) or pa.types.is_large_binary(cell)):
            raise DataError(f"{file}: column {name} is {cell}, not the bytes of picture files")
    return name


def _class_names(schema: Any, column: str) -> list[str] | None:
    """Names from the metadata that `datasets` writes into the schema; None where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


@contextmanager
def opened(file: Place) -> Iterator[pq.ParquetFile]:
    """A file, opened. Raises DataError where it is damaged, or what is done with it in the block fails."""
    if isinstance(file, Path):
        with _reading(file), pq.ParquetFile(file) as parquet:
            yield parquet
        return
    folder, name = split_uri(file)
    with _reading(file), set_files(folder).open(name) as content:
        yield pq.ParquetFile(content, pre_buffer=True)


@contextmanager
def _reading(file: Place) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is damaged or cut short ({reason}): get it again") from error
