"""The random numbers of a corruption: a pure function of (seed, sample id, corruption, severity).

As `augment.draw`, with the block in the word that there holds the epoch: a picture of noise takes more words than an
augmentation does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from augft.augment.draw import Float64Array, IntArray, UInt32Array, UInt64Array, philox, stream_key

Float32Array = npt.NDArray[np.float32]

_BLOCKS_AT_A_TIME = 2**18  # of 16 bytes; the generator's intermediates are some twenty times that


@dataclass(frozen=True)
class Draws:
    """Draws of a batch of pictures, for one corruption at one severity.

    Args:
        seed: any integer.
        corruption: its name.
        severity: 1 to 5.
        sample_ids: int64 (N,), from 0 on.
    """

    seed: int
    corruption: str
    severity: int
    sample_ids: IntArray

    def words(self, what: str, shape: tuple[int, ...]) -> UInt32Array:
        """Uniform 32-bit words, uint32 (N, *shape), for one purpose: `what` names it."""
        key = stream_key(self.seed, f"corrupt/{self.corruption}/{self.severity}/{what}")
        num = int(np.prod(shape))
        blocks = -(-num // 4)
        result = np.empty((len(self.sample_ids), 4 * blocks), np.uint32)
        step = max(1, _BLOCKS_AT_A_TIME // blocks)
        for first in range(0, len(result), step):
            part = result[first : first + step]
            counter = _counter(self.sample_ids[first : first + step], blocks)
            part[:] = philox(key, counter).T.reshape(len(part), 4 * blocks)
        return result[:, :num].reshape(-1, *shape)

    def uniform(self, what: str, shape: tuple[int, ...] = (), low: float = 0.0, high: float = 1.0) -> Float64Array:
        """float64 (N, *shape), within (low, high)."""
        unit = (self.words(what, shape).astype(np.float64) + 0.5) * 2.0**-32
        return low + (high - low) * unit

    def normal(self, what: str, shape: tuple[int, ...]) -> Float32Array:
        """Standard normal numbers, float32 (N, *shape), by inversion."""
        return ndtri(self.uniform(what, shape)).astype(np.float32)  # type: ignore[no-any-return]


def _counter(sample_ids: IntArray, blocks: int) -> UInt64Array:
    counter = np.zeros((4, len(sample_ids), blocks), np.uint64)
    ids = sample_ids.astype(np.uint64)[:, None]
    counter[0], counter[1] = ids & np.uint64(0xFFFFFFFF), ids >> np.uint64(32)
    counter[2] = np.arange(blocks, dtype=np.uint64)
    return counter.reshape(4, -1)
