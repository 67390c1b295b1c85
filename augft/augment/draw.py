"""Keyed random draws: a number is a pure function of its address, never of what was drawn before it.

An address is (seed, stream, epoch, sample id, copy): `stream` is a short text that names what the draw is for
("rotate/0", "plan/order"), so two users never share numbers and adding one leaves the others as they were.
The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a
counter-based generator: no state, any element alone, the same bits on every platform. Seed and stream make
the 64-bit key; epoch, sample id and copy make the 128-bit counter.

    counter word   3 (high)                         2       1             0 (low)
                   copy (24 bits) | block (8 bits)  epoch   sample id hi  sample id lo

A block is four 32-bit words; `words` asks for as many blocks as it needs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

UInt32Array = npt.NDArray[np.uint32]
UInt64Array = npt.NDArray[np.uint64]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
PHILOX_ROUNDS = 10

MAX_WORDS = 1024

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@lru_cache(maxsize=4096)
def stream_key(seed: int, stream: str) -> int:
    """The 64-bit key of a stream of draws: BLAKE2b of seed and stream name."""
    digest = hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def philox(key: int, counter_4N: UInt64Array) -> UInt32Array:
    """Philox4x32-10.

    Args:
        key: 64 bits.
        counter_4N: uint64 (4, N), each word below 2**32; row 0 is the lowest word.

    Returns:
        uint32 (4, N), independent and uniform.
    """
    m0, m1 = np.uint64(PHILOX_MULTIPLIERS[0]), np.uint64(PHILOX_MULTIPLIERS[1])
    c0, c1, c2, c3 = counter_4N
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(PHILOX_ROUNDS):
        p0 = c0 * m0
        p1 = c2 * m1
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0 = (k0 + PHILOX_WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def counter(epoch: int | IntArray, sample_ids: IntArray, copy: int | IntArray) -> UInt64Array:
    """The counters of a batch of items, at block 0.

    Args:
        epoch: int64 (N,) or one for all; 0 to 2**32 - 1.
        sample_ids: int64 (N,); 0 to 2**63 - 1.
        copy: int64 (N,) or one for all; 0 to 2**24 - 1.

    Returns:
        uint64 (4, N), C-contiguous.

    Raises:
        ValueError: a number is out of its range, and would share another item's draws.
    """
    ids = np.asarray(sample_ids)
    result = np.empty((4, ids.size), np.uint64)
    result[0] = _in_range("sample id", ids, 2**63) & _LOW
    result[1] = ids.astype(np.uint64) >> _HALF
    result[2] = _in_range("epoch", epoch, 2**32)
    result[3] = _in_range("copy", copy, 2**24) << np.uint64(8)
    return result


def _in_range(name: str, numbers: int | npt.ArrayLike, end: int) -> UInt64Array:
    array = np.asarray(numbers)
    if array.size and (array.min() < 0 or array.max() >= end):
        raise ValueError(f"{name} must be in [0, {end}), found {array.min()} to {array.max()}")
    return array.astype(np.uint64)


def words(
    seed: int,
    stream: str,
    epoch: int | IntArray,
    sample_ids: IntArray,
    copy: int | IntArray,
    num_words: int,
) -> UInt32Array:
    """Uniform 32-bit words, one column an item.

    Args:
        seed: any integer.
        stream: what the draw is for.
        epoch: int64 (N,) or one for all; 0 to 2**32 - 1.
        sample_ids: int64 (N,); 0 to 2**63 - 1.
        copy: int64 (N,) or one for all; 0 to 2**24 - 1.
        num_words: words an item, at most 1024.

    Returns:
        uint32 (num_words, N).

    Raises:
        ValueError: a number is out of its range.
    """
    if not 0 <= num_words <= MAX_WORDS:
        raise ValueError(f"num_words must be in [0, {MAX_WORDS}], found {num_words}")
    key = stream_key(seed, stream)
    first = counter(epoch, sample_ids, copy)
    result = np.empty((-(-num_words // 4) * 4, first.shape[1]), np.uint32)
    for block in range(len(result) // 4):
        at = first.copy()
        at[3] |= np.uint64(block)
        result[4 * block : 4 * block + 4] = philox(key, at)
    return result[:num_words]


def uniform(
    seed: int,
    stream: str,
    epoch: int | IntArray,
    sample_ids: IntArray,
    copy: int | IntArray,
    num_draws: int,
) -> Float64Array:
    """Uniform float64 in [0, 1), (num_draws, N); 32 bits each. Arguments as in `words`."""
    return words(seed, stream, epoch, sample_ids, copy, num_draws) * np.float64(2.0**-32)
