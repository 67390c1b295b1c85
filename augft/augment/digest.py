"""A fast digest of each picture of a batch, to tell whether two runs saw the same pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import uint64 as u64

from augft.augment.compiled import array, compiled, part
from augft.augment.draw import UInt64Array

UInt8Array = npt.NDArray[np.uint8]


@part
def _mix(z: u64) -> u64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
    return z ^ (z >> u64(31))


@part
def _absorb(lane: u64, word: u64) -> u64:
    lane = (lane ^ word) * u64(0x9E3779B97F4A7C15)
    return lane ^ (lane >> u64(32))


@part
def _word(octets: UInt8Array, start: u64) -> u64:
    """Eight octets, little-endian on any machine; compiles to one load where that is what it is."""
    word = u64(0)
    for k in range(8):
        word |= u64(octets[start + u64(k)]) << u64(8 * k)
    return word


@compiled(
    types.void(array(types.uint8, 2, readonly=True), array(types.uint64, 1, readonly=True), array(types.uint64, 1))
)
def _row_digests(octets: UInt8Array, header: UInt64Array, out: UInt64Array) -> None:
    size = octets.shape[1]
    golden = u64(0x9E3779B97F4A7C15)
    for item in range(len(octets)):
        row = octets[item]
        seed = header[item] ^ _mix(u64(size))
        l0, l1 = _mix(seed + golden), _mix(seed + u64(2) * golden)
        l2, l3 = _mix(seed + u64(3) * golden), _mix(seed + u64(4) * golden)
        start = u64(0)
        for _ in range(size // 32):
            l0 = _absorb(l0, _word(row, start))
            l1 = _absorb(l1, _word(row, start + u64(8)))
            l2 = _absorb(l2, _word(row, start + u64(16)))
            l3 = _absorb(l3, _word(row, start + u64(24)))
            start += u64(32)
        digest = _mix(_mix(_mix(l0) ^ l1) ^ l2) ^ l3
        while start < u64(size):
            word = u64(0)
            for k in range(min(u64(8), u64(size) - start)):
                word |= u64(row[start + u64(k)]) << u64(8 * k)
            digest = _absorb(_mix(digest), word)
            start += u64(8)
        out[item] = _mix(digest)


def row_digests(images_NHWC: UInt8Array, header_N: UInt64Array) -> UInt64Array:
    """A 64-bit digest of each picture and its header: equal pictures at equal places give equal digests.

    It finds differences by accident, not by an adversary. Words of eight octets are read little-endian by
    four multiply-xorshift lanes, which SplitMix64's finaliser joins; the octets past the last full 32 follow.

    Args:
        images_NHWC: uint8 (N, …), C-contiguous.
        header_N: uint64 (N,), whatever else the digest is to vouch for (which item, which label).

    Returns:
        uint64 (N,), the same on every platform.
    """
    num = len(images_NHWC)
    out = np.empty(num, np.uint64)
    _row_digests(images_NHWC.reshape(num, images_NHWC[:1].size), np.ascontiguousarray(header_N, np.uint64), out)
    return out
