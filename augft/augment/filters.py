"""Filters in place: sharpening, Gaussian blur, Gaussian noise, and what JPEG loses.

These look at a pixel's neighbours or add to it, so they do not compose to a map or a table, and each goes over the
picture once. All work in place on chosen rows of a batch, single-threaded, with the GIL released, and allocate once a
call. Parameters are float64 turned to integers by one rounding in NumPy; the compiled part is integers alone, so the
same pixels come out on every platform and CPU.

The loops are split into stages over short arrays that stay in the L1 cache, each simple enough for compilers to
vectorise (docs/kernel.md). A neighbour is read from a slice that starts elsewhere, or by an unsigned sum: numba would
test a signed one for a negative value, which stops vectorisation.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import int32 as i32
from numpy import uint8 as u8
from numpy import uint16 as u16
from numpy import uint32 as u32
from numpy import uint64 as u64

from augft.augment.compiled import array, compiled, part
from augft.augment.draw import (
    PHILOX_MULTIPLIERS,
    PHILOX_ROUNDS,
    PHILOX_WEYL,
    Float64Array,
    IntArray,
    UInt32Array,
    UInt64Array,
)
from augft.augment.in_place import expect_shape, octets_of
from augft.augment.portable import exp

__all__ = [
    "COSINES",
    "NORMAL",
    "QUANTISATION",
    "add_gaussian_noise",
    "blur_weights",
    "gaussian_blur",
    "jpeg",
    "noise_scales",
    "sharpen",
    "sharpen_gains",
]

UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

_RUN = 4096  # values a stage takes at once

_OCTETS, _SIDE = array(types.uint8, 2), types.int64
_ROWS, _FACTORS = array(types.int64, 1, readonly=True), array(types.int32, 1, readonly=True)


def _integers(rows_K: IntArray) -> IntArray:
    return np.ascontiguousarray(rows_K, np.int64)


# -- sharpening ------------------------------------------------------------------------------------


@part
def _copy(source: UInt8Array, target: UInt8Array) -> None:
    for i in range(len(target)):
        target[i] = source[i]


@part
def _sum_columns(above: UInt8Array, middle: UInt8Array, below: UInt8Array, sums: UInt16Array) -> None:
    for i in range(len(sums)):
        sums[i] = u16(u16(above[i]) + u16(middle[i]) + u16(below[i]))


@part
def _sharpen_run(
    source: UInt8Array, left: UInt16Array, middle: UInt16Array, right: UInt16Array, gain: i32, out: UInt8Array
) -> None:
    """13 times a pixel less its smoothing is 9 times the pixel less the sum of the nine."""
    for i in range(len(out)):
        nine = i32(i32(left[i]) + i32(middle[i]) + i32(right[i]))
        edge = i32(i32(source[i]) * 9 - nine)
        change = i32(i32(edge * gain + 32768) >> i32(16))
        out[i] = u8(min(max(i32(i32(source[i]) + change), i32(0)), i32(255)))


@compiled(types.void(_OCTETS, _SIDE, _SIDE, _ROWS, _FACTORS))
def _sharpen(octets: UInt8Array, height: int, width: int, rows: IntArray, gains: Int32Array) -> None:
    stride, size = 3 * width, 3 * height * width
    source, sums = np.empty(size, np.uint8), np.empty(_RUN + 6, np.uint16)
    for k in range(len(rows)):
        image, gain = octets[rows[k]], gains[k]
        _copy(image, source)
        first, end = stride + 3, size - stride - 3  # inner pixels, and the left and right border between them
        for start in range(first, end, _RUN):
            n = min(_RUN, end - start)
            low = start - 3
            _sum_columns(source[low - stride :], source[low:], source[low + stride :], sums[: n + 6])
            _sharpen_run(source[start:], sums, sums[3:], sums[6:], gain, image[start : start + n])
        for y in range(1, height - 1):
            for i in range(3):
                left, right = y * stride + i, y * stride + stride - 3 + i
                image[left], image[right] = source[left], source[right]


def sharpen(images_NHWC: UInt8Array, rows_K: IntArray, factor_K: Float64Array) -> None:
    """Move each pixel away from, or towards, the smoothing of its neighbourhood; in place.

    A pixel p with smoothing s becomes s + factor · (p − s), rounded half up and clamped to [0, 255]: factor 1 leaves
    the picture, 0 is the smoothing, 2 sharpens. s is the weighted mean by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13, not
    rounded. Pixels of the border stay as they are. (factor − 1) / 13 is rounded to 2^-16. It is Pillow's
    `ImageEnhance.Sharpness`, which rounds s and truncates the result.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), the pictures to change.
        factor_K: float64 (K,), 0 to 100.

    Raises:
        ValueError: a factor or a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    expect_shape("factor", factor_K, len(rows_K))
    if not ((factor_K >= 0) & (factor_K <= 100)).all():  # which NaN is not, either
        raise ValueError(f"factor must be in [0, 100], found {np.min(factor_K)} to {np.max(factor_K)}")
    _, height, width, _ = images_NHWC.shape
    if min(height, width) > 2:
        _sharpen(octets, height, width, _integers(rows_K), sharpen_gains(factor_K))


