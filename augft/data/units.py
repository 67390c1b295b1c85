"""The units that a rank's batches are cut from: several consecutive steps' rows, made in one go.

Who makes them is another matter: augmentation actors on Ray (stream.py), or a thread beside the training step
(beside.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.data.plan import IntArray

MAX_UNIT_BYTES = 64 * 2**20
SECONDS = "seconds"
"""A column of a unit: how long a row took, float32, in seconds; NaN where that was not timed."""


@dataclass(frozen=True)
class RankBatch:
    """A rank's share of a step; all arrays (M, …), in plan order."""

    step: int
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    epochs: IntArray
    sample_ids: IntArray
    copies: IntArray
    """Which of a sample's items it is: 0 the original, c + 1 its copy c."""
    digest: int
    """Sum of the rows' digests modulo 2**64: the ranks' sums add up to the step's."""
    augment_s: float = 0.0
    """Time that an actor spent on `num_timed` of the rows."""
    num_timed: int = 0


def batch_of(step: int, block: dict[str, npt.NDArray[Any]], rows: slice) -> RankBatch:
    """A step's rows of a unit's columns: those of `Augmenter.columns`, and `SECONDS`."""
    seconds = block[SECONDS][rows]
    return RankBatch(
        step=step,
        images=block["image"][rows],
        labels=block["label"][rows],
        epochs=block["epoch"][rows],
        sample_ids=block["sample_id"][rows],
        copies=block["copy"][rows],
        digest=int(np.add.reduce(block["digest"][rows], dtype=np.uint64)),
        augment_s=float(np.nansum(seconds, dtype=np.float64)),
        num_timed=int(np.isfinite(seconds).sum()),
    )


def steps_per_unit(width: int, row_bytes: int, unit_rows: int) -> int:
    """Steps of a unit whose steps have `width` rows: at least `unit_rows` rows, but few enough bytes."""
    enough = ceil(unit_rows / width)
    affordable = MAX_UNIT_BYTES // (width * row_bytes)
    return max(1, min(enough, affordable))


def chain(digest: str, step_sums: npt.NDArray[np.uint64]) -> str:
    """The stream digest after further steps: each step's sum is hashed onto the digest before it.

    Args:
        digest: hex digest of all steps so far; empty at the start.
        step_sums: uint64 (S,), the digests of the following steps, summed over ranks.
    """
    for step_sum in step_sums:
        digest = hashlib.blake2b(
            bytes.fromhex(digest) + int(step_sum).to_bytes(8, "little"), digest_size=16
        ).hexdigest()
    return digest
