"""The plan of a run: (seed, epoch, step, rank) → samples. Integer arithmetic; no Ray, no I/O, no state.

    sample     0 to N-1: a place in the sorted sample ids that the run trains on
    item       one picture of an epoch: a sample as it is, or one augmented copy of it
    epoch      all its items, each exactly once, in a keyed order
    position   an item's place in the run's endless sequence: epochs follow each other without padding
    step s     positions [s·G, (s+1)·G) for a global batch of G; an epoch's tail and the next one's head may share it
    share      rank r's part of a step: its contiguous r-th of W, sizes differing by at most one
    cursor     the number of steps done; with the weights it is all the state that a run has

What a step holds never depends on the number of ranks, so a run may go on from its cursor with another one.

The order is a keyed permutation that is computed, not stored: a Feistel network over the a × b rectangle around the
epoch's length (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), walking on where it leaves
the epoch. Any item of any epoch costs the same few operations and no memory, at ten samples or at a billion.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np
import numpy.typing as npt

from augft.augment.draw import stream_key
from augft.errors import DataError

IntArray = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

PADDING = -1
"""A position that holds no item: fills the shorter shares of ranks so that all are equally long."""

_FEISTEL_ROUNDS = 16
"""Even; over 100,000 epochs all orders of six items come equally often, by chi-square. With eight they do not."""


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
    """

    num_samples: int
    seed: int
    epochs: int
    global_batch_size: int
    select: float = 1.0
    copies: int = 1
    keep_original: bool = False
    draws: int = 0

    def __post_init__(self) -> None:
        if self.epoch_length == 0:
            raise DataError(
                f"an epoch of {self.num_samples} samples with select {self.select} and {self.copies} copies "
                "is empty: raise augment.select, or set augment.keep_original: true"
            )

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
        copy = np.zeros_like(positions)
        augmented = np.zeros(positions.shape, np.bool_)
        sample = np.empty_like(positions)
        for e in np.unique(epoch):
            here = epoch == e
            slot = permute(index[here], self.epoch_length, stream_key(self.seed, f"plan/order/{e}"))
            is_copy = slot >= self.num_originals
            copy_slot = slot[is_copy] - self.num_originals
            copy_number, selected = np.divmod(copy_slot, max(1, self.num_selected))
            if self.num_selected < self.num_samples:
                selected = permute(selected, self.num_samples, stream_key(self.seed, f"plan/select/{e}"))
            slot[is_copy] = selected
            sample[here] = slot
            augmented[here] = is_copy
            copy[np.flatnonzero(here)[is_copy]] = copy_number
        return Items(epoch, sample, copy, augmented)


def permute(index: IntArray, size: int, key: int) -> IntArray:
    """A keyed permutation of [0, size), evaluated at `index`.

    Args:
        index: int64 (M,), each in [0, size).
        size: length of the permuted range, from 1 to 2**62.
        key: 64 bits.

    Returns:
        int64 (M,): distinct for distinct indices.
    """
    a = isqrt(size - 1) + 1
    b = -(-size // a)
    value = _feistel(index.astype(np.uint64), a, b, key)
    outside = np.flatnonzero(value >= size)
    while outside.size:
        value[outside] = _feistel(value[outside], a, b, key)
        outside = outside[value[outside] >= size]
    return value.astype(np.int64)


def _feistel(value: UInt64Array, a: int, b: int, key: int) -> UInt64Array:
    """One pass of the network over [0, a·b): an even number of rounds, alternately modulo a and modulo b."""
    right, left = np.divmod(value, np.uint64(a))
    for number in range(_FEISTEL_ROUNDS):
        modulus = np.uint64(a if number % 2 == 0 else b)
        round_key = (key + (number + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        left, right = right, (left + _mix(right ^ np.uint64(round_key)) % modulus) % modulus
    return right * np.uint64(a) + left


def _mix(z: UInt64Array) -> UInt64Array:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): each input bit reaches each output bit."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