def sharpen_gains(factor_K: Float64Array) -> Int32Array:
    """What an edge is multiplied by, in 2^-16, int32 (K,)."""
    return np.rint((factor_K - 1) / 13 * 65536).astype(np.int32)


# -- Gaussian blur ---------------------------------------------------------------------------------
# Two passes, along rows and along columns, over samples of 16 bits, seven of them after the point. Weights have 16
# bits, and sums are exact. Since a weight belongs to two neighbours, it meets their sum; the middle counts twice, for
# half its weight, so all weights of one side and the middle sum to 2^15.

_TAPS = 4  # pairs of neighbours at once: with more, compilers give up testing the arrays for overlap


@part
def _widen(octets: UInt8Array, samples: UInt16Array) -> None:
    for i in range(len(samples)):
        samples[i] = u16(u16(octets[i]) << u16(7))


@part
def _copy_samples(source: UInt16Array, target: UInt16Array) -> None:
    for i in range(len(target)):
        target[i] = source[i]


@part
def _reflect_columns(line: UInt16Array, radius: int) -> None:
    """Fills the margins of one row of RGB samples; the first and last column are not repeated."""
    left, right = 3 * radius, len(line) - 3 * radius - 3
    for x in range(3, 3 * radius + 3, 3):
        for channel in range(3):
            line[left - x + channel] = line[left + x + channel]
            line[right + x + channel] = line[right - x + channel]


@part
def _weigh(
    samples: UInt16Array, middle: int, step: int, tap: int, radius: int, weights: UInt16Array, sums: UInt32Array
) -> None:
    """Add four pairs of neighbours, `tap` steps and more from the middle.

    Weights past the radius are zero; their neighbours need only exist.
    """
    d0, d1 = tap * step, min(tap + 1, radius) * step
    d2, d3 = min(tap + 2, radius) * step, min(tap + 3, radius) * step
    a0, b0, a1, b1 = u64(middle - d0), u64(middle + d0), u64(middle - d1), u64(middle + d1)
    a2, b2, a3, b3 = u64(middle - d2), u64(middle + d2), u64(middle - d3), u64(middle + d3)
    w0, w1, w2, w3 = u32(weights[tap]), u32(weights[tap + 1]), u32(weights[tap + 2]), u32(weights[tap + 3])
    for j in range(len(sums)):
        i = u64(j)
        inner = u32(u32(u16(samples[a0 + i] + samples[b0 + i]) * w0) + u32(u16(samples[a1 + i] + samples[b1 + i]) * w1))
        outer = u32(u32(u16(samples[a2 + i] + samples[b2 + i]) * w2) + u32(u16(samples[a3 + i] + samples[b3 + i]) * w3))
        sums[i] = u32(sums[i] + inner + outer)


@part
def _filter_run(
    samples: UInt16Array, middle: int, step: int, radius: int, weights: UInt16Array, half: u32, sums: UInt32Array
) -> None:
    """Sums of one run; the neighbours of `samples[middle + i]` are `step`, 2·`step`, … samples away."""
    for i in range(len(sums)):
        sums[i] = half
    for tap in range(0, radius + 1, _TAPS):
        _weigh(samples, middle, step, tap, radius, weights, sums)


@part
def _to_samples(sums: UInt32Array, samples: UInt16Array) -> None:
    for i in range(len(samples)):
        samples[i] = u16(sums[i] >> u32(16))


@part
def _to_octets(sums: UInt32Array, octets: UInt8Array) -> None:
    for i in range(len(octets)):
        octets[i] = u8(sums[i] >> u32(23))


