"""What happens inside a computer: contrast, warping, coarse pixels, compression."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from augft.assess.corrupt.draws import Draws, Float32Array
from augft.augment.draw import Float64Array, IntArray

CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
"""What differences from the mean are multiplied by."""
ELASTIC = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
"""Strength and sigma of the displacement and reach of the affine part, in units of the shorter side."""
PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)
"""Share of the side that is left."""
JPEG = (80, 65, 58, 50, 40)
"""Quality."""


def contrast(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Less of it: each channel nearer to its mean over the picture."""
    # In float64: a sum in another order then still rounds to the same picture.
    mean = x.mean((1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    less: Float32Array = (x - mean) * np.float32(CONTRAST[level]) + mean
    return less


def elastic_transform(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Small regions stretch: three points of the picture move, then each pixel by a smooth field."""
    strength, sigma, reach = (min(x.shape[1:3]) * part for part in ELASTIC[level])
    height, width = x.shape[1:3]
    inverse = _inverse_affine(draws.uniform("affine", (3, 2), -reach, reach), height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    at_x, at_y = (
        m[:, 0, None, None] * columns + m[:, 1, None, None] * rows + m[:, 2, None, None]
        for m in (inverse[:, 0], inverse[:, 1])
    )
    moved = _sampled(x, at_y, at_x, repeats_edge=False)
    if not strength:
        return moved
    field = draws.uniform("field", (2, height, width), -1, 1)
    field = strength * gaussian_filter(field, (0, 0, sigma, sigma), mode="reflect", truncate=3)
    return _sampled(moved, rows + field[:, 0], columns + field[:, 1], repeats_edge=True)


def pixelate(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Enlarged from fewer pixels."""
    height, width = x.shape[1:3]
    small = max(1, int(width * PIXELATE[level])), max(1, int(height * PIXELATE[level]))

    def coarse(picture: Image.Image) -> Image.Image:
        return picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)

    return _each(x, coarse)


def jpeg_compression(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Compressed and read again."""

    def reread(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=JPEG[level])
        return Image.open(file)

    return _each(x, reread)


def _each(x: Float32Array, change: object) -> Float32Array:
    assert callable(change)
    pictures = [np.asarray(change(Image.fromarray(picture))) for picture in np.rint(255 * x).astype(np.uint8)]
    return np.stack(pictures).astype(np.float32) / np.float32(255)


def _inverse_affine(moves: Float64Array, height: int, width: int) -> Float64Array:
    """The maps back from where three points about the middle go, float64 (N, 2, 3); `moves` is (N, 3, 2) as x, y."""
    middle = np.array([width // 2, height // 2], np.float64)
    side = min(height, width) // 3
    before = middle + side * np.array([(1, 1), (1, -1), (-1, -1)])
    after = np.concatenate([before + moves, np.ones((len(moves), 3, 1))], axis=2)
    maps: Float64Array = np.linalg.solve(after, np.broadcast_to(before, (len(moves), 3, 2))).transpose(0, 2, 1)
    return maps


def _sampled(x: Float32Array, at_y: Float64Array, at_x: Float64Array, *, repeats_edge: bool) -> Float32Array:
    """Linear between the four pixels about each place, (N, H, W); beyond the border the picture is mirrored, its
    edge repeated or not."""
    each = np.arange(len(x))[:, None, None]
    top, left = np.floor(at_y), np.floor(at_x)
    down, right = ((at - whole).astype(np.float32)[..., None] for at, whole in ((at_y, top), (at_x, left)))
    rows = [_mirrored(top.astype(np.int64) + i, x.shape[1], repeats_edge) for i in (0, 1)]
    columns = [_mirrored(left.astype(np.int64) + i, x.shape[2], repeats_edge) for i in (0, 1)]
    upper = x[each, rows[0], columns[0]] * (1 - right) + x[each, rows[0], columns[1]] * right
    lower = x[each, rows[1], columns[0]] * (1 - right) + x[each, rows[1], columns[1]] * right
    blended: Float32Array = np.asarray(upper * (1 - down) + lower * down, np.float32)
    return blended


def _mirrored(places: IntArray, size: int, repeats_edge: bool) -> IntArray:
    if size == 1:
        return np.zeros_like(places)
    period = 2 * size if repeats_edge else 2 * size - 2
    places = places % period
    return np.minimum(places, period - places - (1 if repeats_edge else 0))
