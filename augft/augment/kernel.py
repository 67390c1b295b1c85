"""The compiled inner loops: the one resample and the keyed draws that lead to it.

Everything here is integer arithmetic, or float64 turned to integers by one stated rounding, so the same
pixels come out on every platform and CPU. Each function is single-threaded and releases the GIL: parallelism
is a matter of actors. What was measured on the way to this form is in docs/kernel.md.

How a picture is sampled. The inverse map takes the centre (x, y) of an output pixel to a source position
u = a·x + b·y + c, v = d·x + e·y + f, in units of pixels with centres at whole numbers. It arrives as float64,
is rounded once to 2^-32, and is stepped at 2^-16 within a run of at most about 1,024 output pixels, which
starts again from the finer numbers: at 224 px a position is wrong by at most 0.002 px. Nearest takes floor(u
+ 1/2); bilinear blends four neighbours with 11-bit weights, exact sums and one rounding. Whole-number
positions therefore copy exactly, in both.

A source is first laid out as 32-bit pixels with a border of fill, so that clamping a position replaces all
tests for "outside". The loops are split into stages (positions, gather, blend, store) over short arrays that
stay in the L1 cache, since compilers vectorise each stage but not the loop that does all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import int32 as i32
from numpy import uint8 as u8
from numpy import uint32 as u32
from numpy import uint64 as u64

from augft.augment.compiled import array, compiled, part
from augft.augment.digest import row_digests
from augft.augment.draw import (
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
    PHILOX_WEYL,
    Float64Array,
    UInt32Array,
    UInt64Array,
)

__all__ = ["row_digests", "uniform", "warp"]

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]

# Sources and positions are limited by 16.16 fixed point in 32 bits.
MAX_POSITION = 32_000

_RUN_PIXELS = 1024
_BORDER = 2  # bilinear reads one pixel beyond a position clamped to one pixel outside


# -- stages of a picture ---------------------------------------------------------------------------
# Indices are unsigned: numba would otherwise test each for a negative value, which stops vectorisation.


@part
def _pack_words(words: UInt32Array, pixels: UInt32Array) -> None:
    """Four RGB pixels in three 32-bit words → four RGBX pixels (X is not cleared). Five times _pack_bytes."""
    for i in range(len(words) // 3):
        w0, w1, w2 = words[3 * i], words[3 * i + 1], words[3 * i + 2]
        pixels[4 * i] = w0
        pixels[4 * i + 1] = (w0 >> u32(24)) | (w1 << u32(8))
        pixels[4 * i + 2] = (w1 >> u32(16)) | (w2 << u32(16))
        pixels[4 * i + 3] = w2 >> u32(8)


@part
def _pack_bytes(octets: UInt8Array, pixels: UInt32Array) -> None:
    for i in range(len(pixels)):
        r, g, b = u32(octets[3 * i]), u32(octets[3 * i + 1]), u32(octets[3 * i + 2])
        pixels[i] = r | (g << u32(8)) | (b << u32(16))


@part
def _lay_out(pixels: UInt32Array, plane: UInt32Array, height: int, width: int) -> None:
    stride = width + 2 * _BORDER
    for y in range(height):
        source = y * width
        target = (y + _BORDER) * stride + _BORDER
        for x in range(width):
            plane[target + x] = pixels[source + x]


@part
def _unpack(pixels: UInt32Array, octets: UInt8Array) -> None:
    for i in range(len(pixels)):
        pixel = pixels[i]
        octets[3 * i] = u8(pixel)
        octets[3 * i + 1] = u8(pixel >> u32(8))
        octets[3 * i + 2] = u8(pixel >> u32(16))


@part
def _nearest_positions(
    index: UInt32Array,
    xs: Int32Array,
    ys: Int32Array,
    u0: i32,
    v0: i32,
    step: Int32Array,
    width: i32,
    height: i32,
) -> None:
    a, b, d, e = step[0], step[1], step[2], step[3]
    stride = i32(width + 2 * _BORDER)
    for i in range(len(index)):
        u = i32(i32(u0 + xs[i] * a + ys[i] * b) >> i32(16))
        v = i32(i32(v0 + xs[i] * d + ys[i] * e) >> i32(16))
        u = min(max(u, i32(1)), i32(width + 2))
        v = min(max(v, i32(1)), i32(height + 2))
        index[i] = u32(v * stride + u)


@part
def _bilinear_positions(
    index: UInt32Array,
    fractions: UInt32Array,
    xs: Int32Array,
    ys: Int32Array,
    u0: i32,
    v0: i32,
    step: Int32Array,
    width: i32,
    height: i32,
) -> None:
    a, b, d, e = step[0], step[1], step[2], step[3]
    stride = i32(width + 2 * _BORDER)
    for i in range(len(index)):
        u = i32(u0 + xs[i] * a + ys[i] * b)
        v = i32(v0 + xs[i] * d + ys[i] * e)
        fractions[i] = (u32(u >> i32(5)) & u32(2047)) | ((u32(v >> i32(5)) & u32(2047)) << u32(16))
        u = min(max(i32(u >> i32(16)), i32(0)), i32(width + 2))
        v = min(max(i32(v >> i32(16)), i32(0)), i32(height + 2))
        index[i] = u32(v * stride + u)


@part
def _gather(plane: UInt32Array, index: UInt32Array, pixels: UInt32Array) -> None:
    for i in range(len(pixels)):
        pixels[i] = plane[index[i]]


@part
def _gather_pairs(plane: UInt32Array, index: UInt32Array, stride: u64, upper: UInt64Array, lower: UInt64Array) -> None:
    """Two horizontal neighbours as one 64-bit load, of the upper and of the lower row."""
    for i in range(len(index)):
        j = u64(index[i])
        k = j + stride
        upper[i] = u64(plane[j]) | (u64(plane[j + u64(1)]) << u64(32))
        lower[i] = u64(plane[k]) | (u64(plane[k + u64(1)]) << u64(32))


@part
def _blend(upper: UInt32Array, lower: UInt32Array, fractions: UInt32Array, pixels: UInt32Array) -> None:
    """Weights are products of 11-bit fractions and sum to 2^22: nothing is lost before the rounding."""
    byte, half = u32(255), u32(1 << 21)
    for i in range(len(pixels)):
        p00, p01, p10, p11 = upper[2 * i], upper[2 * i + 1], lower[2 * i], lower[2 * i + 1]
        fx, fy = u32(fractions[i] & u32(2047)), u32(fractions[i] >> u32(16))
        w11 = u32(fx * fy)
        w01 = u32((fx << u32(11)) - w11)
        w10 = u32((fy << u32(11)) - w11)
        w00 = u32(u32(1 << 22) - w01 - w10 - w11)
        blended = u32(0)
        for shift in (u32(0), u32(8), u32(16)):
            above = w00 * ((p00 >> shift) & byte) + w01 * ((p01 >> shift) & byte)
            below = w10 * ((p10 >> shift) & byte) + w11 * ((p11 >> shift) & byte)
            blended = u32(blended | ((u32(above + below + half) >> u32(22)) << shift))
        pixels[i] = blended


# -- batches ---------------------------------------------------------------------------------------


_OCTETS, _WORDS = array(types.uint8, 2, readonly=True), array(types.uint32, 2, readonly=True)
_OUT, _MAPS, _SIDE = array(types.uint8, 2), array(types.int64, 2, readonly=True), types.int64


@compiled(types.void(_OCTETS, _WORDS, _SIDE, _SIDE, _MAPS, types.uint32, types.boolean, _SIDE, _SIDE, _OUT))
def _warp(
    octets: UInt8Array,
    words: UInt32Array,
    height: int,
    width: int,
    inverse: npt.NDArray[np.int64],
    fill: u32,
    bilinear: bool,
    out_height: int,
    out_width: int,
    out: UInt8Array,
) -> None:
    rows = max(1, _RUN_PIXELS // max(1, out_width))
    run = min(rows, out_height) * out_width
    xs, ys = np.empty(run, np.int32), np.empty(run, np.int32)
    for i in range(run):
        xs[i], ys[i] = i % out_width, i // out_width
    stride = width + 2 * _BORDER
    plane = np.full((height + 2 * _BORDER) * stride, fill, np.uint32)
    source = np.empty(height * width, np.uint32)
    index, fractions = np.empty(run, np.uint32), np.empty(run, np.uint32)
    upper, lower, pixels = np.empty(run, np.uint64), np.empty(run, np.uint64), np.empty(run, np.uint32)
    upper_halves, lower_halves = upper.view(np.uint32), lower.view(np.uint32)
    step = np.empty(4, np.int32)

    for item in range(len(octets)):
        if words.shape[1] > 0:
            _pack_words(words[item], source)
        else:
            _pack_bytes(octets[item], source)
        _lay_out(source, plane, height, width)
        a, b, c, d, e, f = inverse[item]
        # Flips and whole-pixel shifts have no fraction anywhere: nearest gives the same pixels sooner.
        blend = bilinear and (a | b | c | d | e | f) & 0xFFFFFFFF != 0
        offset = (_BORDER << 16) + (16 if blend else 32768)  # half a weight, or half a pixel
        step[0], step[1] = (a + 32768) >> 16, (b + 32768) >> 16
        step[2], step[3] = (d + 32768) >> 16, (e + 32768) >> 16
        for y in range(0, out_height, rows):
            n = min(rows, out_height - y) * out_width
            u0 = i32(((b * y + c + 32768) >> 16) + offset)
            v0 = i32(((e * y + f + 32768) >> 16) + offset)
            if blend:
                _bilinear_positions(index[:n], fractions[:n], xs, ys, u0, v0, step, i32(width), i32(height))
                _gather_pairs(plane, index[:n], u64(stride), upper, lower)
                _blend(upper_halves, lower_halves, fractions, pixels[:n])
            else:
                _nearest_positions(index[:n], xs, ys, u0, v0, step, i32(width), i32(height))
                _gather(plane, index, pixels[:n])
            _unpack(pixels[:n], out[item, 3 * y * out_width : 3 * (y * out_width + n)])


def warp(
    images_NHWC: UInt8Array,
    inverse_6N: Float64Array,
    *,
    fill: tuple[int, int, int] = (0, 0, 0),
    bilinear: bool = False,
    out_size: tuple[int, int] | None = None,
) -> UInt8Array:
    """Sample each picture once, through its own affine map.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous; may be read-only.
        inverse_6N: float64 (6, N), rows a b c d e f of u = a·x + b·y + c, v = d·x + e·y + f, from output
            pixel centres to source pixel centres, in pixels.
        fill: RGB of everything outside the source, 0 to 255.
        bilinear: blend four neighbours, the fill among them, instead of taking the nearest pixel.
        out_size: (height, width) of the output; that of the source by default.

    Returns:
        uint8 (N, height, width, 3).

    Raises:
        ValueError: a picture, or a position that a map leads to, is more than 32,000 pixels from the origin.
    """
    num, height, width, _ = images_NHWC.shape
    out_height, out_width = out_size or (height, width)
    a, b, c, d, e, f = np.abs(inverse_6N)
    farthest = np.maximum(a * out_width + b * out_height + c, d * out_width + e * out_height + f)
    reach = np.max(farthest, initial=max(height, width, out_height, out_width))
    if not reach < MAX_POSITION:  # which NaN is not, either
        raise ValueError(f"a position {reach:,.0f} pixels from the origin is beyond the {MAX_POSITION:,} supported")
    out = np.empty((num, out_height, out_width, 3), np.uint8)
    if out.size == 0 or images_NHWC.size == 0:
        out[:] = fill
        return out
    octets = images_NHWC.reshape(num, height * width * 3)
    in_words = height * width % 4 == 0 and octets.ctypes.data % 4 == 0
    words = octets.view(np.uint32) if in_words else np.empty((num, 0), np.uint32)
    inverse = np.ascontiguousarray(np.rint(inverse_6N * 2.0**32).astype(np.int64).T)
    packed_fill = np.uint32(fill[0] | fill[1] << 8 | fill[2] << 16)
    into = out.reshape(num, -1)
    _warp(octets, words, height, width, inverse, packed_fill, bilinear, out_height, out_width, into)
    return out


@compiled(types.void(types.uint64, array(types.uint64, 2, readonly=True), types.uint64, array(types.float64, 2)))
def _uniform(key: u64, counter: UInt64Array, block: u64, out: Float64Array) -> None:
    low, half = u64(0xFFFFFFFF), u64(32)
    m0, m1 = u64(PHILOX_MULTIPLIERS[0]), u64(PHILOX_MULTIPLIERS[1])
    for i in range(counter.shape[1]):
        c0, c1, c2, c3 = counter[0, i], counter[1, i], counter[2, i], counter[3, i] | block
        k0, k1 = key & low, key >> half
        for _ in range(PHILOX_ROUNDS):
            p0, p1 = c0 * m0, c2 * m1
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
            k0, k1 = (k0 + u64(PHILOX_WEYL[0])) & low, (k1 + u64(PHILOX_WEYL[1])) & low
        out[0, i], out[1, i] = c0 * 2.0**-32, c1 * 2.0**-32
        out[2, i], out[3, i] = c2 * 2.0**-32, c3 * 2.0**-32


def uniform(key: int, counter_4N: UInt64Array, num_draws: int) -> Float64Array:
    """`draw.uniform`, compiled: the same bits, about ten times sooner.

    Args:
        key: of `draw.stream_key`.
        counter_4N: uint64 (4, N), of `draw.counter`.
        num_draws: an item, at most 1024.

    Returns:
        float64 (num_draws, N) in [0, 1).
    """
    num_blocks = (num_draws + 3) // 4
    out = np.empty((4 * num_blocks, counter_4N.shape[1]))
    for block in range(num_blocks):
        _uniform(np.uint64(key), counter_4N, np.uint64(block), out[4 * block : 4 * block + 4])
    return out[:num_draws]
