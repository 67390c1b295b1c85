"""Blurs: of a lens, of frosted glass, of motion, of zooming. Lengths grow with the picture."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from augft.assess.corrupt.draws import Draws, Float32Array
from augft.augment.draw import Float64Array, IntArray

REFERENCE_SIZE = 32
"""Pixels of the shorter side that lengths are given for."""

DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
"""Radius of the disk, and sigma of what softens its edge."""
GLASS = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
"""Sigma of the blur, how far pixels move, how often."""
MOTION = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
"""Radius and sigma."""
ZOOM = (1.06, 1.11, 1.16, 1.21, 1.26)
"""The largest factor, exclusive; each 0.01 from 1 on is one exposure."""

_LEAST_WEIGHT = 1e-5
"""A tap of a kernel below it moves no grey level."""


def scale_of(x: Float32Array) -> float:
    """How much larger than the reference a batch's pictures are."""
    return int(min(x.shape[1:3])) / REFERENCE_SIZE


def defocus_blur(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """A lens out of focus: the average over a disk."""
    radius, sigma = (scale_of(x) * length for length in DEFOCUS[level])
    return _filtered(x, _disk(radius, sigma))


def glass_blur(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Frosted glass: each pixel but those at the border shows a near one, between two soft blurs.

    The benchmark's own program means to swap them, and copies; so do we: a swap would carry pixels far along.
    """
    scale = scale_of(x)
    sigma, reach, times = GLASS[level]
    reach = max(1, round(scale * reach))
    blur = (0, scale * sigma, scale * sigma, 0)
    moved = np.floor(gaussian_filter(x, blur, mode="nearest") * 255 + np.float32(1e-3)).astype(np.uint8)
    num, height, width, _ = x.shape
    inner = (slice(None), slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    for time in range(times):
        words = draws.words(f"places/{time}", (2, height, width)).astype(np.uint64)
        steps = (words * np.uint64(2 * reach) >> np.uint64(32)).astype(np.int64) - reach
        there = (np.arange(num)[:, None, None], (rows + steps[:, 0])[inner], (columns + steps[:, 1])[inner])
        moved[inner] = moved[there]
    return gaussian_filter(moved.astype(np.float32) / 255, blur, mode="nearest")  # type: ignore[no-any-return]


def motion_blur(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """The camera moves, up to 45° off the horizontal."""
    radius, sigma = MOTION[level]
    return smeared(x, scale_of(x) * radius, scale_of(x) * sigma, draws.uniform("angle", low=-45, high=45))


def zoom_blur(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """The camera comes nearer: the average over exposures."""
    factors = np.arange(1, ZOOM[level], 0.01)
    total = x.copy()
    for factor in factors.tolist():
        total += zoomed(x, factor)
    return total / np.float32(len(factors) + 1)


def smeared(x: Float32Array, radius: float, sigma: float, degrees: Float64Array) -> Float32Array:
    """Half a Gaussian along a line, from each pixel on, as ImageMagick blurs motion; the border is repeated.

    Args:
        x: float32 (N, H, W, C).
        radius: of the kernel, in pixels.
        sigma: of the Gaussian, in pixels.
        degrees: float64 (N,), the line's angle to the x axis.
    """
    taps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights = _without_specks(weights)
    angle = np.deg2rad(degrees)
    each = np.arange(len(x))[:, None, None]
    height, width = x.shape[1:3]
    total = np.zeros_like(x)
    for tap, weight in zip(taps.tolist(), weights.tolist(), strict=True):
        if weight:
            down, right = (np.ceil(tap * f(angle) - 0.5).astype(np.int64)[:, None] for f in (np.sin, np.cos))
            rows = np.clip(np.arange(height) + down, 0, height - 1)
            columns = np.clip(np.arange(width) + right, 0, width - 1)
            total += np.float32(weight) * x[each, rows[:, :, None], columns[:, None, :]]
    return total


def zoomed(x: Float32Array, factor: float) -> Float32Array:
    """The middle, enlarged linearly to the whole: float32 (N, H, W, C) → the same shape."""
    for axis in (1, 2):
        size = x.shape[axis]
        kept = math.ceil(size / factor)
        large = round(kept * factor)
        places = np.arange(large) * ((kept - 1) / max(1, large - 1))
        places = places[(large - size) // 2 :][:size]
        first = np.minimum(places.astype(np.int64), kept - 1)
        rest = (places - first).astype(np.float32).reshape(-1, *(1,) * (x.ndim - axis - 1))
        first += (size - kept) // 2
        after = np.minimum(first + 1, (size - kept) // 2 + kept - 1)
        x = np.take(x, first, axis) * (1 - rest) + np.take(x, after, axis) * rest
    return x


def _disk(radius: float, sigma: float) -> Float64Array:
    """A disk whose edge is softened, float64 (K, K), of sum 1."""
    reach = math.ceil(radius) + (1 if radius <= 8 else 2)
    soft = 1 if radius <= 8 else 2
    line = np.arange(-reach, reach + 1)
    disk = (line[:, None] ** 2 + line[None, :] ** 2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    gauss = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * sigma**2))
    gauss /= gauss.sum()
    for axis in (0, 1):
        disk = np.apply_along_axis(np.convolve, axis, disk, gauss, "same")
    return disk


def _filtered(x: Float32Array, kernel: Float64Array) -> Float32Array:
    """A symmetric kernel over each channel, the border mirrored, tap by tap: so no sum depends on the batch."""
    reach = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    height, width = x.shape[1:3]
    total = np.zeros_like(x)
    kernel = _without_specks(kernel)
    taps: IntArray = np.argwhere(kernel)
    for i, j in taps.tolist():
        total += np.float32(kernel[i, j]) * padded[:, i : i + height, j : j + width]
    return total


def _without_specks(weights: Float64Array) -> Float64Array:
    """Weights of sum 1, those that would move no grey level left out."""
    kept = np.where(weights >= _LEAST_WEIGHT * weights.sum(), weights, 0.0)
    kept /= kept.sum()
    return kept
