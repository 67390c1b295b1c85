"""The table of ops: what each draws, and what it composes to.

An op is a class: its fields are its parameters (typed, bounded, in physical units), its class variables the
row of the table. Drawing and geometry are apart: `values` turns uniform numbers into physical values
(degrees, pixels, fractions), `inverse` turns values into maps, so a draw can be shown, stored and applied
again. A geometric op gives the affine map from an output pixel to the place it is taken from; the maps of all
ops compose to one, which is sampled once. A new geometric op is a new class and a line in `OPS`; ops of
another kind (tables, colour, what runs after) derive from `Op` beside `GeometryOp`.

Only additions, multiplications and comparisons of float64 are used here, one NumPy call each, never the
platform's sin and cos: the last bit of those differs from machine to machine, and pixels must not.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from augft.augment.draw import Float64Array


class Size(NamedTuple):
    """Of a picture, in pixels."""

    height: int
    width: int


class Op(BaseModel):
    """One op with its parameters; `p` is the probability that a sample gets it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: ClassVar[str]
    num_values: ClassVar[int]
    """Uniform numbers `values` takes, and values it gives, for each sample."""
    source: ClassVar[str]
    """Where the op comes from: a paper, or the implementation it agrees with."""

    p: float = Field(default=1.0, ge=0, le=1, description="probability that a sample gets this op")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Uniform numbers in [0, 1), float64 (num_values, N), to physical values of the same shape."""
        raise NotImplementedError

    def label(self, values: Float64Array) -> str:
        """What a person calls this op with these values, float64 (num_values,): "rotate +7.3°"."""
        raise NotImplementedError


class GeometryOp(Op):
    """An op that moves pixels by an affine map."""

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        """float64 (num_values, N) → float64 (6, N): rows a b c d e f of u = a·x + b·y + c, v = d·x + e·y + f.

        (x, y) is the centre of an output pixel and (u, v) its place in the source, in pixels; the centre of
        the first pixel is (0, 0), so the middle of a picture is ((width - 1) / 2, (height - 1) / 2).
        """
        raise NotImplementedError


# -- the ops ---------------------------------------------------------------------------------------


class HorizontalFlip(GeometryOp):
    """Mirror left and right."""

    name = "horizontal_flip"
    num_values = 0
    source = "torchvision RandomHorizontalFlip"

    p: float = Field(default=0.5, ge=0, le=1, description="probability that a sample gets this op")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return uniforms

    def label(self, values: Float64Array) -> str:
        return "flip ↔"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _affine(values.shape[1], a=-1, c=size.width - 1)


class VerticalFlip(GeometryOp):
    """Mirror top and bottom."""

    name = "vertical_flip"
    num_values = 0
    source = "torchvision RandomVerticalFlip"

    p: float = Field(default=0.5, ge=0, le=1, description="probability that a sample gets this op")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return uniforms

    def label(self, values: Float64Array) -> str:
        return "flip ↕"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _affine(values.shape[1], e=-1, f=size.height - 1)


class Rotate(GeometryOp):
    """Turn about the middle, by an angle uniform in ±degrees; positive is counter-clockwise."""

    name = "rotate"
    num_values = 1
    source = "torchvision RandomRotation"

    degrees: float = Field(default=15.0, ge=0, le=180, description="largest angle either way, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return (2 * uniforms - 1) * self.degrees

    def label(self, values: Float64Array) -> str:
        return f"rotate {_signed(values[0], '.1f')}°"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        sin, cos = sin_cos_degrees(values[0])
        x, y = (size.width - 1) / 2, (size.height - 1) / 2
        c, f = x - (cos * x - sin * y), y - (sin * x + cos * y)
        return _affine(len(sin), a=cos, b=-sin, c=c, d=sin, e=cos, f=f)


class Translate(GeometryOp):
    """Shift by a share of the size, uniform in ±x of the width and ±y of the height, to a whole pixel.

    Whole pixels, as torchvision has it: a shift alone never blurs.
    """

    name = "translate"
    num_values = 2
    source = "torchvision RandomAffine(translate)"

    x: float = Field(default=0.1, ge=0, le=1, description="largest shift sideways, a fraction of the width")
    y: float = Field(default=0.1, ge=0, le=1, description="largest shift up or down, a fraction of the height")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.stack([(2 * uniforms[0] - 1) * self.x, (2 * uniforms[1] - 1) * self.y])

    def label(self, values: Float64Array) -> str:
        return f"translate ({_signed(100 * values[0], '.0f')} %, {_signed(100 * values[1], '.0f')} %)"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _affine(values.shape[1], c=-np.rint(values[0] * size.width), f=-np.rint(values[1] * size.height))


class Crop(GeometryOp):
    """Pad by `padding` pixels on each side and cut the old size out: a shift by whole pixels either way.

    The unit is the pixel, as in torchvision and in the recipes for CIFAR (4 of 32): at another size give
    another number, or use `translate`, which takes fractions.
    """

    name = "crop"
    num_values = 2
    source = "He et al., Deep Residual Learning, CVPR 2016; torchvision RandomCrop(size, padding)"

    padding: int = Field(default=4, ge=0, le=4096, description="padding on each side, in pixels")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.floor(uniforms * (2 * self.padding + 1)) - self.padding

    def label(self, values: Float64Array) -> str:
        return f"crop ({_signed(values[0], '.0f')}, {_signed(values[1], '.0f')})"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _affine(values.shape[1], c=values[0], f=values[1])


OPS: dict[str, type[Op]] = {op.name: op for op in (HorizontalFlip, VerticalFlip, Rotate, Translate, Crop)}


# -- affine maps -----------------------------------------------------------------------------------


def identity(num: int) -> Float64Array:
    """The map of each pixel to itself, float64 (6, num)."""
    return _affine(num)


def compose(outer: Float64Array, inner: Float64Array) -> Float64Array:
    """outer(inner(x, y)), float64 (6, N). Of inverse maps, the op that is applied later is the inner one."""
    a, b, c, d, e, f = outer
    k, m, n, q, r, s = inner
    return np.stack([a * k + b * q, a * m + b * r, a * n + b * s + c, d * k + e * q, d * m + e * r, d * n + e * s + f])


def sin_cos_degrees(angle: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Sine and cosine of degrees, float64 (N,): exact at quarter turns, the same bits on every machine.

    The polynomials of fdlibm (Sun Microsystems, 1993) on ±45°, evaluated in one written order.
    """
    quarters = np.rint(angle / 90)
    x = (angle - 90 * quarters) * (np.pi / 180)
    square = x * x
    sin = x + x * square * _horner(square, _SIN)
    cos = 1 - 0.5 * square + square * square * _horner(square, _COS)
    turn = quarters.astype(np.int64) % 4
    odd, negative_sin, negative_cos = turn % 2 == 1, turn >= 2, (turn == 1) | (turn == 2)
    sin, cos = np.where(odd, cos, sin), np.where(odd, sin, cos)
    return np.where(negative_sin, -sin, sin), np.where(negative_cos, -cos, cos)


_SIN: tuple[float, ...] = (
    -1.66666666666666324348e-01,
    8.33333333332248946124e-03,
    -1.98412698298579493134e-04,
)
_SIN += (2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10)
_COS: tuple[float, ...] = (
    4.16666666666666019037e-02,
    -1.38888888888741095749e-03,
    2.48015872894767294178e-05,
)
_COS += (-2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11)


def _horner(x: Float64Array, coefficients: tuple[float, ...]) -> Float64Array:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _affine(
    num: int,
    *,
    a: Float64Array | float = 1,
    b: Float64Array | float = 0,
    c: Float64Array | float = 0,
    d: Float64Array | float = 0,
    e: Float64Array | float = 1,
    f: Float64Array | float = 0,
) -> Float64Array:
    result = np.empty((6, num))
    for row, number in zip(result, (a, b, c, d, e, f), strict=True):
        row[:] = number
    return result


def _signed(number: float, form: str) -> str:
    """A number with its sign, a true minus, and no sign on zero: +7.3, −2, 0."""
    text = f"{number:+{form}}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "−")
