"""The callable that Ray Data runs: positions of the plan in, augmented pictures out."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from augft.augment.apply import draw_views
from augft.augment.kernel import row_digests
from augft.augment.policy import Policy
from augft.augment.samples import render_each
from augft.data.packed import PackedSplit, open_packed
from augft.data.plan import PADDING, IntArray, Items, Plan


class Augmenter:
    """Reads the pictures of some positions and augments them.

    What it returns depends on its arguments alone: any instance, on any node, at any time, gives the same bytes.

    Args:
        packed: path of the packed data set.
        split: which split of it.
        sample_ids: int64 (N,), the samples of the plan.
        plan: what stands at each position.
        policy: what is done to the copies; nothing where the device that trains does it.
        num_views: pictures of each item, as in `draw_views`.
    """

    def __init__(
        self, packed: str, split: str, sample_ids: IntArray, plan: Plan, policy: Policy, num_views: int = 1
    ) -> None:
        self._packed = packed
        self._split_name = split
        self._sample_ids = sample_ids
        self._plan = plan
        self._policy = policy
        self._num_views = num_views

    @cached_property
    def _split(self) -> PackedSplit:
        return open_packed(self._packed, in_windows=self._plan.windows is not None).split(self._split_name)

    def __call__(self, batch: dict[str, IntArray]) -> pa.Table:
        """`columns` of `batch["position"]` as a table; the pictures as a fixed-shape tensor column.

        A table, since Ray Data would look through all pixels of an array for its type.
        """
        columns = self.columns(batch["position"])
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(columns.pop("image"))
        return pa.table({"image": tensor, **columns})

    def columns(self, positions: IntArray) -> dict[str, npt.NDArray[Any]]:
        """One unit.

        Args:
            positions: int64 (M,), `PADDING` where there is no item.

        Returns:
            `image` uint8 (M, H, W, 3), or (M, num_views, H, W, 3) if there are several, `label` int32, `epoch`,
            `sample_id` and `copy` int64, `digest` uint64, (M, …); zeros at the padding. `copy` is 0 for an original,
            c + 1 for copy c.
        """
        real = np.flatnonzero(positions != PADDING)
        self._expect(positions[real])
        items = self._plan.items(positions[real])
        sample_ids = self._sample_ids[items.sample]
        labels = self._split.labels[sample_ids]
        identity = _identity(positions[real], items, sample_ids, labels)
        copies = items.copy + items.augmented
        drawn = draw_views(
            self._policy,
            seed=self._plan.draw_seed,
            epochs=items.epoch,
            sample_ids=sample_ids,
            copies=copies,
            num_views=self._num_views,
        )
        digests = np.zeros(len(real), np.uint64)
        views = []
        for number, one in enumerate(drawn):
            images = np.empty((len(real), *self._split.image_shape), np.uint8)
            for part in render_each(self._split, sample_ids, self._policy, one, images):
                digests[part] += row_digests(images[part], identity[part] + np.uint64(number))
            views.append(images)
        columns: dict[str, npt.NDArray[Any]] = {
            "image": views[0] if self._num_views == 1 else np.stack(views, 1),
            "label": labels,
            "epoch": items.epoch,
            "sample_id": sample_ids,
            "copy": copies,
            "digest": digests,
        }
        if len(real) == len(positions):
            return columns
        return {name: _pad(column, real, len(positions)) for name, column in columns.items()}

    def _expect(self, positions: IntArray) -> None:
        """Have the shards of these positions loaded, and of those a window on."""
        if self._plan.windows is not None:
            now, soon = (self._sample_ids[self._plan.shards(positions, later=later)] for later in (False, True))
            self._split.expect(now, soon)


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
