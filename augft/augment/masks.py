"""Masks in place: boxes of one colour or of noise, and the squares of GridMask.

What is masked is a function of the place in the picture alone, so masks do not compose to a map or a table. All work in
place on chosen rows of a batch, single-threaded, with the GIL released, and allocate once a call. Parameters are
float64 turned to integers by one rounding in NumPy; the compiled part is integers alone, so the same pixels come out on
every platform and CPU.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import uint8 as u8
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
from augft.augment.portable import sin_cos_degrees

__all__ = ["fill_boxes", "grid_mask", "grid_phases"]

UInt8Array = npt.NDArray[np.uint8]

_RUN_PIXELS = 1024  # that a stage takes at once: its arrays stay in the L1 cache

_OCTETS, _SIDE = array(types.uint8, 2), types.int64
_ROWS, _BOXES = array(types.int64, 1, readonly=True), array(types.int64, 2, readonly=True)
_COLOURS, _KEYS = array(types.uint8, 2, readonly=True), array(types.uint64, 1, readonly=True)


# -- boxes -----------------------------------------------------------------------------------------


@part
def _repeat_colour(colour: UInt8Array, pixels: UInt8Array) -> None:
    r, g, b = colour[0], colour[1], colour[2]
    for i in range(len(pixels) // 3):
        pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2] = r, g, b


@part
def _copy(source: UInt8Array, target: UInt8Array) -> None:
    for i in range(len(target)):
        target[i] = source[i]


@compiled(types.void(_OCTETS, _SIDE, _ROWS, _BOXES, _COLOURS))
def _fill_colour(octets: UInt8Array, width: int, rows: IntArray, boxes: IntArray, colours: UInt8Array) -> None:
    line = np.empty(3 * width, np.uint8)
    for k in range(len(rows)):
        image = octets[rows[k]]
        top, bottom, left, right = boxes[0, k], boxes[1, k], boxes[2, k], boxes[3, k]
        n = 3 * max(0, right - left)
        _repeat_colour(colours[k], line[:n])
        for y in range(top, bottom):
            start = 3 * (y * width + left)
            _copy(line, image[start : start + n])


@part
def _number_blocks(blocks: UInt32Array, first: u32) -> None:
    for i in range(len(blocks)):
        blocks[i] = u32(first + u32(i))


@part
def _philox(key: u64, blocks: UInt32Array, bits: UInt32Array) -> None:
    """Four words for each block: Philox4x32-10 at counter (block, 0, 0, 0)."""
    low, half = u64(0xFFFFFFFF), u64(32)
    m0, m1 = u64(PHILOX_MULTIPLIERS[0]), u64(PHILOX_MULTIPLIERS[1])
    for i in range(len(blocks)):
        c0, c1, c2, c3 = u64(blocks[i]), u64(0), u64(0), u64(0)
        k0, k1 = key & low, key >> half
        for _ in range(PHILOX_ROUNDS):
            p0, p1 = c0 * m0, c2 * m1
            c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & low, (p0 >> half) ^ c3 ^ k1, p0 & low
            k0, k1 = (k0 + u64(PHILOX_WEYL[0])) & low, (k1 + u64(PHILOX_WEYL[1])) & low
        bits[4 * i], bits[4 * i + 1] = u32(c0), u32(c1)
        bits[4 * i + 2], bits[4 * i + 3] = u32(c2), u32(c3)


@part
def _unpack(words: UInt32Array, pixels: UInt8Array) -> None:
    for i in range(len(pixels) // 3):
        word = words[i]
        pixels[3 * i] = u8(word)
        pixels[3 * i + 1] = u8(word >> u32(8))
        pixels[3 * i + 2] = u8(word >> u32(16))


@compiled(types.void(_OCTETS, _SIDE, _ROWS, _BOXES, _KEYS))
def _fill_noise(octets: UInt8Array, width: int, rows: IntArray, boxes: IntArray, keys: UInt64Array) -> None:
    most = max(_RUN_PIXELS // 4, width // 4 + 2)
    blocks, bits = np.empty(most, np.uint32), np.empty(4 * most, np.uint32)
    for k in range(len(rows)):
        image = octets[rows[k]]
        top, bottom, left, right = boxes[0, k], boxes[1, k], boxes[2, k], boxes[3, k]
        if left >= right:
            continue
        per_line = (right - left + 2) // 4 + 1  # wherever a line starts within a block
        lines = most // per_line
        for y in range(top, bottom, lines):
            count = min(lines, bottom - y)
            for i in range(count):
                first = ((y + i) * width + left) // 4
                _number_blocks(blocks[i * per_line : (i + 1) * per_line], u32(first))
            _philox(keys[k], blocks[: count * per_line], bits)
            for i in range(count):
                pixel = (y + i) * width + left
                words = bits[4 * i * per_line + pixel % 4 :]
                _unpack(words, image[3 * pixel : 3 * (pixel + right - left)])


def fill_boxes(
    images_NHWC: UInt8Array,
    rows_K: IntArray,
    boxes_4K: IntArray,
    fill_K3: UInt8Array,
    keys_K: UInt64Array | None = None,
) -> None:
    """Fill a box of each picture with one colour, or with noise; in place.

    Noise is uniform in 0 to 255, independent in each channel of each pixel: pixel v (columns, then rows) takes the
    three lowest bytes, red lowest, of word v % 4 of block v // 4 of Philox4x32-10 under the picture's key, whose
    counter is (block, 0, 0, 0). So a pixel's noise does not depend on the box around it.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous.
        rows_K: int64 (K,), the pictures to change; a picture named twice gets both boxes, in order.
        boxes_4K: int64 (4, K), rows top, bottom, left, right: [top, bottom) by [left, right), in pixels. What lies
            outside the picture is cut off; where nothing is left, nothing is filled.
        fill_K3: uint8 (K, 3), RGB of each box. Not used with keys.
        keys_K: uint64 (K,), for noise instead of colour.

    Raises:
        ValueError: a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    expect_shape("boxes", boxes_4K, 4, len(rows_K))
    _, height, width, _ = images_NHWC.shape
    rows = np.ascontiguousarray(rows_K, np.int64)
    boxes = np.ascontiguousarray(np.clip(boxes_4K, 0, [[height], [height], [width], [width]]), np.int64)
    if octets.size == 0:
        return
    if keys_K is None:
        expect_shape("fill", fill_K3, len(rows_K), 3)
        _fill_colour(octets, width, rows, boxes, np.ascontiguousarray(fill_K3, np.uint8))
    else:
        expect_shape("keys", keys_K, len(rows_K))
        _fill_noise(octets, width, rows, boxes, np.ascontiguousarray(keys_K, np.uint64))


