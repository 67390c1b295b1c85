"""Pictures to a packed data set: Parquet shards of equal uint8 images, and a manifest.

A packed set appears whole or not at all, is the same byte for byte whenever the same source is packed in the
same way, and is kept in a cache by what went into it. On object storage its manifest is written last: shards without
one are no set, and the same command goes on with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from augft.augment.draw import stream_key
from augft.data.decode import Progress, Scratch, decode, shown
from augft.data.destination import appearing, is_done, upload
from augft.data.manifest import FORMAT_VERSION, MANIFEST, Manifest, Rejected, set_digest
from augft.data.packed import cache_dir, is_packed, open_packed
from augft.data.permutation import permute
from augft.data.shards import mean_std, write_split
from augft.data.sources import Source, open_source, source_digest
from augft.data.split import carve
from augft.errors import DataError
from augft.storage import Place, extend_uri, place

Int64Array = npt.NDArray[np.int64]

_MAX_IMAGE_SIZE = 4096


def pack(
    source: str,
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    val_fraction: float = 0.0,
    seed: int = 0,
    on_bad: Literal["fail", "skip"] = "fail",
    shuffled: bool = False,
    progress: Progress | None = None,
    num_threads: int | None = None,
) -> Place:
    """Pack a source, or find it packed.

    Args:
        source: see `augft.data.sources`; an already packed set is handed back as it is, or uploaded to a URI.
        out: folder to make, or a URI; None for one of `root`.
        root: folder or URI where sets are kept by what went into them; None for the cache, `$AUGFT_CACHE/packed/` or
            `~/.cache/augft/packed/`. What the cache has is copied there.
        image_size: side of the stored square in pixels; None keeps the size that all pictures share.
        val_fraction: part of train to write as `val`, stratified; a source with a val of its own keeps that.
        seed: keys the choice of `val`.
        on_bad: whether a picture that cannot be used fails the whole, or is left out and listed as rejected.
        shuffled: whether the rows of train are in a shuffled order and not in that of the source, where neighbours
            mostly have one class; for windows of shards, which are shuffled within.
        progress: called with pictures done and their number.
        num_threads: None for one a CPU; the result does not depend on it.

    Returns:
        The packed folder, or its URI.

    Raises:
        DataError: the source cannot be used, or `out` is something else.
        StorageError: it could not be written; no set is left behind.
    """
    if image_size is not None and not 1 <= image_size <= _MAX_IMAGE_SIZE:
        raise DataError(f"image_size={image_size} must be 1 to {_MAX_IMAGE_SIZE} pixels, or null")
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction={val_fraction} must be at least 0 and below 1")
    if is_packed(source):
        return _already_packed(place(source), out, image_size)
    if not isinstance(place(source), Path):
        raise DataError(f"{source} is no packed data set: pack the pictures from a disk, `augft pack FOLDER {source}`")
    options = _Options(image_size, val_fraction, seed, on_bad, shuffled)
    recipe = _recipe(source_digest(source), options)
    cached = cache_dir() / "packed" / recipe[:32]
    kept = cached if root is None else extend_uri(str(root), f"/{cached.name}")
    final = place(kept if out is None else out)
    if is_done(final, recipe, owned=out is None):
        return final
    in_cache = out is None and final != cached and is_done(cached, recipe, owned=True)
    if in_cache and not isinstance(final, Path):
        upload(cached, final, recipe)
        return final
    with appearing(final, recipe, scratch=cached.parent) as folder:
        if in_cache:
            shutil.copytree(cached, folder, dirs_exist_ok=True)
        else:
            _write_set(folder, source, recipe, options, progress, num_threads or os.cpu_count() or 1)
    return final


@dataclass(frozen=True)
class _Options:
    image_size: int | None
    val_fraction: float
    seed: int
    on_bad: Literal["fail", "skip"]
    shuffled: bool


def _recipe(digest: str, options: _Options) -> str:
    parts = {
        "format_version": FORMAT_VERSION,
        "source": digest,
        **asdict(options),
        "seed": options.seed if options.val_fraction else None,
    }
    if not options.shuffled:  # nothing new in the recipe of sets that were made before there was a choice
        del parts["shuffled"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _already_packed(source: Place, out: str | Path | None, image_size: int | None) -> Place:
    manifest = open_packed(source).manifest
    height, width, _ = manifest.image_shape
    if image_size is not None and (height, width) != (image_size, image_size):
        raise DataError(
            f"{source} is packed at {height}x{width}, not at image_size={image_size}: "
            f"leave image_size out (null), or pack the pictures anew"
        )
    final = source if out is None else place(out)
    if final == source or (isinstance(final, Path) and final.resolve() == Path(source).resolve()):
        return source
    if isinstance(source, Path) and not isinstance(final, Path):
        if not is_done(final, manifest.recipe, owned=False):
            upload(source, final, manifest.recipe)
        return final
    raise DataError(f"{source} is packed already: use it as it is, or copy the folder")


def _write_set(
    folder: Path, source: str, recipe: str, options: _Options, progress: Progress | None, num_threads: int
) -> None:
    opened = open_source(source)
    _check_classes(source, opened)
    with Scratch(folder / "pixels.scratch", source, opened) as scratch:
        rejected = decode(opened, scratch, options.image_size, num_threads, progress)
        if rejected and options.on_bad == "fail":
            first = min(rejected)
            raise DataError(
                f"{source}: picture '{shown(opened.records[first].path)}' {rejected[first]} "
                f"({len(rejected)} bad of {len(opened.records)}): remove it, or use --on-bad skip"
            )
        rows = _rows_of_splits(source, opened, rejected, options.val_fraction, options.seed)
        if options.shuffled:
            labels, indices = rows["train"]
            order = permute(np.arange(len(labels)), len(labels), stream_key(0, "data/pack"))
            rows["train"] = labels[order], indices[order]
        pixels = scratch.pixels()
        splits = {
            name: write_split(folder, name, labels, pixels, indices) for name, (labels, indices) in sorted(rows.items())
        }
        mean, std = mean_std(pixels, rows["train"][1])
    shape = (pixels.shape[1], pixels.shape[2], 3)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        classes=opened.classes,
        image_shape=shape,
        splits=splits,
        mean=mean,
        std=std,
        digest=set_digest(opened.classes, shape, splits),
        source=shown(source),
        recipe=recipe,
        rejected=tuple(Rejected(path=shown(opened.records[i].path), reason=rejected[i]) for i in sorted(rejected)),
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(), indent=2) + "\n")


# ---- what the set holds -----------------------------------------------------------------------------------


def _check_classes(source: str, opened: Source) -> None:
    if len(opened.classes) < 2:
        raise DataError(f"{source} has one class only, {_listed(opened.classes)}: a classifier needs two")
    for name in opened.classes:
        if not name.isprintable():
            raise DataError(f"{source}: class name '{shown(name)}' is no printable text: rename it")
    if not opened.records:
        raise DataError(f"{source} holds no pictures")


def _rows_of_splits(
    source: str, opened: Source, rejected: dict[int, str], val_fraction: float, seed: int
) -> dict[str, tuple[Int64Array, Int64Array]]:
    """Labels and indices of records, int64 (rows,) both, of each split in the order of sample ids."""
    kept = [i for i in range(len(opened.records)) if i not in rejected]
    indices = np.array(kept, np.int64)
    labels = np.array([opened.records[i].label for i in kept], np.int64)
    split_of = np.array([opened.records[i].split for i in kept], object)
    rows = {name: (labels[split_of == name], indices[split_of == name]) for name in set(split_of.tolist())}
    for name in sorted({record.split for record in opened.records} - rows.keys()):
        raise DataError(f"{source}: no usable picture is left in {name}")
    if "train" not in rows:
        raise DataError(f"{source} has no train split, only {', '.join(sorted(rows))}")
    labels, indices = rows["train"]
    counts = np.bincount(labels, minlength=len(opened.classes))
    if not counts.all():
        empty = [opened.classes[i] for i in np.flatnonzero(counts == 0)]
        raise DataError(
            f"{source}: class {_listed(empty)} has no usable picture in train: add some, or remove the class"
        )
    if val_fraction and "val" not in rows:
        train_ids, val_ids = carve(labels.astype(np.int32), val_fraction, seed)
        if not len(val_ids):
            raise DataError(f"val_fraction={val_fraction} of {source} leaves val empty: give more, or 0")
        rows["train"] = labels[train_ids], indices[train_ids]
        rows["val"] = labels[val_ids], indices[val_ids]
    return rows


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"'{shown(name)}'" for name in names[:5]) + (", …" if len(names) > 5 else "")
