"""Maps of the plane: from the centre of an output pixel (x, y) to its place in the source (u, v), in pixels.

    affine       float64 (6, N), rows a b c d e f:  u = a·x + b·y + c,  v = d·x + e·y + f
    projective   float64 (9, N), three rows more, g h i:  both are divided by g·x + h·y + i

The centre of the first pixel is (0, 0), so the middle of a picture is ((width - 1) / 2, (height - 1) / 2). Additions
and multiplications of float64 alone, one NumPy call each, so that no compiler fuses them and no machine differs.
"""

from __future__ import annotations

import numpy as np

from augft.augment.draw import Float64Array


def affine(
    num: int,
    *,
    a: Float64Array | float = 1,
    b: Float64Array | float = 0,
    c: Float64Array | float = 0,
    d: Float64Array | float = 0,
    e: Float64Array | float = 1,
    f: Float64Array | float = 0,
) -> Float64Array:
    """An affine map of each of `num` samples, float64 (6, num); the identity where nothing else is said."""
    result = np.empty((6, num))
    for row, number in zip(result, (a, b, c, d, e, f), strict=True):
        row[:] = number
    return result


def about(
    x: float,
    y: float,
    a: Float64Array | float,
    b: Float64Array | float,
    d: Float64Array | float,
    e: Float64Array | float,
    num: int,
) -> Float64Array:
    """The affine map of matrix [[a, b], [d, e]] that leaves (x, y) where it is, float64 (6, num)."""
    return affine(num, a=a, b=b, c=x - (a * x + b * y), d=d, e=e, f=y - (d * x + e * y))


def identity(num: int) -> Float64Array:
    """The map of each pixel to itself, float64 (6, num)."""
    return affine(num)


def projective(maps: Float64Array) -> Float64Array:
    """The same maps with all nine rows."""
    if len(maps) == 9:
        return maps
    result = np.zeros((9, maps.shape[1]))
    result[:6] = maps
    result[8] = 1
    return result


def compose(outer: Float64Array, inner: Float64Array) -> Float64Array:
    """outer(inner(x, y)), affine if both are. Of inverse maps, the op that is applied later is the inner one."""
    if len(outer) == len(inner) == 6:
        a, b, c, d, e, f = outer
        k, m, n, q, r, s = inner
        return np.stack(
            [a * k + b * q, a * m + b * r, a * n + b * s + c, d * k + e * q, d * m + e * r, d * n + e * s + f]
        )
    p, q = projective(outer), projective(inner)
    result = np.empty_like(p)
    for i in range(3):
        for j in range(3):
            result[3 * i + j] = p[3 * i] * q[j] + p[3 * i + 1] * q[3 + j] + p[3 * i + 2] * q[6 + j]
    return result