# -- GridMask --------------------------------------------------------------------------------------

# Added to each phase, in 2^-32 of a period: a pixel that falls on an edge in exact arithmetic falls on its far side
# here too, whatever the rounding of up to some thousand steps makes of it.
_ON_EDGE = 1 << 13


@part
def _drop_masks(
    xs: UInt32Array, ys: UInt32Array, step: UInt32Array, u0: u32, v0: u32, last: u32, masks: UInt8Array
) -> None:
    """255 where both phases are in the dropped part, 0 elsewhere. Phases wrap as periods do."""
    a, b, d, e = step[0], step[1], step[2], step[3]
    for i in range(len(masks)):
        u = u32(u0 + xs[i] * a + ys[i] * b)
        v = u32(v0 + xs[i] * d + ys[i] * e)
        masks[i] = u8(255) if max(u, v) <= last else u8(0)


@part
def _select(masks: UInt8Array, colour: UInt8Array, pixels: UInt8Array) -> None:
    r, g, b = colour[0], colour[1], colour[2]
    for i in range(len(masks)):
        mask = masks[i]
        pixels[3 * i] = u8(pixels[3 * i] ^ ((pixels[3 * i] ^ r) & mask))
        pixels[3 * i + 1] = u8(pixels[3 * i + 1] ^ ((pixels[3 * i + 1] ^ g) & mask))
        pixels[3 * i + 2] = u8(pixels[3 * i + 2] ^ ((pixels[3 * i + 2] ^ b) & mask))