_RADII, _WEIGHTS = array(types.int64, 2, readonly=True), array(types.uint16, 3)


@compiled(types.void(_OCTETS, _SIDE, _SIDE, _ROWS, _RADII, _WEIGHTS))
def _blur(octets: UInt8Array, height: int, width: int, rows: IntArray, radii: IntArray, weights: UInt16Array) -> None:
    margin_y, margin_x = 0, 0
    for k in range(len(rows)):
        margin_y, margin_x = max(margin_y, radii[0, k]), max(margin_x, radii[1, k])
    longest = 3 * (width + 2 * margin_x)
    along = np.zeros(height * longest, np.uint16)
    down = np.zeros((height + 2 * margin_y) * longest, np.uint16)
    sums = np.empty(max(_RUN, longest), np.uint32)
    for k in range(len(rows)):
        image, ry, rx = octets[rows[k]], radii[0, k], radii[1, k]
        row, line = 3 * width, 3 * (width + 2 * rx)
        for y in range(height):
            start = y * line + 3 * rx
            _widen(image[y * row : (y + 1) * row], along[start : start + row])
            _reflect_columns(along[y * line : (y + 1) * line], rx)
        # Runs go over the ends of rows: what they make of the margins is never read.
        end, top = height * line - 6 * rx, ry * line
        for start in range(0, end, _RUN):
            n = min(_RUN, end - start)
            _filter_run(along, start + 3 * rx, 3, rx, weights[1, k], u32(1 << 15), sums[:n])
            _to_samples(sums, down[top + start : top + start + n])
        for y in range(1, ry + 1):
            above, below = top - y * line, top + (height - 1 + y) * line
            _copy_samples(down[top + y * line :], down[above : above + row])
            _copy_samples(down[top + (height - 1 - y) * line :], down[below : below + row])
        lines = max(1, _RUN // line)
        for y in range(0, height, lines):
            count = min(lines, height - y)
            n = count * line - 6 * rx
            _filter_run(down, top + y * line, line, ry, weights[0, k], u32(1 << 22), sums[:n])
            for i in range(count):
                _to_octets(sums[i * line :], image[(y + i) * row : (y + i + 1) * row])


def _gaussian_weights(sigma_K: Float64Array, radius_K: IntArray) -> UInt16Array:
    """uint16 (K, R): half the weight in the middle, then those of one side, to a sum of 2^15; 0 past the radius.

    The running sum is rounded rather than each weight, so that no error adds up.
    """
    num_taps = (int(np.max(radius_K, initial=0)) // _TAPS + 1) * _TAPS
    distance = np.arange(num_taps, dtype=np.float64)
    # Below exp(-50) nothing is left of a weight; sigma² could be 0.
    relative = distance / np.maximum(sigma_K, 1e-3)[:, None]
    exponent = np.minimum(relative * relative * 0.5, 50.0)
    shares = np.where(distance <= radius_K[:, None], exp(-exponent), 0.0)
    shares[:, 0] *= 0.5
    running = np.cumsum(shares, axis=1)
    running = np.rint(running / running[:, -1:] * 2.0**15)
    weights: UInt16Array = np.diff(running, axis=1, prepend=0.0).astype(np.uint16)
    return weights


def gaussian_blur(images_NHWC: UInt8Array, rows_K: IntArray, sigma_K: Float64Array) -> None:
    """Blur with a Gaussian, along rows and then along columns; in place.

    The radius is ceil(3 · sigma), at most the picture's side less one; the weights exp(-x² / 2 sigma²) there are
    rounded to 2^-16 and sum to 1 exactly. Beyond the border the picture is reflected, its last pixel not repeated.
    Between the two passes samples are rounded to 2^-7, and half up at the end. It is torchvision's `gaussian_blur`
    with kernel size 2 · radius + 1.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), the pictures to change.
        sigma_K: float64 (K,), standard deviation in pixels, above 0.

    Raises:
        ValueError: a sigma or a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    expect_shape("sigma", sigma_K, len(rows_K))
    if not ((sigma_K > 0) & (sigma_K < np.inf)).all():
        raise ValueError(f"sigma must be above 0 and finite, found {np.min(sigma_K)} to {np.max(sigma_K)}")
    _, height, width, _ = images_NHWC.shape
    if octets.size == 0 or not len(rows_K):
        return
    radii, weights = blur_weights(sigma_K, height, width)
    _blur(octets, height, width, _integers(rows_K), radii, weights)


def blur_weights(sigma_K: Float64Array, height: int, width: int) -> tuple[IntArray, UInt16Array]:
    """Down and across: radii int64 (2, K), and weights uint16 (2, K, R), the middle's half first, 0 past the radius."""
    radii = np.stack([np.minimum(np.ceil(3 * sigma_K), side - 1) for side in (height, width)]).astype(np.int64)
    weights = [_gaussian_weights(sigma_K, radius_K) for radius_K in radii]
    num_taps = max(one.shape[1] for one in weights)
    return radii, np.stack([np.pad(one, ((0, 0), (0, num_taps - one.shape[1]))) for one in weights])


# -- Gaussian noise --------------------------------------------------------------------------------

_CELLS = 4096  # of equal probability


def _normal_quantiles() -> Int16Array:
    """int16 (4096,), in units of 2^-10: the middle of each cell, symmetric about 0."""
    normal = NormalDist()
    upper = [round(1024 * normal.inv_cdf((i + 0.5) / _CELLS)) for i in range(_CELLS // 2, _CELLS)]
    return np.array([-quantile for quantile in reversed(upper)] + upper, np.int16)


NORMAL = _normal_quantiles()


@part
def _philox(key: u64, first: u64, bits: UInt32Array) -> None:
    """Blocks first, first + 1, …: four words each of Philox4x32-10 at counter (block, 0, 0, 0)."""
    low, half = u64(0xFFFFFFFF), u64(32)
    m0, m1 = u64(PHILOX_MULTIPLIERS[0]), u64(PHILOX_MULTIPLIERS[1])
    for i in range(len(bits) // 4):
        c0, c1, c2, c3 = first + u64(i), u64(0), u64(0), u64(0)
        k0, k1 = key & low, key >> half
        for _ in range(PHILOX_ROUNDS):
            p0, p1 = c0 * m0, c2 * m1
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
            k0, k1 = (k0 + u64(PHILOX_WEYL[0])) & low, (k1 + u64(PHILOX_WEYL[1])) & low
        bits[4 * i], bits[4 * i + 1] = u32(c0), u32(c1)
        bits[4 * i + 2], bits[4 * i + 3] = u32(c2), u32(c3)


@part
def _look_up(bits: UInt32Array, table: Int16Array, normals: Int16Array) -> None:
    """Two values a word: its lowest twelve bits, then its highest twelve."""
    for i in range(len(bits)):
        word = bits[i]
        normals[2 * i] = table[word & u32(4095)]
        normals[2 * i + 1] = table[word >> u32(20)]


@part
def _add_scaled(octets: UInt8Array, normals: Int16Array, scale: i32) -> None:
    for i in range(len(octets)):
        change = i32(i32(i32(normals[i]) * scale + (1 << 19)) >> i32(20))
        octets[i] = u8(min(max(i32(i32(octets[i]) + change), i32(0)), i32(255)))


@compiled(types.void(_OCTETS, _ROWS, _FACTORS, array(types.uint64, 1, readonly=True), array(types.int16, 1)))
def _add_noise(octets: UInt8Array, rows: IntArray, scales: Int32Array, keys: UInt64Array, table: Int16Array) -> None:
    bits, normals = np.empty(_RUN // 2, np.uint32), np.empty(_RUN, np.int16)
    size = octets.shape[1]
    for k in range(len(rows)):
        image = octets[rows[k]]
        for start in range(0, size, _RUN):
            n = min(_RUN, size - start)
            words = 4 * ((n + 7) // 8)
            _philox(keys[k], u64(start // 8), bits[:words])
            _look_up(bits[:words], table, normals)
            _add_scaled(image[start : start + n], normals, scales[k])


def add_gaussian_noise(images_NHWC: UInt8Array, rows_K: IntArray, sigma_K: Float64Array, keys_K: UInt64Array) -> None:
    """Add independent normal noise to each channel of each pixel, rounded and clamped to [0, 255]; in place.

    Value v of a picture (v counts channels, then columns, then rows) takes the twelve lowest bits (v even) or the
    twelve highest (v odd) of word v // 2 % 4 of block v // 8 of Philox4x32-10 under the picture's key, whose counter
    is (block, 0, 0, 0). They name one of 4,096 cells of equal probability of the standard normal distribution, for
    which its median stands, rounded to 2^-10; the largest is 3.67. 255 · sigma is rounded to 2^-10.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), the pictures to change.
        sigma_K: float64 (K,), standard deviation as a share of 255, 0 to 1.
        keys_K: uint64 (K,), one for each picture: equal keys give equal noise.

    Raises:
        ValueError: a sigma or a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    expect_shape("sigma", sigma_K, len(rows_K))
    expect_shape("keys", keys_K, len(rows_K))
    if not ((sigma_K >= 0) & (sigma_K <= 1)).all():
        raise ValueError(f"sigma must be in [0, 1], found {np.min(sigma_K)} to {np.max(sigma_K)}")
    keys = np.ascontiguousarray(keys_K, np.uint64)
    _add_noise(octets, _integers(rows_K), noise_scales(sigma_K), keys, NORMAL)


def noise_scales(sigma_K: Float64Array) -> Int32Array:
    """What a normal number is multiplied by, in 2^-10 of a grey level, int32 (K,)."""
    return np.rint(sigma_K * (255 * 1024)).astype(np.int32)


# -- JPEG ------------------------------------------------------------------------------------------
# What libjpeg-turbo does to pixels: jccolor.c, jfdctint.c, jcdctmgr.c, jidctint.c, jdcolor.c. The entropy coding
# between them loses nothing and is left out. A tile holds the blocks that are transformed together, as
#   samples  [row of the block] [channel] [block] [column of the block]
#   levels   [row] [column] [channel] [block]
# with sizes that are known when compiling, so that no loop has to test its arrays for overlap.

_BLOCKS = 16
_SEGMENTS = 3 * _BLOCKS  # rows of eight samples, for one row of the blocks
_LINE = 8 * _SEGMENTS
_TILE = 8 * _LINE

# fmt: off
_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on


def _quantisation() -> UInt32Array:
    """uint32 (2, 100, 128): steps at quality 1 to 100, luminance then chrominance, and their reciprocals."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = np.clip((np.array(_LUMINANCE + _CHROMINANCE) * scale + 50) // 100, 1, 255)
    return np.stack([steps, 2**20 // steps + 1]).astype(np.uint32)


QUANTISATION = _quantisation()

# Cosines of the 8-point transform, times 2^13 (Loeffler, Ligtenberg and Moschytz, ICASSP 1989).
_C0_298, _C0_390, _C0_541, _C0_765, _C0_899, _C1_175 = 2446, 3196, 4433, 6270, 7373, 9633
_C1_501, _C1_847, _C1_961, _C2_053, _C2_562, _C3_072 = 12299, 15137, 16069, 16819, 20995, 25172


def _cosines() -> IntArray:
    """int64 (8, 8): the transform's sums as a matrix, a frequency a row. Backwards it is the transposed one."""
    s = np.eye(8, dtype=np.int64)
    t0, t1, t2, t3 = s[0] + s[7], s[1] + s[6], s[2] + s[5], s[3] + s[4]
    t7, t6, t5, t4 = s[0] - s[7], s[1] - s[6], s[2] - s[5], s[3] - s[4]
    e0, e1, e2, e3 = t0 + t3, t1 + t2, t1 - t2, t0 - t3
    z = (e2 + e3) * _C0_541
    z5 = (t4 + t5 + t6 + t7) * _C1_175
    z1, z2 = (t4 + t7) * -_C0_899, (t5 + t6) * -_C2_562
    z3, z4 = (t4 + t6) * -_C1_961 + z5, (t5 + t7) * -_C0_390 + z5
    d1, d3 = t7 * _C1_501 + z1 + z4, t6 * _C3_072 + z2 + z3
    d5, d7 = t5 * _C2_053 + z2 + z4, t4 * _C0_298 + z1 + z3
    return np.stack([(e0 + e1) * 8192, d1, e3 * _C0_765 + z, d3, (e0 - e1) * 8192, d5, z - e2 * _C1_847, d7])


COSINES = _cosines()


@part
def _to_ycc(octets: UInt8Array, y: Int32Array, cb: Int32Array, cr: Int32Array) -> None:
    """All three less 128."""
    for i in range(len(y)):
        r, g, b = i32(octets[3 * i]), i32(octets[3 * i + 1]), i32(octets[3 * i + 2])
        y[i] = i32(i32(r * 19595 + g * 38470 + b * 7471 + 32768 - (128 << 16)) >> i32(16))
        cb[i] = i32(i32(b * 32768 - r * 11059 - g * 21709 + 32767) >> i32(16))
        cr[i] = i32(i32(r * 32768 - g * 27439 - b * 5329 + 32767) >> i32(16))


@part
def _to_rgb(y: Int32Array, cb: Int32Array, cr: Int32Array, octets: UInt8Array) -> None:
    for i in range(len(y)):
        luma = i32(y[i] + 128)
        r = i32(luma + i32(i32(cr[i] * 91881 + 32768) >> i32(16)))
        g = i32(luma + i32(i32(32768 - cb[i] * 22554 - cr[i] * 46802) >> i32(16)))
        b = i32(luma + i32(i32(cb[i] * 116130 + 32768) >> i32(16)))
        octets[3 * i] = u8(min(max(r, i32(0)), i32(255)))
        octets[3 * i + 1] = u8(min(max(g, i32(0)), i32(255)))
        octets[3 * i + 2] = u8(min(max(b, i32(0)), i32(255)))


@part
def _forward_odd(t4: i32, t5: i32, t6: i32, t7: i32, half: i32, shift: i32) -> tuple[i32, i32, i32, i32]:
    z5 = i32((t4 + t5 + t6 + t7) * _C1_175)
    z1, z2 = i32((t4 + t7) * -_C0_899), i32((t5 + t6) * -_C2_562)
    z3, z4 = i32((t4 + t6) * -_C1_961 + z5), i32((t5 + t7) * -_C0_390 + z5)
    d7 = i32(i32(t4 * _C0_298 + z1 + z3 + half) >> shift)
    d5 = i32(i32(t5 * _C2_053 + z2 + z4 + half) >> shift)
    d3 = i32(i32(t6 * _C3_072 + z2 + z3 + half) >> shift)
    d1 = i32(i32(t7 * _C1_501 + z1 + z4 + half) >> shift)
    return d1, d3, d5, d7


@part
def _forward_rows(samples: Int32Array, levels: Int32Array) -> None:
    n = _SEGMENTS
    for i in range(n):
        s0, s1, s2, s3 = samples[8 * i], samples[8 * i + 1], samples[8 * i + 2], samples[8 * i + 3]
        s4, s5, s6, s7 = samples[8 * i + 4], samples[8 * i + 5], samples[8 * i + 6], samples[8 * i + 7]
        t0, t1, t2, t3 = i32(s0 + s7), i32(s1 + s6), i32(s2 + s5), i32(s3 + s4)
        t7, t6, t5, t4 = i32(s0 - s7), i32(s1 - s6), i32(s2 - s5), i32(s3 - s4)
        e0, e1, e2, e3 = i32(t0 + t3), i32(t1 + t2), i32(t1 - t2), i32(t0 - t3)
        z1 = i32((e2 + e3) * _C0_541 + 1024)
        d1, d3, d5, d7 = _forward_odd(t4, t5, t6, t7, i32(1024), i32(11))
        levels[i], levels[4 * n + i] = i32((e0 + e1) * 4), i32((e0 - e1) * 4)
        levels[2 * n + i], levels[6 * n + i] = (
            i32(i32(e3 * _C0_765 + z1) >> i32(11)),
            i32(i32(z1 - e2 * _C1_847) >> i32(11)),
        )
        levels[n + i], levels[3 * n + i], levels[5 * n + i], levels[7 * n + i] = d1, d3, d5, d7


@part
def _forward_columns(levels: Int32Array) -> None:
    n = _LINE
    for i in range(n):
        s0, s1, s2, s3 = levels[i], levels[n + i], levels[2 * n + i], levels[3 * n + i]
        s4, s5, s6, s7 = levels[4 * n + i], levels[5 * n + i], levels[6 * n + i], levels[7 * n + i]
        t0, t1, t2, t3 = i32(s0 + s7), i32(s1 + s6), i32(s2 + s5), i32(s3 + s4)
        t7, t6, t5, t4 = i32(s0 - s7), i32(s1 - s6), i32(s2 - s5), i32(s3 - s4)
        e0, e1, e2, e3 = i32(t0 + t3), i32(t1 + t2), i32(t1 - t2), i32(t0 - t3)
        z1 = i32((e2 + e3) * _C0_541 + 16384)
        d1, d3, d5, d7 = _forward_odd(t4, t5, t6, t7, i32(16384), i32(15))
        levels[i], levels[4 * n + i] = i32(i32(e0 + e1 + 2) >> i32(2)), i32(i32(e0 - e1 + 2) >> i32(2))
        levels[2 * n + i], levels[6 * n + i] = (
            i32(i32(e3 * _C0_765 + z1) >> i32(15)),
            i32(i32(z1 - e2 * _C1_847) >> i32(15)),
        )
        levels[n + i], levels[3 * n + i], levels[5 * n + i], levels[7 * n + i] = d1, d3, d5, d7


@part
def _quantise(levels: Int32Array, steps: UInt32Array, reciprocals: UInt32Array) -> None:
    """To the nearest multiple of the step, half away from zero. The transform is eight times too large.

    A magnitude over eight is below 2^11 and a step at most 255: then 2^20 // step + 1 divides exactly.
    """
    for i in range(_TILE):
        level = levels[i]
        eighth = u32(u32(u32(abs(level)) + steps[i] * u32(4)) >> u32(3))
        multiple = i32(u32(u32(eighth * reciprocals[i]) >> u32(20)) * steps[i])
        levels[i] = i32(-multiple) if level < 0 else multiple


@part
def _inverse_odd(t0: i32, t1: i32, t2: i32, t3: i32) -> tuple[i32, i32, i32, i32]:
    z5 = i32((t0 + t1 + t2 + t3) * _C1_175)
    z1, z2 = i32((t0 + t3) * -_C0_899), i32((t1 + t2) * -_C2_562)
    z3, z4 = i32((t0 + t2) * -_C1_961 + z5), i32((t1 + t3) * -_C0_390 + z5)
    return (
        i32(t0 * _C0_298 + z1 + z3),
        i32(t1 * _C2_053 + z2 + z4),
        i32(t2 * _C3_072 + z2 + z3),
        i32(t3 * _C1_501 + z1 + z4),
    )


@part
def _inverse_columns(levels: Int32Array) -> None:
    n, half, shift = _LINE, 1024, i32(11)
    for i in range(n):
        s0, s2, s4, s6 = levels[i], levels[2 * n + i], levels[4 * n + i], levels[6 * n + i]
        z1 = i32((s2 + s6) * _C0_541)
        e2, e3 = i32(z1 - s6 * _C1_847), i32(z1 + s2 * _C0_765)
        e0, e1 = i32((s0 + s4) * 8192 + half), i32((s0 - s4) * 8192 + half)
        a0, a3, a1, a2 = i32(e0 + e3), i32(e0 - e3), i32(e1 + e2), i32(e1 - e2)
        t0, t1, t2, t3 = _inverse_odd(levels[7 * n + i], levels[5 * n + i], levels[3 * n + i], levels[n + i])
        levels[i], levels[7 * n + i] = i32(i32(a0 + t3) >> shift), i32(i32(a0 - t3) >> shift)
        levels[n + i], levels[6 * n + i] = i32(i32(a1 + t2) >> shift), i32(i32(a1 - t2) >> shift)
        levels[2 * n + i], levels[5 * n + i] = i32(i32(a2 + t1) >> shift), i32(i32(a2 - t1) >> shift)
        levels[3 * n + i], levels[4 * n + i] = i32(i32(a3 + t0) >> shift), i32(i32(a3 - t0) >> shift)


@part
def _sample(total: i32) -> i32:
    return min(max(i32(total >> i32(18)), i32(-128)), i32(127))


@part
def _inverse_rows(levels: Int32Array, samples: Int32Array) -> None:
    n, half = _SEGMENTS, 1 << 17
    for i in range(n):
        s0, s2, s4, s6 = levels[i], levels[2 * n + i], levels[4 * n + i], levels[6 * n + i]
        z1 = i32((s2 + s6) * _C0_541)
        e2, e3 = i32(z1 - s6 * _C1_847), i32(z1 + s2 * _C0_765)
        e0, e1 = i32((s0 + s4) * 8192 + half), i32((s0 - s4) * 8192 + half)
        a0, a3, a1, a2 = i32(e0 + e3), i32(e0 - e3), i32(e1 + e2), i32(e1 - e2)
        t0, t1, t2, t3 = _inverse_odd(levels[7 * n + i], levels[5 * n + i], levels[3 * n + i], levels[n + i])
        samples[8 * i], samples[8 * i + 7] = _sample(i32(a0 + t3)), _sample(i32(a0 - t3))
        samples[8 * i + 1], samples[8 * i + 6] = _sample(i32(a1 + t2)), _sample(i32(a1 - t2))
        samples[8 * i + 2], samples[8 * i + 5] = _sample(i32(a2 + t1)), _sample(i32(a2 - t1))
        samples[8 * i + 3], samples[8 * i + 4] = _sample(i32(a3 + t0)), _sample(i32(a3 - t0))


@part
def _spread(table: UInt32Array, target: UInt32Array) -> None:
    """A table of one quality, uint32 (128,), in the layout of levels."""
    for i in range(64):
        luma, chroma = table[i], table[64 + i]
        start = i * _SEGMENTS
        for k in range(_BLOCKS):
            target[start + k] = luma
        for k in range(_BLOCKS, _SEGMENTS):
            target[start + k] = chroma


@part
def _copy_run(source: Int32Array, target: Int32Array) -> None:
    for i in range(len(source)):
        target[i] = source[i]


@compiled(types.void(_OCTETS, _SIDE, _SIDE, _ROWS, _ROWS, array(types.uint32, 3)))
def _jpeg(octets: UInt8Array, height: int, width: int, rows: IntArray, quality: IntArray, tables: UInt32Array) -> None:
    across = min((width + 7) // 8, _BLOCKS)  # blocks of a tile, and of a band of tiles
    down = min((height + 7) // 8, _BLOCKS // across)
    band = np.empty((3, 8 * down * width), np.int32)
    samples, levels = np.zeros(_TILE, np.int32), np.empty(_TILE, np.int32)
    steps, reciprocals = np.empty(_TILE, np.uint32), np.empty(_TILE, np.uint32)
    run = 8 * across
    for k in range(len(rows)):
        image = octets[rows[k]]
        if k == 0 or quality[k] != quality[k - 1]:
            _spread(tables[0, quality[k] - 1], steps)
            _spread(tables[1, quality[k] - 1], reciprocals)
        for top in range(0, height, 8 * down):
            lines = min(8 * down, height - top)
            n = lines * width
            pixels = image[3 * top * width : 3 * (top * width + n)]
            _to_ycc(pixels, band[0, :n], band[1, :n], band[2, :n])
            for left in range(0, width, run):
                columns = min(run, width - left)
                for y in range(8 * down):
                    for channel in range(3):
                        source = min(y, lines - 1) * width + left  # the last row again, to a whole block
                        target = (y % 8) * _LINE + channel * 8 * _BLOCKS + (y // 8) * run
                        _copy_run(band[channel, source : source + columns], samples[target : target + run])
                        for x in range(columns, (columns + 7) // 8 * 8):
                            samples[target + x] = samples[target + columns - 1]
                for line in range(0, _TILE, _LINE):
                    _forward_rows(samples[line : line + _LINE], levels[line : line + _LINE])
                _forward_columns(levels)
                _quantise(levels, steps, reciprocals)
                _inverse_columns(levels)
                for line in range(0, _TILE, _LINE):
                    _inverse_rows(levels[line : line + _LINE], samples[line : line + _LINE])
                for y in range(lines):
                    for channel in range(3):
                        target = y * width + left
                        source = (y % 8) * _LINE + channel * 8 * _BLOCKS + (y // 8) * run
                        _copy_run(samples[source : source + columns], band[channel, target : target + columns])
            _to_rgb(band[0, :n], band[1, :n], band[2, :n], pixels)


def jpeg(images_NHWC: UInt8Array, rows_K: IntArray, quality_K: IntArray) -> None:
    """Compress with JPEG and decompress, without the coding in between; in place.

    The same bits as Pillow with libjpeg-turbo gives for `quality` and `subsampling=0`: RGB to YCbCr in 16-bit fixed
    point, 8×8 cosine transform (islow), the standard tables (ITU-T T.81, annex K) scaled by quality as libjpeg does
    and held to 1 to 255, rounding to the nearest multiple, and back. Sides that are not a multiple of eight are
    filled up with their last pixels.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), the pictures to change.
        quality_K: int64 (K,), 1 to 100.

    Raises:
        ValueError: a quality or a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    expect_shape("quality", quality_K, len(rows_K))
    if not ((quality_K >= 1) & (quality_K <= 100)).all():
        raise ValueError(f"quality must be in [1, 100], found {np.min(quality_K)} to {np.max(quality_K)}")
    _, height, width, _ = images_NHWC.shape
    if octets.size == 0:
        return
    _jpeg(octets, height, width, _integers(rows_K), _integers(quality_K), QUANTISATION)
