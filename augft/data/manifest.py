"""The manifest of a packed data set: what the folder holds, and how to tell that it is whole."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from augft.errors import DataError
from augft.storage import Place, Storage, reason

FORMAT_VERSION = 1
ENCODED_VERSION = 2
"""Of sets whose shards hold picture files and not pixels: `encoded.py`."""
MANIFEST = "manifest.json"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Entry):
    """One Parquet file of a split."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.parquet$", description="name beside the manifest")
    first_id: int = Field(ge=0, description="sample id of its first row; its rows are dense from there")
    num_rows: int = Field(ge=1)
    num_bytes: int = Field(ge=1, description="size of the Parquet file")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of labels (int32) and pixels: `rows_digest`")


class EncodedShard(Shard):
    """The same of picture files; its digest is of labels and of what a node lays down of it: `encoded.lay_out`."""

    picture_bytes: int = Field(ge=1, description="size of its picture files together")


class Split(_Entry):
    """One of train, val, test."""

    num_rows: int = Field(ge=1)
    shards: tuple[EncodedShard | Shard, ...]


class Rejected(_Entry):
    """A picture that was left out."""

    path: str
    reason: str


class Manifest(_Entry):
    """`manifest.json` of a packed data set."""

    format_version: int
    classes: tuple[str, ...] = Field(min_length=1, description="class names; a label is an index into them")
    image_shape: tuple[PositiveInt, PositiveInt, Literal[3]] = Field(
        description="height, width, 3, of each picture as it is stored, or, of picture files, as it comes out"
    )
    splits: dict[str, Split]
    mean: tuple[float, float, float] = Field(description="of train's red, green, blue; pixels scaled to [0, 1]")
    std: tuple[float, float, float] = Field(description="of the same; 0 for a constant channel")
    digest: str = Field(description="of classes, shape and all rows: equal digests, equal data (`set_digest`)")
    source: str = Field(description="what was packed, as it was given")
    recipe: str = Field(description="digest of the source's content and the options of packing")
    rejected: tuple[Rejected, ...] = ()

    @property
    def encoded(self) -> bool:
        """Whether the shards hold picture files and not pixels."""
        return self.format_version == ENCODED_VERSION


def rows_digest(labels: npt.NDArray[np.int32]) -> Any:
    """A SHA-256 that has taken the labels of a shard; update it with the shard's pixels in order.

    It is over rows, not over Parquet bytes: the same data has the same digest under any version of Arrow.
    """
    return hashlib.sha256(labels.astype("<i4").tobytes())


def set_digest(classes: tuple[str, ...], image_shape: tuple[int, int, int], splits: dict[str, Split]) -> str:
    """The digest of a whole set, from the digests of its shards."""
    rows = {name: [[shard.num_rows, shard.sha256] for shard in split.shards] for name, split in splits.items()}
    return hashlib.sha256(json.dumps([classes, image_shape, rows], sort_keys=True).encode()).hexdigest()


def damaged(path: Place, what: str) -> DataError:
    return DataError(f"packed data set {path} is damaged: {what}; pack the source again")


def is_manifest(content: bytes) -> bool:
    """Whether a file of that name is a packed set's, perhaps a damaged one; other programs have theirs."""
    try:
        found = json.loads(content)
    except ValueError:
        return True
    return isinstance(found, dict) and not found.keys().isdisjoint(("format_version", "image_shape", "recipe"))


def read_manifest(path: Place, files: Storage) -> Manifest:
    """The manifest of the set at `path`, whose files these are.

    Raises:
        DataError: there is none, or it does not hold together.
        StorageError: storage fails.
    """

    def read() -> bytes:
        with files.open(MANIFEST) as file:
            data: bytes = file.read()
        return data

    try:
        content = json.loads(files.attempt("read", MANIFEST, read))
    except FileNotFoundError:
        raise DataError(f"{path} is not a packed data set: it has no {MANIFEST}; see `augft pack`") from None
    except OSError as error:
        raise DataError(f"{path}/{MANIFEST} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise damaged(path, f"{MANIFEST} is not JSON ({error})") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in (FORMAT_VERSION, ENCODED_VERSION):
        raise DataError(
            f"{path}/{MANIFEST} has format version {version}, this augft reads {FORMAT_VERSION} and "
            f"{ENCODED_VERSION}: pack the source again"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise damaged(path, f"{MANIFEST}: {where}: {first['msg']}") from None
    for name, split in manifest.splits.items():
        ends = [0]
        for shard in split.shards:
            if isinstance(shard, EncodedShard) != manifest.encoded:
                raise damaged(path, f"{MANIFEST}: {shard.file} is not of format version {version}")
            if shard.first_id != ends[-1]:
                raise damaged(path, f"{MANIFEST}: {shard.file} begins at {shard.first_id}, not at {ends[-1]}")
            ends.append(shard.first_id + shard.num_rows)
        if split.num_rows != ends[-1]:
            raise damaged(path, f"{MANIFEST}: {name} has {split.num_rows} rows, its shards {ends[-1]}")
    if manifest.digest != set_digest(manifest.classes, manifest.image_shape, manifest.splits):
        raise damaged(path, f"{MANIFEST}: digest does not fit classes and shards")
    return manifest
