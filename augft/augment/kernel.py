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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import types
from numpy import int32 as i32
from numpy import int64 as i64
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

__all__ = [
    "BORDER",
    "MAX_POSITION",
    "RUN_PIXELS",
    "Displacement",
    "check_reach",
    "fixed_lattices",
    "fixed_maps",
    "row_digests",
    "samples_each",
    "spline_weights",
    "uniform",
    "warp",
    "warp_each",
]

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

# Sources and positions are limited by 16.16 fixed point in 32 bits.
MAX_POSITION = 32_000
MAX_SAMPLES = 15
"""Of an output pixel on either axis; 15 × 15 sums of octets fit into 16 bits."""

_SHARP = 0.1
"""By how much more than one pixel a fine sample may stand for."""

RUN_PIXELS = 1024
BORDER = 2  # bilinear reads one pixel beyond a position clamped to one pixel outside


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
    stride = width + 2 * BORDER
    for y in range(height):
        source = y * width
        target = (y + BORDER) * stride + BORDER
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
    stride = i32(width + 2 * BORDER)
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
    stride = i32(width + 2 * BORDER)
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


@part
def _add(pixels: UInt32Array, odd: UInt32Array, even: UInt32Array) -> None:
    """Add pixels to sums: of red and blue in `even`, 16 bits each, and of green in `odd`."""
    for i in range(len(pixels)):
        even[i] += pixels[i] & u32(0x00FF00FF)
        odd[i] += (pixels[i] >> u32(8)) & u32(0xFF)


@part
def _average(odd: UInt32Array, even: UInt32Array, reciprocal: u32, pixels: UInt32Array) -> None:
    """Sums to averages, rounded: `reciprocal` is that of their number, in 2^-16."""
    half, low = u32(1 << 15), u32(0xFFFF)
    for i in range(len(pixels)):
        red = u32((even[i] & low) * reciprocal + half) >> u32(16)
        green = u32(odd[i] * reciprocal + half) >> u32(16)
        blue = u32((even[i] >> u32(16)) * reciprocal + half) >> u32(16)
        pixels[i] = red | (green << u32(8)) | (blue << u32(16))


@part
def _general_positions(
    us: Int64Array,
    vs: Int64Array,
    first_row: i64,
    out_width: i64,
    m: Int64Array,
    lattice: i64,
    lattices: Int32Array,
    across: Int64Array,
    down: Int64Array,
    weights_x: Int64Array,
    weights_y: Int64Array,
) -> None:
    """Positions under displacement and projective maps, 2^-16 pixels, pixel by pixel.

    Numerators are held in 2^-40 and the denominator in 2^-24. Where the latter is not positive, behind the horizon, a
    position is far outside.
    """
    a, b, c, d, e, f = m[0] >> i64(8), m[1] >> i64(8), m[2] >> i64(8), m[3] >> i64(8), m[4] >> i64(8), m[5] >> i64(8)
    g, h, w = m[6], m[7], m[8]
    far = i64(MAX_POSITION) << i64(16)
    side = lattices.shape[3]
    for k in range(len(us)):
        row, column = first_row + k // out_width, k % out_width
        x, y = column << i64(16), row << i64(16)
        if lattice >= 0:
            if column == 0:
                # The lattice's columns at this row: what is left is a spline along it.
                cell = weights_y[row, 0]
                for j in range(side):
                    total_x, total_y = i64(0), i64(0)
                    for i in range(4):
                        weight = weights_y[row, 1 + i]
                        total_x += weight * i64(lattices[lattice, 0, cell + i, j])
                        total_y += weight * i64(lattices[lattice, 1, cell + i, j])
                    across[j], down[j] = total_x >> i64(12), total_y >> i64(12)
            cell = weights_x[column, 0]
            total_x, total_y = i64(2048), i64(2048)
            for i in range(4):
                weight = weights_x[column, 1 + i]
                total_x += weight * across[cell + i]
                total_y += weight * down[cell + i]
            x += total_x >> i64(12)
            y += total_y >> i64(12)
        u = a * x + b * y + (c << i64(16))
        v = d * x + e * y + (f << i64(16))
        if g == 0 and h == 0:
            u, v = (u + i64(1 << 23)) >> i64(24), (v + i64(1 << 23)) >> i64(24)
        else:
            divisor = ((g >> i64(8)) * x + (h >> i64(8)) * y + ((w >> i64(8)) << i64(16))) >> i64(16)
            if divisor < i64(1 << 10):
                u, v = -far, -far
            else:
                u, v = u // divisor, v // divisor
        us[k] = min(max(u, -far), far)
        vs[k] = min(max(v, -far), far)


