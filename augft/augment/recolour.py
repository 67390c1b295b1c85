"""The colour pass: each picture's own run of linear maps and tables, in place.

`ops/colour.py` says what the steps are. A run of linear steps arrives here composed to one; a run of table steps is
composed here to one table of 256 entries a channel. Steps that look at the whole picture need no pass of their own:
contrast needs the channels' averages alone, and histograms are pushed through the tables before them.

All is integer arithmetic, numbers of 2^-16, so the same pixels come out on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import float64
from numpy import int32 as i32
from numpy import int64 as i64
from numpy import uint8 as u8
from numpy import uint32 as u32

from augft.augment.compiled import array, compiled, part
from augft.augment.draw import Float64Array
from augft.augment.in_place import octets_of
from augft.augment.ops.colour import Kind
from augft.augment.portable import exp, log

__all__ = ["EXP2", "LOG2", "fixed_arguments", "recolour"]

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
UInt32Array = npt.NDArray[np.uint32]
Int64Array = npt.NDArray[np.int64]

_LINEAR, _POSTERIZE, _SOLARIZE = int(Kind.LINEAR), int(Kind.POSTERIZE), int(Kind.SOLARIZE)
_GAMMA, _AUTOCONTRAST, _EQUALIZE = int(Kind.GAMMA), int(Kind.AUTOCONTRAST), int(Kind.EQUALIZE)

_LARGEST = 32.0  # of a matrix entry: three of them times 255 stay within 31 bits
_OFFSET = 8192.0
LARGEST_OFFSET = int(_OFFSET * 2**16)
"""Of a step, with what the averages add, in 2^-16: then no sum goes beyond 31 bits."""

# Logarithms to base 2 of x/255, and 255·2^-f for f in [0, 1]: what gamma needs, in 2^-24 and 2^-20.
LOG2 = np.rint(log(np.maximum(np.arange(256.0), 1) / 255) * (2.0**24 / log(np.array([2.0]))[0])).astype(np.int64)
_STEPS = 4096
EXP2 = np.rint(exp(np.arange(_STEPS + 1.0) * (-log(np.array([2.0]))[0] / _STEPS)) * (255 * 2.0**20)).astype(np.int64)


@part
def _sum_channels(octets: UInt8Array, sums: Int64Array) -> None:
    red, green, blue = u32(0), u32(0), u32(0)  # up to 16 million pixels
    for i in range(len(octets) // 3):
        red += u32(octets[3 * i])
        green += u32(octets[3 * i + 1])
        blue += u32(octets[3 * i + 2])
    sums[0], sums[1], sums[2] = red, green, blue


@part
def _multiply_diagonal(octets: UInt8Array, m: Int32Array) -> None:
    m0, m4, m8, t0, t1, t2 = m[0], m[4], m[8], m[9], m[10], m[11]
    for i in range(len(octets) // 3):
        red = i32(i32(octets[3 * i]) * m0 + t0) >> i32(16)
        green = i32(i32(octets[3 * i + 1]) * m4 + t1) >> i32(16)
        blue = i32(i32(octets[3 * i + 2]) * m8 + t2) >> i32(16)
        octets[3 * i] = u8(min(max(red, i32(0)), i32(255)))
        octets[3 * i + 1] = u8(min(max(green, i32(0)), i32(255)))
        octets[3 * i + 2] = u8(min(max(blue, i32(0)), i32(255)))


@part
def _multiply(octets: UInt8Array, m: Int32Array) -> None:
    m0, m1, m2, m3, m4, m5, m6, m7, m8 = m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]
    t0, t1, t2 = m[9], m[10], m[11]
    for i in range(len(octets) // 3):
        r, g, b = i32(octets[3 * i]), i32(octets[3 * i + 1]), i32(octets[3 * i + 2])
        red = i32(r * m0 + g * m1 + b * m2 + t0) >> i32(16)
        green = i32(r * m3 + g * m4 + b * m5 + t1) >> i32(16)
        blue = i32(r * m6 + g * m7 + b * m8 + t2) >> i32(16)
        octets[3 * i] = u8(min(max(red, i32(0)), i32(255)))
        octets[3 * i + 1] = u8(min(max(green, i32(0)), i32(255)))
        octets[3 * i + 2] = u8(min(max(blue, i32(0)), i32(255)))


@part
def _linear(octets: UInt8Array, argument: Int64Array, sums: Int64Array, m: Int32Array) -> None:
    uses_mean = False
    for entry in range(9, 18):
        uses_mean |= argument[entry] != 0
    if uses_mean:
        _sum_channels(octets, sums)
    num_pixels = len(octets) // 3
    for row in range(3):
        offset = argument[18 + row] + i64(1 << 15)
        if uses_mean:
            weighed = i64(0)
            for column in range(3):
                weighed += argument[9 + 3 * row + column] * sums[column]
            offset += weighed // i64(num_pixels)
        m[9 + row] = i32(min(max(offset, i64(-LARGEST_OFFSET)), i64(LARGEST_OFFSET)))
        for column in range(3):
            m[3 * row + column] = i32(argument[3 * row + column])
    if m[1] | m[2] | m[3] | m[5] | m[6] | m[7]:
        _multiply(octets, m)
    else:
        _multiply_diagonal(octets, m)


@part
def _count(octets: UInt8Array, counts: UInt32Array) -> None:
    """Histograms of the three channels, one after the other."""
    counts[:] = u32(0)
    for i in range(len(octets) // 3):
        counts[u32(octets[3 * i])] += u32(1)
        counts[u32(256) + u32(octets[3 * i + 1])] += u32(1)
        counts[u32(512) + u32(octets[3 * i + 2])] += u32(1)


@part
def _push(counts: UInt32Array, tables: UInt8Array, pushed: UInt32Array) -> None:
    """The histograms of what the tables make of a picture with these."""
    pushed[:] = u32(0)
    for channel in range(3):
        for value in range(256):
            pushed[256 * channel + tables[256 * channel + value]] += counts[256 * channel + value]


@part
def _stretch(counts: UInt32Array, step: UInt8Array) -> None:
    low, high = 0, 255
    while low < 255 and counts[low] == 0:
        low += 1
    while high > 0 and counts[high] == 0:
        high -= 1
    # 255 / (high - low), so finely that each product is rounded as the exact one.
    scale = i64(255 << 32) // i64(high - low) + i64(1) if high > low else i64(1 << 32)
    low = low if high > low else 0
    for value in range(256):
        stretched = (i64(value - low) * scale + i64(1 << 31)) >> i64(32)
        step[value] = u8(min(max(stretched, i64(0)), i64(255)))


@part
def _flatten(counts: UInt32Array, filled: Int32Array, step: UInt8Array) -> None:
    """Pillow's: bins of equal size, but for the last value's own."""
    total, last = i32(0), 0
    for value in range(256):
        filled[value] = total
        total += i32(counts[value])
        if counts[value]:
            last = value
    size = i32(total - i32(counts[last])) // i32(255)
    if size == 0:
        for value in range(256):
            step[value] = u8(value)
        return
    # A quotient of whole numbers below 2^31 is never rounded up to the next whole number.
    half, divisor = float64(size // 2), float64(size)
    for value in range(256):
        step[value] = u8(min(i32((float64(filled[value]) + half) / divisor), i32(255)))


@part
def _gamma(exponent: i64, log2: Int64Array, exp2: Int64Array, step: UInt8Array) -> None:
    step[0] = u8(0)
    for value in range(1, 256):
        power = -((exponent * log2[value]) >> i64(16))  # of one half, 2^-24
        whole, fraction = power >> i64(24), power & i64((1 << 24) - 1)
        place, between = fraction >> i64(12), fraction & i64(4095)
        level = exp2[place] - (((exp2[place] - exp2[place + 1]) * between) >> i64(12))
        step[value] = u8(((level >> min(whole, i64(40))) + i64(1 << 19)) >> i64(20))


@part
def _look_up(octets: UInt8Array, tables: UInt8Array) -> None:
    for i in range(len(octets) // 3):
        octets[3 * i] = tables[u32(octets[3 * i])]
        octets[3 * i + 1] = tables[u32(256) + u32(octets[3 * i + 1])]
        octets[3 * i + 2] = tables[u32(512) + u32(octets[3 * i + 2])]


_BYTES, _LONGS = array(types.uint8, 2), array(types.int64, 1, readonly=True)


@compiled(
    types.void(
        _BYTES, _LONGS, array(types.uint8, 2, readonly=True), array(types.int64, 3, readonly=True), _LONGS, _LONGS
    )
)
def _recolour(
    octets: UInt8Array, rows: Int64Array, kinds: UInt8Array, arguments: Int64Array, log2: Int64Array, exp2: Int64Array
) -> None:
    tables, step = np.empty(768, np.uint8), np.empty(256, np.uint8)
    counts, pushed = np.empty(768, np.uint32), np.empty(768, np.uint32)
    sums, m, filled = np.empty(3, np.int64), np.empty(12, np.int32), np.empty(256, np.int32)
    num_steps = kinds.shape[1]
    for k in range(len(rows)):
        picture = octets[rows[k]]
        s = 0
        while s < num_steps and kinds[k, s] != 0:
            if kinds[k, s] == _LINEAR:
                _linear(picture, arguments[k, s], sums, m)
                s += 1
                continue
            for value in range(768):
                tables[value] = u8(value)
            counted = False
            while s < num_steps and kinds[k, s] > _LINEAR:
                kind, argument = kinds[k, s], arguments[k, s, 0]
                s += 1
                if kind >= _AUTOCONTRAST:
                    if not counted:
                        _count(picture, counts)
                        counted = True
                    _push(counts, tables, pushed)
                elif kind == _GAMMA:
                    _gamma(argument, log2, exp2, step)
                else:
                    level = argument >> 16
                    for value in range(256):
                        if kind == _POSTERIZE:
                            step[value] = u8(value & (255 << (8 - level)))
                        else:
                            step[value] = u8(value if value < level else 255 - value)
                for channel in range(3):
                    first = 256 * channel
                    if kind == _AUTOCONTRAST:
                        _stretch(pushed[first : first + 256], step)
                    elif kind == _EQUALIZE:
                        _flatten(pushed[first : first + 256], filled, step)
                    for value in range(first, first + 256):
                        tables[value] = step[tables[value]]
            _look_up(picture, tables)


def fixed_arguments(kinds_KS: UInt8Array, arguments_KSA: Float64Array) -> Int64Array:
    """The steps' arguments in 2^-16, held to what fits, int64 (K, S, 21)."""
    bounded = np.clip(arguments_KSA, -_OFFSET, _OFFSET)
    is_linear = (kinds_KS == Kind.LINEAR)[:, :, None]
    matrix = bounded[:, :, :18]
    np.copyto(matrix, np.clip(matrix, -_LARGEST, _LARGEST), where=is_linear)
    fixed: Int64Array = np.rint(bounded * 2.0**16).astype(np.int64)
    return fixed


def recolour(images_NHWC: UInt8Array, rows_K: Int64Array, kinds_KS: UInt8Array, arguments_KSA: Float64Array) -> None:
    """Give some pictures of a batch other colours, in place.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), which of them.
        kinds_KS: uint8 (K, S), the steps of each as `Kind`, 0 past the last.
        arguments_KSA: float64 (K, S, 21), the steps' arguments. A matrix entry is held to ±32, an offset to ±8,192.
    """
    octets = octets_of(images_NHWC, rows_K)
    if octets.size == 0:
        return
    fixed = fixed_arguments(kinds_KS, arguments_KSA)
    _recolour(octets, rows_K, kinds_KS, fixed, LOG2, EXP2)
