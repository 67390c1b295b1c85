"""The plan of a run: (seed, epoch, step, rank) → samples. Integer arithmetic; no Ray, no I/O, no state.

    sample     0 to N-1: a place in the sorted sample ids that the run trains on
    item       one picture of an epoch: a sample as it is, or one augmented copy of it
    epoch      all its items, each exactly once, in a keyed order
    position   an item's place in the run's endless sequence: epochs follow each other without padding
    step s     positions [s·G, (s+1)·G) for a global batch of G; an epoch's tail and the next one's head may share it
    share      rank r's part of a step: its contiguous r-th of W, sizes differing by at most one
    cursor     the number of steps done; with the weights it is all the state that a run has

What a step holds never depends on the number of ranks, so a run may go on from its cursor with another one.

The order is a keyed permutation that is computed, not stored (permutation.py). It is of all items of an epoch, or, for
sets that no node can hold, of the items of windows of shards (windows.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.augment.draw import stream_key
from augft.data.permutation import permute
from augft.data.windows import Order, Windows
from augft.errors import DataError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PADDING = -1
"""A position that holds no item: fills the shorter shares of ranks so that all are equally long."""


@dataclass(frozen=True)
class Items:
    """What stands at some positions, column by column; all arrays (M,).

    `copy` numbers the augmented copies of a sample from 0; it is 0 for originals too, which `augmented` tells apart.
    """

    epoch: IntArray
    sample: IntArray
    copy: IntArray
    augmented: BoolArray


@dataclass(frozen=True)
class Plan:
    """The order of a run.

    Args:
        num_samples: N, how many samples the run trains on.
        seed: the run's seed.
        epochs: how many epochs the run has.
        global_batch_size: items of a step over all ranks.
        select: share of the samples that get copies in an epoch, drawn anew for each.
        copies: augmented copies of each selected sample in an epoch.
        keep_original: whether each sample itself is an item of each epoch, untouched.
        draws: which of many independent sets of draws augmentation uses; the order does not depend on it.
        windows: the shards that the samples lie in; None: each epoch is shuffled as a whole.
    """

    num_samples: int
    seed: int
    epochs: int
    global_batch_size: int
    select: float = 1.0
    copies: int = 1
    keep_original: bool = False
    draws: int = 0
    windows: Windows | None = None

    def __post_init__(self) -> None:
        if self.epoch_length == 0:
            raise DataError(
                f"an epoch of {self.num_samples} samples with select {self.select} and {self.copies} copies "
                "is empty: raise augment.select, or set augment.keep_original: true"
            )
        if self.windows is not None and self.windows.num_samples != self.num_samples:
            raise ValueError(f"windows hold {self.windows.num_samples} samples, the plan {self.num_samples}")

    @property
    def draw_seed(self) -> int:
        """The seed of what is drawn for each picture."""
        return stream_key(self.seed, f"draws/{self.draws}") if self.draws else self.seed

    @property
    def num_selected(self) -> int:
        """Samples that get copies in each epoch: `round(select · N)`."""
        return round(self.select * self.num_samples)

    @property
    def num_originals(self) -> int:
        return self.num_samples if self.keep_original else 0

    @property
    def epoch_length(self) -> int:
        """Items of an epoch."""
        return self.num_originals + self.copies * self.num_selected

    @property
    def num_items(self) -> int:
        """Items of the run."""
        return self.epochs * self.epoch_length

    @property
    def num_steps(self) -> int:
        """Steps of the run; the last one may hold fewer than `global_batch_size` items, and no other does."""
        return ceil(self.num_items / self.global_batch_size)

    def items_before(self, step: int) -> int:
        """Items of all steps before this one."""
        return min(self.num_items, step * self.global_batch_size)

    def epoch_end(self, epoch: int) -> int:
        """The number of steps after which all items of `epoch` have been seen."""
        return ceil((epoch + 1) * self.epoch_length / self.global_batch_size)

    def step_size(self, step: int) -> int:
        """Items of a step over all ranks."""
        return self.items_before(step + 1) - self.items_before(step)

    def share(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        """Rank `rank`'s positions of a step: from the first up to, not including, the second."""
        first, size = self.items_before(step), self.step_size(step)
        return first + size * rank // world_size, first + size * (rank + 1) // world_size

    def padded_share(self, first_step: int, num_steps: int, rank: int, world_size: int) -> IntArray:
        """A rank's positions of consecutive steps, each step filled with `PADDING` to the largest share.

        Returns:
            int64 (num_steps, ceil(global_batch_size / world_size)).
        """
        width = ceil(self.global_batch_size / world_size)
        positions = np.full((num_steps, width), PADDING, np.int64)
        for row in range(num_steps):
            start, stop = self.share(first_step + row, rank, world_size)
            positions[row, : stop - start] = np.arange(start, stop)
        return positions

    def items(self, positions: IntArray) -> Items:
        """What stands at `positions`: int64 (M,), each in [0, num_items)."""
        epoch, index = np.divmod(positions, self.epoch_length)
        copy = np.empty_like(positions)
        augmented = np.empty(positions.shape, np.bool_)
        sample = np.empty_like(positions)
        for e in np.unique(epoch).tolist():
            here = np.flatnonzero(epoch == e)
            if self.windows is None:
                sample[here], copy[here], augmented[here] = self._dealt(
                    index[here], self.num_samples, self.num_selected, f"{e}"
                )
                continue
            order = self.windows.order(self.seed, e)
            place, window = self._windows_of(positions[here], e)
            for w in np.unique(window).tolist():
                at, (first, end) = here[window == w], order.bounds(w)
                num_selected = self._selected_of(order, end) - self._selected_of(order, first)
                index_in_window = place[window == w] - self._items_of(order, first)
                turn, copy[at], augmented[at] = self._dealt(index_in_window, end - first, num_selected, f"{e}/{w}")
                sample[at] = order.samples(first + turn)
        return Items(epoch, sample, copy, augmented)

    def _dealt(
        self, index: IntArray, num_samples: int, num_selected: int, name: str
    ) -> tuple[IntArray, IntArray, BoolArray]:
        """The items of so many samples in a keyed order: sample, copy and augmented, each (M,)."""
        num_originals = num_samples if self.keep_original else 0
        length = num_originals + self.copies * num_selected
        slot = permute(index, length, stream_key(self.seed, f"plan/order/{name}"))
        augmented = slot >= num_originals
        copy = np.zeros_like(slot)
        copy[augmented], selected = np.divmod(slot[augmented] - num_originals, max(1, num_selected))
        if num_selected < num_samples:
            selected = permute(selected, num_samples, stream_key(self.seed, f"plan/select/{name}"))
        slot[augmented] = selected
        return slot, copy, augmented

    # ---- windows ---------------------------------------------------------------------------------------------------

    def _selected_of(self, order: Order, turns: Any) -> Any:
        """How many of an epoch's first so many samples are selected: each stretch has its share, rounded up or down."""
        return (self.num_selected * turns + order.phase) // self.num_samples

    def _items_of(self, order: Order, turns: Any) -> Any:
        """Items of an epoch's first so many samples, a number or an array of them."""
        return self.keep_original * turns + self.copies * self._selected_of(order, turns)

    def _windows_of(self, positions: IntArray, epoch: int) -> tuple[IntArray, IntArray]:
        """Where in its epoch's windows, one behind the other, each position stands, and in which; both (M,)."""
        assert self.windows is not None
        order = self.windows.order(self.seed, epoch)
        place = self._place(positions, epoch)
        return place, np.searchsorted(self._items_of(order, order.ends), place, side="right")

    def _place(self, positions: IntArray, epoch: int) -> IntArray:
        """Where in the epoch's windows its positions stand: its lanes lie one behind the other."""
        assert self.windows is not None
        first = epoch * self.epoch_length
        if self.windows.lanes == 1:
            return positions - first
        lanes = min(self.windows.lanes, self.global_batch_size)
        borders = np.arange(lanes + 1) * self.global_batch_size // lanes
        lane = np.searchsorted(borders, positions % self.global_batch_size, side="right") - 1

        def before(position: Any, lane: IntArray) -> IntArray:
            """Positions of a lane before this one, in the run."""
            steps, rest = np.divmod(position, self.global_batch_size)
            width = borders[lane + 1] - borders[lane]
            inside: IntArray = steps * width + np.clip(rest - borders[lane], 0, width)
            return inside

        every = np.arange(lanes)
        began = before(first, every)
        lengths = before(first + self.epoch_length, every) - began
        starts = np.cumsum(lengths) - lengths
        place: IntArray = starts[lane] + before(positions, lane) - began[lane]
        return place

    def shards(self, positions: IntArray, *, later: bool = False) -> IntArray:
        """A sample of each shard of the windows that some positions stand in, or of those that come after them.

        Args:
            positions: int64 (M,), each in [0, num_items).
            later: a window later in the run.

        Returns:
            int64 (K,), samples in the order in which their shards come; empty without windows, and past the end.
        """
        if self.windows is None:
            return positions[:0]
        if later:
            positions = positions + self._window_positions
            positions = positions[positions < self.num_items]
        epoch = positions // self.epoch_length
        found = [positions[:0]]
        for e in np.unique(epoch).tolist():
            order = self.windows.order(self.seed, e)
            _, window = self._windows_of(positions[epoch == e], e)
            found += [order.a_sample_each(w) for w in np.unique(window).tolist()]
        return np.concatenate(found)

    @property
    def _window_positions(self) -> int:
        """Positions after which the sequence has moved on by about a window, in whole steps."""
        assert self.windows is not None
        lanes = min(self.windows.lanes, self.global_batch_size)
        steps = ceil(self.epoch_length * lanes / self.windows.num_windows / self.global_batch_size)
        return steps * self.global_batch_size
