"""Which kind of source it is that a person names."""

from __future__ import annotations

from pathlib import Path

from augft.data.hf_parquet import files_of_pictures
from augft.data.pack import pack
from augft.data.packed import is_packed, set_files
from augft.data.picture import is_picture
from augft.data.tree import is_noise, reading, walk
from augft.errors import DataError
from augft.prediction.archives import open_archive
from augft.prediction.files import Folder, OnePicture
from augft.prediction.listing import Source
from augft.prediction.tables import Packed, ParquetFiles
from augft.storage import place

_BUILT_IN = ("digits", "cifar10")


def open_source(named: str, picture_size: int) -> Source:
    """What a person names: a folder of pictures or of Parquet files, a picture, an archive, a Parquet file, a packed
    set, each a path or a URI; `digits` or `cifar10`.

    Args:
        named: the source.
        picture_size: side of the squares that pictures become.

    Raises:
        DataError: there is none, or it is nothing of this kind.
        StorageError: an object store fails.
    """
    where = place(pack(named) if named in _BUILT_IN else named)
    if isinstance(where, Path):
        where = where.absolute()
        if not where.exists():
            raise DataError(
                f"source '{named}' does not exist: give the path or URI of a folder of pictures, a picture, an "
                f"archive, a Parquet file or a packed set"
            )
    text = str(where)
    if is_packed(where):
        return Packed(text, picture_size)
    if isinstance(where, Path):
        return _on_disk(where, text)
    files = set_files(where)
    if listed := files.walk():
        parquet = files_of_pictures(
            text, (name for name, info in listed.items() if info.is_file and not is_noise(name))
        )
        return ParquetFiles(text, tuple(parquet)) if parquet else Folder(text, listed)
    if not files.exists():
        raise DataError(f"source '{named}' does not exist, or holds nothing; give another")
    name = text.partition("?")[0]
    if is_picture(name):
        return OnePicture(text)
    return ParquetFiles(text, ()) if name.endswith(".parquet") else open_archive(text)


def _on_disk(where: Path, text: str) -> Source:
    if where.is_dir():
        parquet = files_of_pictures(where, (name for name, entry in walk(where) if entry.is_file()))
        return ParquetFiles(text, tuple(parquet)) if parquet else Folder(text)
    if is_picture(where.name):
        return OnePicture(text)
    with reading(where), where.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    return ParquetFiles(text, ()) if is_parquet else open_archive(text)
