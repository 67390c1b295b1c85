"""Windows of shards: an epoch's order for a set that no node can hold.

    shard      a stretch of samples that lie in one file; its number is its place among the run's shards
    order      all shards, each epoch in another keyed order
    window     some consecutive shards of that order: all of them are read before the next window's are
    lane       a part of each step, with a stretch of the windows of its own

Samples are shuffled within a window, so what lies side by side in the source stays within a window's reach, and each
epoch it is other shards that share one. With several lanes a step draws from as many windows at once, and a rank from
those of its own lanes: W ranks on as many nodes then read each shard about once, and not W times.

What is kept is two integers a shard for each of the last few epochs; all else is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from augft.augment.draw import stream_key
from augft.data.permutation import permute

IntArray = npt.NDArray[np.int64]

MAX_SAMPLES = 3_000_000_000
"""Selected samples times samples has to fit into 63 bits."""
_EPOCHS_KEPT = 3


@dataclass(frozen=True)
class Order:
    """The shards of one epoch. A *turn* is a sample's place among all, shard after shard in this order."""

    firsts: IntArray
    """int64 (S,): the first sample of each shard."""
    turns: IntArray
    """int64 (S,): the turn of that sample."""
    ends: IntArray
    """int64 (V,): the turn after each window's last."""
    window_shards: int
    phase: int
    """0 to N - 1, uniform: where shares of the samples are rounded up and where down, so that none is favoured."""

    def bounds(self, window: int) -> tuple[int, int]:
        """The turns of a window: from the first up to, not including, the second."""
        return int(self.ends[window - 1]) if window else 0, int(self.ends[window])

    def samples(self, turns: IntArray) -> IntArray:
        """The samples whose turns these are, int64 (M,)."""
        shard = np.searchsorted(self.turns, turns, side="right") - 1
        return self.firsts[shard] + turns - self.turns[shard]

    def a_sample_each(self, window: int) -> IntArray:
        """The first sample of each shard of a window."""
        return self.firsts[window * self.window_shards : (window + 1) * self.window_shards]


class Windows:
    """The shards of a run and how many of them make a window.

    Args:
        ends: int64 (S,), how many of the run's samples lie in each shard and in those before it; ascending. Shards
            without any are left out.
        window_shards: shards of a window, the last of an epoch may have fewer.
        lanes: parts of a step that draw from windows of their own.

    Raises:
        ValueError: there are no samples, or too many, or a number is below 1.
    """

    def __init__(self, ends: IntArray, window_shards: int, lanes: int = 1) -> None:
        ends = np.unique(np.asarray(ends, np.int64))
        self._ends = ends[ends > 0]
        if not len(self._ends) or self._ends[-1] > MAX_SAMPLES:
            raise ValueError(f"windows take 1 to {MAX_SAMPLES} samples")
        if window_shards < 1 or lanes < 1:
            raise ValueError(f"window_shards (={window_shards}) and lanes (={lanes}) must be 1 or more")
        self.window_shards, self.lanes = window_shards, lanes
        self._orders: dict[tuple[int, int], Order] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Windows, (self._ends, self.window_shards, self.lanes)

    @property
    def num_samples(self) -> int:
        return int(self._ends[-1])

    @property
    def num_shards(self) -> int:
        return len(self._ends)

    @property
    def num_windows(self) -> int:
        """Windows of an epoch."""
        return -(-self.num_shards // self.window_shards)

    def order(self, seed: int, epoch: int) -> Order:
        """The order of the shards in an epoch."""
        kept = self._orders  # other threads put another in its place, and leave this one as it is
        if (found := kept.get((seed, epoch))) is not None:
            return found
        made = self._make(seed, epoch)
        self._orders = {**dict(list(kept.items())[1 - _EPOCHS_KEPT :]), (seed, epoch): made}
        return made

    def _make(self, seed: int, epoch: int) -> Order:
        key = stream_key(seed, f"plan/shards/{epoch}")
        shard = permute(np.arange(self.num_shards), self.num_shards, key)
        firsts = np.concatenate([[0], self._ends[:-1]])
        after = np.cumsum((self._ends - firsts)[shard])
        lasts = np.minimum(np.arange(1, self.num_windows + 1) * self.window_shards, self.num_shards) - 1
        firsts = firsts[shard]
        turns = np.concatenate([[0], after[:-1]])
        phase = stream_key(seed, f"plan/phase/{epoch}") % self.num_samples
        return Order(firsts, turns, after[lasts], self.window_shards, phase)
