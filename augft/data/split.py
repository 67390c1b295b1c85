"""Which samples validate and which few are labelled: keyed, stratified choices of sample ids.

Each sample id has a key, a pure function of (seed, stream name, sample id); a choice of k samples of a class
takes those with the k smallest keys. So it does not depend on order, and a larger choice holds a smaller one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from augft.augment import draw
from augft.errors import DataError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


def carve(
    labels: Int32Array, val_fraction: float, seed: int, stream: str = "data/val"
) -> tuple[Int64Array, Int64Array]:
    """Carve a stratified validation split.

    Args:
        labels: int32 (N,), the label of each sample id.
        val_fraction: 0 <= val_fraction < 1; a class of n samples gives round(val_fraction * n), and keeps at
            least one for training.
        seed: any integer.
        stream: what the draw is for.

    Returns:
        Train ids and val ids: sorted int64, disjoint, together all of 0 to N - 1.

    Raises:
        DataError: `val_fraction` is out of range.
    """
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction={val_fraction} must be at least 0 and below 1")
    rank, count = _rank_in_class(labels, np.arange(len(labels), dtype=np.int64), seed, stream)
    wanted = np.minimum(np.round(val_fraction * count), count - 1)
    is_val = rank < wanted
    return np.flatnonzero(~is_val).astype(np.int64), np.flatnonzero(is_val).astype(np.int64)


def few_labels(labels: Int32Array, candidate_ids: Int64Array, labels_per_class: int, seed: int) -> Int64Array:
    """Choose `labels_per_class` samples of each class; with the same seed, fewer are a subset of more.

    Args:
        labels: int32 (N,), the label of each sample id; each class that occurs here is asked for.
        candidate_ids: int64 (M,), distinct, in any order: where to choose from.
        labels_per_class: at least 1.
        seed: any integer.

    Returns:
        Sorted int64 ids.

    Raises:
        DataError: `labels_per_class` is below 1, or a class has fewer candidates.
    """
    if labels_per_class < 1:
        raise DataError(f"labels_per_class={labels_per_class} must be at least 1, or null for all labels")
    ids = np.asarray(candidate_ids, np.int64)
    candidate_labels = labels[ids]
    for label in np.unique(labels).tolist():
        available = int(np.count_nonzero(candidate_labels == label))
        if available < labels_per_class:
            raise DataError(
                f"class {label} has {available} samples to choose from, fewer than "
                f"labels_per_class={labels_per_class}: set data.labels_per_class to {available} or less"
            )
    rank, _ = _rank_in_class(candidate_labels, ids, seed, "data/few_labels")
    return np.sort(ids[rank < labels_per_class])


def _rank_in_class(labels: Int32Array, ids: Int64Array, seed: int, stream: str) -> tuple[Int64Array, Int64Array]:
    """Each sample's rank by key among its class, and the size of its class: int64 (N,) both."""
    high, low = draw.words(seed, stream, 0, ids, 0, 2).astype(np.uint64)
    order = np.lexsort((ids, (high << np.uint64(32)) | low, labels))
    _, starts, inverse, counts = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
    rank, count = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    rank[order] = np.arange(len(ids)) - starts[inverse]
    count[order] = counts[inverse]
    return rank, count
