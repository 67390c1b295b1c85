"""The callable that Ray Data runs: positions of the plan in, augmented pictures out."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.augment.apply import augment_batch
from augft.augment.kernel import row_digests
from augft.augment.policy import Policy
from augft.data.packed import PackedSplit, open_packed
from augft.data.plan import PADDING, IntArray, Items, Plan

Columns = dict[str, npt.NDArray[Any]]


class Augmenter:
    """Reads the pictures of some positions and augments them.

    What it returns depends on its arguments alone: any instance, on any node, at any time, gives the same bytes.

    Args:
        packed: path of the packed data set.
        split: which split of it.
        sample_ids: int64 (N,), the samples of the plan.
        plan: what stands at each position.
        policy: what is done to the copies.
    """

    def __init__(self, packed: str, split: str, sample_ids: IntArray, plan: Plan, policy: Policy) -> None:
        self._packed = packed
        self._split_name = split
        self._sample_ids = sample_ids
        self._plan = plan
        self._policy = policy

    @cached_property
    def _split(self) -> PackedSplit:
        return open_packed(self._packed).split(self._split_name)

    def __call__(self, batch: Columns) -> Columns:
        """One unit.

        Args:
            batch: `position` int64 (M,), `PADDING` where there is no item.

        Returns:
            `image` uint8 (M, H, W, 3), `label` int32, `epoch`, `sample_id` and `copy` int64, `digest` uint64, (M, …);
            zeros at the padding.
        """
        positions = batch["position"]
        real = np.flatnonzero(positions != PADDING)
        items = self._plan.items(positions[real])
        sample_ids = self._sample_ids[items.sample]
        images, labels = self._split.gather(sample_ids)
        copies = np.flatnonzero(items.augmented)
        images[copies] = augment_batch(
            images[copies],
            self._policy,
            seed=self._plan.seed,
            epoch=items.epoch[copies],
            sample_ids=sample_ids[copies],
            copy=items.copy[copies],
        )
        digests = row_digests(images, _identity(positions[real], items, sample_ids, labels))
        columns: Columns = {
            "image": images,
            "label": labels,
            "epoch": items.epoch,
            "sample_id": sample_ids,
            "copy": items.copy + items.augmented,
            "digest": digests,
        }
        if len(real) == len(positions):
            return columns
        return {name: _pad(column, real, len(positions)) for name, column in columns.items()}


def _identity(
    positions: IntArray, items: Items, sample_ids: IntArray, labels: npt.NDArray[np.int32]
) -> npt.NDArray[np.uint64]:
    """What each row is, folded to 64 bits: so a digest also tells who came where, not only which pixels came."""
    folded = np.zeros(len(positions), np.uint64)
    for column in (positions, sample_ids, items.copy, items.augmented, labels):
        folded = (folded ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        folded ^= folded >> np.uint64(32)
    return folded


def _pad(column: npt.NDArray[Any], rows: npt.NDArray[np.intp], length: int) -> npt.NDArray[Any]:
    padded = np.zeros((length, *column.shape[1:]), column.dtype)
    padded[rows] = column
    return padded
