"""Parquet files of encoded pictures and labels, as Hugging Face's `datasets` writes them.

Splits are told by file name (`train-00000-of-00001.parquet`) or by folder (`train/0000.parquet`). The picture
column is `image` or `img`, a struct with `bytes` or plain binary; the label column is the first there is of
`label`, `labels`, `fine_label`. Class names come from the schema's `huggingface` metadata or from labels that
are text; else they are numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from augft.errors import DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val)(?![A-Za-z0-9])")


def find(path: Path) -> dict[Path, str]:
    """Parquet files at or below `path` in sorted order, and the split of each; none if it is something else.

    Raises:
        DataError: only some of the files tell their split.
    """
    if path.is_file():
        with _reading(path), path.open("rb") as content:
            return {path: "train"} if content.read(4) == b"PAR1" else {}
    files = sorted(
        file
        for file in path.rglob("*.parquet")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    if not any(splits.values()):
        return dict.fromkeys(files, "train")
    for file, split in splits.items():
        if split is None:
            raise DataError(f"{file} tells no split: name it train-…, val-… or test-….parquet")
    return {file: split for file, split in splits.items() if split is not None}


def _split_of(relative: Path) -> str | None:
    for part in (relative.name, relative.parent.name):
        if match := _SPLIT_NAME.match(part):
            return "val" if match[1].startswith("val") else match[1]
    return None


def read_labels(files: dict[Path, str]) -> tuple[tuple[str, ...], list[tuple[str, int, str]]]:
    """Class names, and (split, label, name) of each row: files in order, rows in order.

    Raises:
        DataError: a file is damaged, a column is missing, or a label is none of train's.
    """
    raw: list[tuple[str, Any, str]] = []
    names: list[str] | None = None
    for file, split in files.items():
        with _reading(file), pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            _column(file, schema, _IMAGE_COLUMNS)
            column = _column(file, schema, _LABEL_COLUMNS)
            names = names or _class_names(schema, column)
            labels = parquet.read(columns=[column])[column].to_pylist()
        raw += [(split, label, f"{file.name}#{row:09d}") for row, label in enumerate(labels)]
    trained = {label for split, label, _ in raw if split == "train"}
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


def read_images(files: dict[Path, str]) -> Iterator[bytes]:
    """Encoded pictures: files in order, rows in order; none where a row has no bytes."""
    for file in files:
        with _reading(file), pq.ParquetFile(file) as parquet:
            column = _column(file, parquet.schema_arrow, _IMAGE_COLUMNS)
            for batch in parquet.iter_batches(batch_size=64, columns=[column]):
                cells = batch.column(0)
                if pa.types.is_struct(cells.type):
                    cells = cells.field("bytes")
                yield from (cell.as_py() or b"" for cell in cells)


def _column(file: Path, schema: Any, wanted: tuple[str, ...]) -> str:
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
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} is damaged or cut short ({reason}): get it again") from error