@part
def _place(
    us: Int64Array,
    vs: Int64Array,
    offset: i64,
    width: i64,
    height: i64,
    blend: bool,
    index: UInt32Array,
    fractions: UInt32Array,
) -> None:
    """Positions to places in the plane, held to its border, and to weights."""
    stride, low = width + i64(2 * BORDER), i64(0) if blend else i64(1)
    for i in range(len(us)):
        u, v = us[i] + offset, vs[i] + offset
        fractions[i] = u32((u >> i64(5)) & i64(2047)) | (u32((v >> i64(5)) & i64(2047)) << u32(16))
        u = min(max(u >> i64(16), low), width + i64(2))
        v = min(max(v >> i64(16), low), height + i64(2))
        index[i] = u32(v * stride + u)


# -- borders ---------------------------------------------------------------------------------------


@part
def _border_of_colour(plane: UInt32Array, height: int, width: int, colour: u32) -> None:
    stride = width + 2 * BORDER
    for y in range(BORDER):
        for x in range(stride):
            plane[y * stride + x] = colour
            plane[(height + BORDER + y) * stride + x] = colour
    for y in range(BORDER, height + BORDER):
        for x in range(BORDER):
            plane[y * stride + x] = colour
            plane[y * stride + width + BORDER + x] = colour


@part
def _border_of_edges(plane: UInt32Array, height: int, width: int) -> None:
    """The outermost pixels once more, as often as the border is wide."""
    stride = width + 2 * BORDER
    for y in range(BORDER, height + BORDER):
        for x in range(BORDER):
            plane[y * stride + x] = plane[y * stride + BORDER]
            plane[y * stride + width + BORDER + x] = plane[y * stride + width + BORDER - 1]
    for y in range(BORDER):
        for x in range(stride):
            plane[y * stride + x] = plane[BORDER * stride + x]
            plane[(height + BORDER + y) * stride + x] = plane[(height + BORDER - 1) * stride + x]


