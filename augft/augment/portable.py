"""exp, log, sine and cosine with the same bits on every machine.

The last bit of a platform's own differs from machine to machine, and a drawn parameter must not. So each is a
polynomial of float64 additions and multiplications in one written order, one NumPy call each, that no compiler fuses;
all are right to within a few units in the last place.
"""

from __future__ import annotations

import numpy as np

from augft.augment.draw import Float64Array

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # fdlibm: the high part has 33 bits
_EXP = tuple(1.0 / factor for factor in (1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600))
_LOG = tuple(2.0 / odd for odd in (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21))

# fdlibm (Sun Microsystems, 1993), for ±45°.
_SIN: tuple[float, ...] = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
    2.75573137070700676789e-06,
    -2.50507602534068634195e-08,
    1.58969099521155010221e-10,
)
_COS: tuple[float, ...] = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
    -2.75573143513906633035e-07,
    2.08757232129817482790e-09,
    -1.13596475577881948265e-11,
)


def exp(x: Float64Array) -> Float64Array:
    """e to the power of x, float64 of any shape, for |x| below 700."""
    power = np.rint(x * (1 / _LN2_HIGH))
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    result: Float64Array = np.ldexp(_horner(rest, _EXP), power.astype(np.int32))
    return result


def log(x: Float64Array) -> Float64Array:
    """The natural logarithm, float64 of any shape, x above 0."""
    mantissa, power = np.frexp(x)
    small = mantissa < np.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    power = np.where(small, power - 1, power).astype(np.float64)
    s = (mantissa - 1) / (mantissa + 1)
    result: Float64Array = (power * _LN2_LOW + s * _horner(s * s, _LOG)) + power * _LN2_HIGH
    return result


def sin_cos_degrees(angle: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Sine and cosine of degrees, float64 of any shape: exact at quarter turns."""
    quarters = np.rint(angle / 90)
    x = (angle - 90 * quarters) * (np.pi / 180)
    square = x * x
    sin = x + x * square * _horner(square, _SIN)
    cos = 1 - 0.5 * square + square * square * _horner(square, _COS)
    turn = quarters.astype(np.int64) % 4
    odd, negative_sin, negative_cos = turn % 2 == 1, turn >= 2, (turn == 1) | (turn == 2)
    sin, cos = np.where(odd, cos, sin), np.where(odd, sin, cos)
    return np.where(negative_sin, -sin, sin), np.where(negative_cos, -cos, cos)


def _horner(x: Float64Array, coefficients: tuple[float, ...]) -> Float64Array:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
