"""JSON of ours, read leniently: what is missing or of another kind is None or empty, and a page can still be made."""

from __future__ import annotations

import json
import math
from typing import Any

from augft.errors import RunDirectoryError
from augft.storage import Storage


def mapping(value: object) -> dict[str, Any]:
    """The mapping, or an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The mappings of a list."""
    return [one for one in items(value) if isinstance(one, dict)]


def items(value: object) -> list[Any]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def name(value: object, otherwise: str = "") -> str:
    """Text."""
    return otherwise if value is None else str(value)


def mean(values: list[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def read_mapping(storage: Storage, file: str, advice: str) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        RunDirectoryError: it is not there, or holds something else.
        StorageError: it cannot be read.
    """
    if not storage.exists(file):
        raise RunDirectoryError(f"{storage.uri}: no {file} there; {advice}")
    try:
        content = json.loads(storage.read(file))
    except ValueError as error:
        raise RunDirectoryError(f"{storage.uri}/{file}: cannot be read ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise RunDirectoryError(f"{storage.uri}/{file}: holds no mapping; {advice}")
    return content