@part
def _mean_colour(octets: UInt8Array) -> u32:
    red, green, blue, num = u64(0), u64(0), u64(0), u64(len(octets) // 3)
    for i in range(len(octets) // 3):
        red += u64(octets[3 * i])
        green += u64(octets[3 * i + 1])
        blue += u64(octets[3 * i + 2])
    half = num // u64(2)
    return u32((red + half) // num | ((green + half) // num << u64(8)) | ((blue + half) // num << u64(16)))


@part
def _reflect(position: i64, size: i64) -> i64:
    """A position in 2^-16 pixels, mirrored about the middle of the first and the last pixel until it is inside."""
    period = (size - i64(1)) << i64(17)
    if period == 0:
        return i64(0)
    position = position % period
    return min(position, period - position)


@part
def _stays_inside(m: Int64Array, height: i64, width: i64, out_height: i64, out_width: i64) -> bool:
    """Whether the whole output, to its pixels' outer edges, comes from inside the source: it never meets the fill."""
    half, tolerance = i64(1) << i64(31), i64(1) << i64(12)
    for corner in range(4):
        x = i64(out_width << 1) - i64(1) if corner & 1 else i64(-1)
        y = i64(out_height << 1) - i64(1) if corner & 2 else i64(-1)
        u = (m[0] * x + m[1] * y) // i64(2) + m[2]
        v = (m[3] * x + m[4] * y) // i64(2) + m[5]
        if min(u, v) < -half - tolerance:
            return False
        if u > (width << i64(32)) - half + tolerance or v > (height << i64(32)) - half + tolerance:
            return False
    return True


# -- batches ---------------------------------------------------------------------------------------

_COLOUR, _MEAN, _EDGE, _REFLECT = 0, 1, 2, 3
_MODES = {"mean": _MEAN, "edge": _EDGE, "reflect": _REFLECT}

_OCTETS, _WORDS = array(types.uint8, 1, readonly=True), array(types.uint32, 1, readonly=True)
_OUT, _LONGS, _SIDE = array(types.uint8, 2), array(types.int64, 2, readonly=True), types.int64


@compiled(
    types.void(
        _OCTETS, _WORDS, _LONGS, _LONGS, _LONGS, types.uint32, _SIDE, types.boolean, _LONGS,
        array(types.int32, 4, readonly=True), _LONGS, _LONGS, _SIDE, _SIDE, _OUT,
    )
)  # fmt: skip
def _warp(
    octets: UInt8Array,
    words: UInt32Array,
    places: Int64Array,
    maps: Int64Array,
    samples: Int64Array,
    fill: u32,
    mode: int,
    bilinear: bool,
    displaced: Int64Array,
    lattices: Int32Array,
    weights_x: Int64Array,
    weights_y: Int64Array,
    out_height: int,
    out_width: int,
    out: UInt8Array,
) -> None:
    rows = max(1, RUN_PIXELS // max(1, out_width))
    run = min(rows, out_height) * out_width
    xs, ys = np.empty(run, np.int32), np.empty(run, np.int32)
    for i in range(run):
        xs[i], ys[i] = i % out_width, i // out_width
    room, most = 0, 0
    for item in range(len(places)):
        room = max(room, (places[item, 1] + 2 * BORDER) * (places[item, 2] + 2 * BORDER))
        most = max(most, places[item, 1] * places[item, 2])
    plane, source = np.empty(room, np.uint32), np.empty(most, np.uint32)
    index, fractions = np.empty(run, np.uint32), np.empty(run, np.uint32)
    upper, lower, pixels = np.empty(run, np.uint64), np.empty(run, np.uint64), np.empty(run, np.uint32)
    odd, even = np.empty(run, np.uint32), np.empty(run, np.uint32)
    upper_halves, lower_halves = upper.view(np.uint32), lower.view(np.uint32)
    us, vs = np.empty(run, np.int64), np.empty(run, np.int64)
    across, down = np.empty(lattices.shape[3], np.int64), np.empty(lattices.shape[3], np.int64)
    step = np.empty(4, np.int32)
    # What the border of the plane is, so that it is laid only where it changes.
    laid_height, laid_width, laid_colour = i64(-1), i64(-1), i64(-1)

    for item in range(len(places)):
        start, height, width = places[item, 0], places[item, 1], places[item, 2]
        stride = width + 2 * BORDER
        num_pixels = height * width
        picture = octets[start : start + 3 * num_pixels]
        if len(words) > 0:
            _pack_words(words[start // 4 : (start + 3 * num_pixels) // 4], source[:num_pixels])
        else:
            _pack_bytes(picture, source[:num_pixels])
        _lay_out(source, plane, height, width)
        m = maps[item]
        a, b, c, d, e, f = m[0], m[1], m[2], m[3], m[4], m[5]
        general = mode == _REFLECT or displaced[item, 0] >= 0 or m[6] != 0 or m[7] != 0
        # Flips and whole-pixel shifts have no fraction anywhere: nearest gives the same pixels sooner.
        whole = (a | b | c | d | e | f) & 0xFFFFFFFF == 0 and samples[item, 0] * samples[item, 1] == 1
        blend = bilinear and (general or not whole)
        inside = blend and not general and _stays_inside(m, height, width, i64(out_height), i64(out_width))
        if inside or mode in (_EDGE, _REFLECT):
            _border_of_edges(plane, height, width)
            laid_height = i64(-1)
        else:
            colour = _mean_colour(picture) if mode == _MEAN else fill
            if laid_height != height or laid_width != width or laid_colour != i64(colour):
                _border_of_colour(plane, height, width, colour)
                laid_height, laid_width, laid_colour = i64(height), i64(width), i64(colour)
        offset = (BORDER << 16) + (16 if blend else 32768)  # half a weight, or half a pixel
        step[0], step[1] = (a + 32768) >> 16, (b + 32768) >> 16
        step[2], step[3] = (d + 32768) >> 16, (e + 32768) >> 16
        num_x, num_y = (samples[item, 0], samples[item, 1]) if blend and not general else (1, 1)
        for y in range(0, out_height, rows):
            n = min(rows, out_height - y) * out_width
            if general:
                _general_positions(
                    us[:n], vs[:n], i64(y), i64(out_width), m, displaced[item, 0], lattices, across, down,
                    weights_x, weights_y,
                )  # fmt: skip
                if mode == _REFLECT:
                    for i in range(n):
                        us[i], vs[i] = _reflect(us[i], i64(width)), _reflect(vs[i], i64(height))
                _place(us[:n], vs[:n], i64(offset), i64(width), i64(height), blend, index, fractions)
                if blend:
                    _gather_pairs(plane, index[:n], u64(stride), upper, lower)
                    _blend(upper_halves, lower_halves, fractions, pixels[:n])
                else:
                    _gather(plane, index, pixels[:n])
            elif num_x * num_y > 1:
                odd[:n], even[:n] = u32(0), u32(0)
                for j in range(num_y):
                    for i in range(num_x):
                        # Sub-samples lie evenly over the output pixel's own square.
                        right = a * (2 * i + 1 - num_x) // (2 * num_x) + b * (2 * j + 1 - num_y) // (2 * num_y)
                        below = d * (2 * i + 1 - num_x) // (2 * num_x) + e * (2 * j + 1 - num_y) // (2 * num_y)
                        u0 = i32(((b * y + c + right + 32768) >> 16) + offset)
                        v0 = i32(((e * y + f + below + 32768) >> 16) + offset)
                        _bilinear_positions(index[:n], fractions[:n], xs, ys, u0, v0, step, i32(width), i32(height))
                        _gather_pairs(plane, index[:n], u64(stride), upper, lower)
                        _blend(upper_halves, lower_halves, fractions, pixels[:n])
                        _add(pixels[:n], odd, even)
                _average(odd, even, u32((65536 + num_x * num_y // 2) // (num_x * num_y)), pixels[:n])
            else:
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


@dataclass(frozen=True)
class Displacement:
    """Smooth displacements of some output pictures: lattices of control points for uniform cubic B-splines.

    Args:
        rows: int64 (K,), which pictures of the batch.
        lattices: float64 (2, side, side, K), across and down, in pixels.
    """

    rows: Int64Array
    lattices: Float64Array


def warp(
    images_NHWC: UInt8Array,
    inverse: Float64Array,
    *,
    fill: tuple[int, int, int] | str = (0, 0, 0),
    bilinear: bool = False,
    out_size: tuple[int, int] | None = None,
    displacement: Displacement | None = None,
    fine: bool = False,
    out: UInt8Array | None = None,
) -> UInt8Array:
    """Sample each picture once, through its own map.

    Where a map shrinks by more than half a pixel, bilinear sampling averages several samples spread over the output
    pixel, so that nothing aliases.

    Args:
        images_NHWC: uint8 (N, H, W, 3), C-contiguous; may be read-only.
        inverse: maps of `ops/maps.py` from output pixel centres to source pixel centres, float64 (6, N) or (9, N).
        fill: what lies outside the source: an RGB colour, or `mean` (each picture's own average), `edge` (the nearest
            pixel), `reflect` (the picture mirrored, the edge not repeated).
        bilinear: blend four neighbours, the fill among them, instead of taking the nearest pixel.
        out_size: (height, width) of the output; that of the source by default.
        displacement: of the output pixels, before the maps.
        fine: average several samples as soon as a map shrinks: pictures are smoother, and cost more.
        out: uint8 (N, height, width, 3), C-contiguous, to write to.

    Returns:
        uint8 (N, height, width, 3).

    Raises:
        ValueError: a picture, or a position that a map leads to, is more than 32,000 pixels from the origin.
    """
    num, height, width, _ = images_NHWC.shape
    places = np.empty((num, 3), np.int64)
    places[:, 0] = np.arange(num) * (height * width * 3)
    places[:, 1], places[:, 2] = height, width
    return _warp_places(
        images_NHWC.reshape(-1), places, inverse, fill, bilinear, out_size or (height, width), displacement, fine, out
    )


def warp_each(
    pictures: Sequence[UInt8Array],
    inverse: Float64Array,
    out_size: tuple[int, int],
    *,
    fill: tuple[int, int, int] | str = (0, 0, 0),
    bilinear: bool = False,
    displacement: Displacement | None = None,
) -> UInt8Array:
    """As `warp`, of pictures that each have a size of their own.

    Args:
        pictures: N of uint8 (H, W, 3).
        inverse: maps from the output, of `out_size`, to each picture.
        out_size: (height, width) of all that comes out.
        fill, bilinear, displacement: as in `warp`.

    Returns:
        uint8 (N, height, width, 3).

    Raises:
        ValueError: as `warp`; or a picture is empty.
    """
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int64).reshape(-1, 2)
    if (sizes == 0).any():
        raise ValueError("a picture of no pixels cannot be sampled")
    bytes_each = 3 * sizes[:, 0] * sizes[:, 1]
    starts = np.cumsum(bytes_each) - bytes_each
    octets = np.concatenate(
        [np.ascontiguousarray(picture).reshape(-1) for picture in pictures] or [np.empty(0, np.uint8)]
    )
    places = np.concatenate([starts[:, None], sizes], axis=1)
    return _warp_places(octets, places, inverse, fill, bilinear, out_size, displacement, False, None)


def _warp_places(
    octets: UInt8Array,
    places: Int64Array,
    inverse: Float64Array,
    fill: tuple[int, int, int] | str,
    bilinear: bool,
    out_size: tuple[int, int],
    displacement: Displacement | None,
    fine: bool,
    out: UInt8Array | None,
) -> UInt8Array:
    num, (out_height, out_width) = len(places), out_size
    check_reach(inverse, places, out_size)
    if out is None:
        out = np.empty((num, out_height, out_width, 3), np.uint8)
    if out.size == 0 or octets.size == 0:
        out[:] = (0, 0, 0) if isinstance(fill, str) else fill
        return out
    in_words = (
        octets.ctypes.data % 4 == 0 and not (places[:, 0] % 4).any() and not (np.prod(places[:, 1:], 1) % 4).any()
    )
    words = octets.view(np.uint32) if in_words else np.empty(0, np.uint32)
    maps, samples = fixed_maps(inverse), samples_each(inverse, bilinear, fine)
    displaced = np.full((num, 1), -1, np.int64)
    lattices = np.zeros((1, 2, 4, 4), np.int32)
    if displacement is not None:
        displaced[displacement.rows, 0] = np.arange(len(displacement.rows))
        lattices = fixed_lattices(displacement)
    weights_x, weights_y = (spline_weights(side, lattices.shape[-1] - 3) for side in (out_width, out_height))
    mode = _MODES[fill] if isinstance(fill, str) else _COLOUR
    colour = np.uint32(0) if isinstance(fill, str) else np.uint32(fill[0] | fill[1] << 8 | fill[2] << 16)
    into = out.reshape(num, -1)
    _warp(
        octets, words, places, maps, samples, colour, mode, bilinear, displaced, lattices, weights_x, weights_y,
        out_height, out_width, into,
    )  # fmt: skip
    return out


def fixed_maps(inverse: Float64Array) -> Int64Array:
    """Maps in 2^-32, int64 (N, 9); the last row of affine ones is 0, 0, 1."""
    maps = np.zeros((inverse.shape[1], 9), np.int64)
    maps[:, : len(inverse)] = np.rint(inverse * 2.0**32).astype(np.int64).T
    if len(inverse) == 6:
        maps[:, 8] = 1 << 32
    return maps


def samples_each(inverse: Float64Array, bilinear: bool, fine: bool = False) -> Int64Array:
    """Of each output pixel, across and down, int64 (N, 2): as many as source pixels, rounded, or all but rounded up."""
    samples = np.ones((inverse.shape[1], 2), np.int64)
    if bilinear:
        a, b, _, d, e, _ = inverse[:6]
        for axis, length in enumerate((np.sqrt(a * a + d * d), np.sqrt(b * b + e * e))):
            samples[:, axis] = np.ceil(length - _SHARP) if fine else np.rint(length)
        np.clip(samples, 1, MAX_SAMPLES, out=samples)
    return samples


def fixed_lattices(displacement: Displacement) -> Int32Array:
    """Its lattices in 2^-16 pixels, int32 (K, 2, side, side), C-contiguous."""
    return np.ascontiguousarray(np.rint(np.moveaxis(displacement.lattices, -1, 0) * 65536).astype(np.int32))


def check_reach(inverse: Float64Array, places: Int64Array, out_size: tuple[int, int]) -> None:
    """Positions must fit into the kernel's fixed point; those of projective maps are held to it where they arise.

    Args:
        inverse: the maps.
        places: int64 (N, 3), where each source begins, its height and its width; or as `(1, 3)` one for all.
        out_size: (height, width) of the output.

    Raises:
        ValueError: they do not.
    """
    out_height, out_width = out_size
    sides = max(int(places[:, 1:].max(initial=0)), out_height, out_width)
    a, b, c, d, e, f = np.abs(inverse[:6])
    farthest = np.maximum(a * out_width + b * out_height + c, d * out_width + e * out_height + f)
    reach = np.max(farthest, initial=sides)
    if not reach < MAX_POSITION:  # which NaN is not, either
        raise ValueError(f"a position {reach:,.0f} pixels from the origin is beyond the {MAX_POSITION:,} supported")


@lru_cache(maxsize=64)
def spline_weights(side: int, cells: int) -> Int64Array:
    """Of each output pixel along a side: its cell of the lattice and four weights that sum to 4,096, int64 (side, 5).

    Uniform cubic B-splines (de Boor, A practical guide to splines, 1978).
    """
    t = (np.arange(side) + 0.5) * (cells / side)
    cell = np.minimum(np.floor(t), cells - 1)
    t -= cell
    weights = np.empty((side, 5), np.int64)
    weights[:, 0] = cell
    weights[:, 1] = np.rint((1 - t) * (1 - t) * (1 - t) * (4096 / 6))
    weights[:, 2] = np.rint((3 * t * t * t - 6 * t * t + 4) * (4096 / 6))
    weights[:, 4] = np.rint(t * t * t * (4096 / 6))
    weights[:, 3] = 4096 - weights[:, 1] - weights[:, 2] - weights[:, 4]
    weights.flags.writeable = False
    return weights


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
