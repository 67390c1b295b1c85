"""Pictures to a packed data set: Parquet shards of equal uint8 images, and a manifest.

A packed set appears whole or not at all, is the same byte for byte whenever the same source is packed in the
same way, and is kept in a cache by what went into it. On object storage its manifest is written last: shards without
one are no set. A packing that broke off is gone on with by the same call.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from augft.data.assemble import Assembly, Options, Say
from augft.data.destination import appearing, is_done, landing, upload
from augft.data.manifest import ENCODED_VERSION, FORMAT_VERSION, MANIFEST
from augft.data.packed import cache_dir, is_packed, open_packed
from augft.data.parts import Site
from augft.data.sources import open_source, source_digest
from augft.data.work import Crew, Progress, Threads
from augft.errors import DataError
from augft.storage import Place, extend_uri, place

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
    encoded: bool = False,
    for_training: bool = True,
    progress: Progress | None = None,
    num_threads: int | None = None,
    crew: Crew | None = None,
    say: Say | None = None,
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
        encoded: whether the picture files are stored as they are, of any size, and decoded where they are augmented;
            `image_size` is then what they come out at.
        for_training: whether there has to be a train split; mean and standard deviation are else those of test or val.
        progress: called with pictures done and their number.
        num_threads: None for one a CPU; the result does not depend on it.
        crew: who packs instead, all of whom see `source` and `out`; nor on that.
        say: told in a line what an earlier packing, which broke off, had done already.

    Returns:
        The packed folder, or its URI.

    Raises:
        DataError: the source cannot be used, or `out` is something else.
        StorageError: it could not be written; no set is left behind, but parts, with which the same call goes on.
    """
    if image_size is not None and not 1 <= image_size <= _MAX_IMAGE_SIZE:
        raise DataError(f"image_size={image_size} must be 1 to {_MAX_IMAGE_SIZE} pixels, or null")
    if encoded and image_size is None and not is_packed(source):
        raise DataError(
            "picture files that are stored as they are need a size to come out at: give --image-size N "
            "(data.image_size in a job)"
        )
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction={val_fraction} must be at least 0 and below 1")
    if is_packed(source):
        return _already_packed(place(source), out, image_size, encoded)
    options = Options(image_size, val_fraction, seed, on_bad, shuffled, encoded, for_training)
    num_threads = num_threads or os.cpu_count() or 1
    recipe = _recipe(source_digest(source, crew or Threads(num_threads)), options)
    cached = cache_dir() / "packed" / recipe[:32]
    kept = cached if root is None else extend_uri(str(root), f"/{cached.name}")
    final = place(kept if out is None else out)
    if is_done(final, recipe, owned=out is None):
        return final
    in_cache = out is None and final != cached and is_done(cached, recipe, owned=True)
    if in_cache and not isinstance(final, Path):
        upload(cached, final, recipe)
        return final
    final = landing(final)
    with appearing(final, recipe, scratch=cached.parent, directly=crew is not None) as site:
        if in_cache:
            shutil.copytree(cached, site.place, dirs_exist_ok=True)
        else:
            _write_set(site, source, recipe, options, crew, num_threads, progress, say)
    return final


def _recipe(digest: str, options: Options) -> str:
    parts = {
        "format_version": ENCODED_VERSION if options.encoded else FORMAT_VERSION,
        "source": digest,
        **asdict(options),
        "seed": options.seed if options.val_fraction else None,
    }
    for name in ("shuffled", "encoded"):  # nothing new in the recipe of sets that were made before there was a choice
        if not parts[name]:
            del parts[name]
    if options.for_training:
        del parts["for_training"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _already_packed(source: Place, out: str | Path | None, image_size: int | None, encoded: bool) -> Place:
    manifest = open_packed(source).manifest
    if encoded and not manifest.encoded:
        raise DataError(
            f"{source} is packed as pixels, not as picture files: leave --encoded out (data.store: pixels), "
            "or pack the pictures anew"
        )
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
    site: Site,
    source: str,
    recipe: str,
    options: Options,
    crew: Crew | None,
    num_threads: int,
    progress: Progress | None,
    say: Say | None,
) -> None:
    opened = open_source(source, for_training=options.for_training)
    manifest = Assembly(site, source, opened, options, crew or Threads(num_threads), progress, say).make(recipe)
    site.files().write(MANIFEST, (json.dumps(manifest.model_dump(), indent=2) + "\n").encode())