@compiled(types.void(_OCTETS, _SIDE, _ROWS, array(types.uint32, 2, readonly=True), _ROWS, _COLOURS))
def _mask_grid(
    octets: UInt8Array, width: int, rows: IntArray, phases: UInt32Array, ends: IntArray, colours: UInt8Array
) -> None:
    size = octets.shape[1] // 3
    lines = max(1, _RUN_PIXELS // width)
    run = min(lines * width, size)
    xs, ys, masks = np.empty(run, np.uint32), np.empty(run, np.uint32), np.empty(run, np.uint8)
    for i in range(run):
        xs[i], ys[i] = i % width, i // width
    for k in range(len(rows)):
        if ends[k] == 0:
            continue
        image, step, last = octets[rows[k]], phases[k], u32(ends[k] - 1)
        for start in range(0, size, run):
            n = min(run, size - start)
            y = u32(start // width)
            u0, v0 = u32(step[4] + y * step[1]), u32(step[5] + y * step[3])
            _drop_masks(xs, ys, step, u0, v0, last, masks[:n])
            _select(masks[:n], colours[k], image[3 * start : 3 * (start + n)])


def grid_mask(
    images_NHWC: UInt8Array,
    rows_K: IntArray,
    period_K: Float64Array,
    keep_K: Float64Array,
    offset_2K: Float64Array,
    angle_K: Float64Array,
    fill_K3: UInt8Array,
) -> None:
    """Fill a turned grid of squares of each picture with a colour (Chen et al., 2020, arXiv:2001.04086); in place.

    Pixel (x, y), counted from the middle of the picture ((W − 1) / 2, (H − 1) / 2), has the phases

        u = (x · cos(angle) + y · sin(angle)) / period + offset[0]
        v = (y · cos(angle) − x · sin(angle)) / period + offset[1]

    and is filled where the fractional parts of both are below 1 − keep: squares of side period · (1 − keep), one in
    each period, turned clockwise by angle as the picture is seen. Phases are rounded to 2^-32 of a period a step, so a
    pixel is decided as in exact arithmetic unless it is within 2^-18 of a period of an edge.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous; sides below 8,192.
        rows_K: int64 (K,), the pictures to change.
        period_K: float64 (K,), in pixels, at least 1.
        keep_K: float64 (K,), 0 (everything is filled) to 1 (nothing is), as a share of the period.
        offset_2K: float64 (2, K), 0 to 1, as a share of the period.
        angle_K: float64 (K,), in degrees, within ±3,600.
        fill_K3: uint8 (K, 3), RGB.

    Raises:
        ValueError: a number or a row is out of its range, or the pictures are not as stated.
    """
    octets = octets_of(images_NHWC, rows_K)
    for name, numbers, low, high in (
        ("period", period_K, 1.0, 1e6),
        ("keep", keep_K, 0.0, 1.0),
        ("offset", offset_2K, 0.0, 1.0),
        ("angle", angle_K, -3600.0, 3600.0),
    ):
        expect_shape(name, numbers, *([2] if name == "offset" else []), len(rows_K))
        if not ((numbers >= low) & (numbers <= high)).all():  # which NaN is not, either
            raise ValueError(f"{name} must be in [{low:g}, {high:g}], found {np.min(numbers)} to {np.max(numbers)}")
    expect_shape("fill", fill_K3, len(rows_K), 3)
    _, height, width, _ = images_NHWC.shape
    if octets.size == 0:
        return
    phases, ends = grid_phases(height, width, period_K, keep_K, offset_2K, angle_K)
    rows = np.ascontiguousarray(rows_K, np.int64)
    _mask_grid(octets, width, rows, phases, ends, np.ascontiguousarray(fill_K3, np.uint8))


def grid_phases(
    height: int,
    width: int,
    period_K: Float64Array,
    keep_K: Float64Array,
    offset_2K: Float64Array,
    angle_K: Float64Array,
) -> tuple[UInt32Array, IntArray]:
    """A grid in 2^-32 of its period.

    Returns:
        uint32 (K, 6): what u and what v grow by across and down, two each, and what they are at the first pixel; and
        int64 (K,), below which phases a pixel is filled.
    """
    sin, cos = sin_cos_degrees(angle_K)
    sin, cos = sin / period_K, cos / period_K
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    first_u = offset_2K[0] - (cos * middle_x + sin * middle_y)
    first_v = offset_2K[1] - (cos * middle_y - sin * middle_x)
    phases = np.rint(np.stack([cos, sin, -sin, cos, first_u, first_v], axis=1) * 2.0**32).astype(np.int64)
    phases[:, 4:] += _ON_EDGE
    ends = np.rint((1 - keep_K) * 2.0**32).astype(np.int64)
    return (phases & 0xFFFFFFFF).astype(np.uint32), ends
