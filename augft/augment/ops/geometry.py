"""Ops that move pixels. All of a sample's compose to one map, and its picture is sampled once.

`inverse` gives the map of `maps.py` from an output pixel to its source. Elastic deformation is no such map: it is a
displacement of the output pixels before all maps, whatever its place in the policy.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from augft.augment.draw import Float64Array
from augft.augment.ops.maps import about, affine
from augft.augment.ops.op import Op, Size, between, bounded, log_between, signed
from augft.augment.portable import sin_cos_degrees


class GeometryOp(Op):
    """An op that moves pixels by a map of the plane."""

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        """float64 (num_values, K) → maps, float64 (6, K) or (9, K), from output pixels to their sources."""
        raise NotImplementedError


class HorizontalFlip(GeometryOp):
    """Mirror left and right."""

    name = "horizontal_flip"
    num_values = 0
    source = "torchvision RandomHorizontalFlip"

    p: float = Field(default=0.5, ge=0, le=1, description="probability that a sample gets this op")

    def label(self, values: Float64Array) -> str:
        return "flip ↔"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return affine(values.shape[1], a=-1, c=size.width - 1)


class VerticalFlip(GeometryOp):
    """Mirror top and bottom."""

    name = "vertical_flip"
    num_values = 0
    source = "torchvision RandomVerticalFlip"

    p: float = Field(default=0.5, ge=0, le=1, description="probability that a sample gets this op")

    def label(self, values: Float64Array) -> str:
        return "flip ↕"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return affine(values.shape[1], e=-1, f=size.height - 1)


class Rotate90(GeometryOp):
    """Turn by a quarter, a half or three quarters, each as likely; exact on square pictures.

    A picture that is not square keeps its size: what sticks out is lost, what is missing is filled.
    """

    name = "rotate90"
    source = "Cohen and Welling, Group equivariant convolutional networks, ICML 2016; numpy.rot90"

    def values(self, uniforms: Float64Array) -> Float64Array:
        return 90 * (1 + np.floor(3 * uniforms))

    def label(self, values: Float64Array) -> str:
        return f"rotate {values[0]:.0f}°"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _turn(values[0], size)


class Rotate(GeometryOp):
    """Turn about the middle, by an angle uniform in ±degrees; positive is counter-clockwise."""

    name = "rotate"
    source = "torchvision RandomRotation"

    degrees: float = Field(default=15.0, ge=0, le=180, description="largest angle either way, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return (2 * uniforms - 1) * self.degrees

    def label(self, values: Float64Array) -> str:
        return f"rotate {signed(values[0], '.1f')}°"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _turn(values[0], size)


class Translate(GeometryOp):
    """Shift, uniform in ±x of the width and ±y of the height, to a whole pixel.

    Whole pixels, as torchvision has it: a shift alone never blurs.
    """

    name = "translate"
    num_values = 2
    source = "torchvision RandomAffine(translate)"

    x: float = Field(default=0.1, ge=0, description="largest shift sideways, in units of the width, or in pixels")
    y: float = Field(default=0.1, ge=0, description="largest shift up or down, in units of the height, or in pixels")
    unit: Literal["fraction", "pixel"] = Field(default="fraction", description="what x and y are given in")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.stack([(2 * uniforms[0] - 1) * self.x, (2 * uniforms[1] - 1) * self.y])

    def label(self, values: Float64Array) -> str:
        if self.unit == "pixel":
            return f"translate ({signed(values[0], '.0f')}, {signed(values[1], '.0f')})"
        return f"translate ({signed(100 * values[0], '.0f')} %, {signed(100 * values[1], '.0f')} %)"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        width, height = (size.width, size.height) if self.unit == "fraction" else (1, 1)
        return affine(values.shape[1], c=-np.rint(values[0] * width), f=-np.rint(values[1] * height))


class Shear(GeometryOp):
    """Slant about the middle: rows shift by tan(x) of their height, columns by tan(y) of theirs."""

    name = "shear"
    num_values = 2
    source = "torchvision RandomAffine(shear)"

    x: float = Field(default=15.0, ge=0, le=60, description="largest angle of the columns, in degrees")
    y: float = Field(default=0.0, ge=0, le=60, description="largest angle of the rows, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.stack([(2 * uniforms[0] - 1) * self.x, (2 * uniforms[1] - 1) * self.y])

    def label(self, values: Float64Array) -> str:
        angles = [f"{axis} {signed(angle, '.0f')}°" for axis, angle in zip("xy", values, strict=True) if angle]
        return f"shear {' '.join(angles) or '0°'}"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return _affine_about_middle(size, np.zeros(values.shape[1]), np.ones(values.shape[1]), values[0], values[1])


class Scale(GeometryOp):
    """Enlarge or shrink about the middle, by a factor uniform in its logarithm."""

    name = "scale"
    source = "torchvision RandomAffine(scale)"

    factor: bounded(0.1, 10) = Field(default=(0.8, 1.25), description="smallest and largest factor")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return log_between(uniforms, self.factor)

    def label(self, values: Float64Array) -> str:
        return f"scale ×{values[0]:.2f}"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        nothing = np.zeros(values.shape[1])
        return _affine_about_middle(size, nothing, values[0], nothing, nothing)


class Affine(GeometryOp):
    """Rotation, shift, scale and shear in one, as torchvision's RandomAffine has them."""

    name = "affine"
    num_values = 6
    source = "torchvision RandomAffine"

    degrees: float = Field(default=15.0, ge=0, le=180, description="largest angle either way, in degrees")
    x: float = Field(default=0.1, ge=0, le=1, description="largest shift sideways, a fraction of the width")
    y: float = Field(default=0.1, ge=0, le=1, description="largest shift up or down, a fraction of the height")
    factor: bounded(0.1, 10) = Field(default=(0.9, 1.1), description="smallest and largest scale")  # type: ignore[valid-type]
    shear_x: float = Field(default=10.0, ge=0, le=60, description="largest angle of the columns, in degrees")
    shear_y: float = Field(default=0.0, ge=0, le=60, description="largest angle of the rows, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        either_way = 2 * uniforms - 1
        return np.stack(
            [
                either_way[0] * self.degrees,
                either_way[1] * self.x,
                either_way[2] * self.y,
                between(uniforms[3], self.factor),
                either_way[4] * self.shear_x,
                either_way[5] * self.shear_y,
            ]
        )

    def label(self, values: Float64Array) -> str:
        degrees, x, y, factor, *shears = values
        shift = f"({signed(100 * x, '.0f')} %, {signed(100 * y, '.0f')} %)"
        slants = " ".join(f"{axis} {signed(angle, '.0f')}°" for axis, angle in zip("xy", shears, strict=True) if angle)
        return f"affine {signed(degrees, '.0f')}° {shift} ×{factor:.2f}" + (f" shear {slants}" if slants else "")

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        degrees, x, y, factor, shear_x, shear_y = values
        maps = _affine_about_middle(size, degrees, factor, shear_x, shear_y)
        shift_x, shift_y = np.rint(x * size.width), np.rint(y * size.height)
        maps[2] -= maps[0] * shift_x + maps[1] * shift_y
        maps[5] -= maps[3] * shift_x + maps[4] * shift_y
        return maps


class Crop(GeometryOp):
    """Pad by `padding` pixels on each side and cut the old size out: a shift by whole pixels either way.

    The unit is the pixel, as in torchvision and in the recipes for CIFAR (4 of 32): at another size give
    another number, or use `translate`, which takes fractions.
    """

    name = "crop"
    num_values = 2
    source = "He et al., Deep residual learning, CVPR 2016; torchvision RandomCrop(size, padding)"

    padding: int = Field(default=4, ge=0, le=4096, description="padding on each side, in pixels")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.floor(uniforms * (2 * self.padding + 1)) - self.padding

    def label(self, values: Float64Array) -> str:
        return f"crop ({signed(values[0], '.0f')}, {signed(values[1], '.0f')})"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return affine(values.shape[1], c=values[0], f=values[1])


class CenterCrop(GeometryOp):
    """Cut the middle out, a share of each side, and enlarge it to the whole size."""

    name = "center_crop"
    num_values = 0
    source = "torchvision CenterCrop, and Resize after it"

    share: float = Field(default=0.875, gt=0, le=1, description="share of each side that is kept")

    def label(self, values: Float64Array) -> str:
        return f"center crop {self.share:.0%}"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        height = np.full(values.shape[1], max(1.0, float(np.rint(self.share * size.height))))
        width = np.full(values.shape[1], max(1.0, float(np.rint(self.share * size.width))))
        top, left = np.rint((size.height - height) / 2), np.rint((size.width - width) / 2)
        return box(top, left, height, width, size)


class ResizedCrop(GeometryOp):
    """Cut a box of random area, shape and place out, and enlarge it to the whole size.

    Area is uniform, the ratio of width to height uniform in its logarithm, the place uniform, all in whole pixels. A
    box wider or higher than the picture is cut to it, where torchvision would draw again.
    """

    name = "resized_crop"
    num_values = 4
    source = "Szegedy et al., Going deeper with convolutions, CVPR 2015; torchvision RandomResizedCrop"

    scale: bounded(0.01, 1) = Field(default=(0.08, 1.0), description="smallest and largest share of the area")  # type: ignore[valid-type]
    ratio: bounded(0.1, 10) = Field(default=(3 / 4, 4 / 3), description="smallest and largest width over height")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Area, ratio, and where in the room that is left, across and down."""
        return np.stack(
            [between(uniforms[0], self.scale), log_between(uniforms[1], self.ratio), uniforms[2], uniforms[3]]
        )

    def label(self, values: Float64Array) -> str:
        area, ratio, across, down = values
        return f"resized crop {area:.0%} {ratio:.2f}:1 at ({across:.0%}, {down:.0%})"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        return self.framed(values, size, size)

    def framed(self, values: Float64Array, source: Size, size: Size) -> Float64Array:
        """The maps, float64 (6, K), from pictures of `size` to boxes of a source of another size."""
        area, ratio, across, down = values
        pixels = area * (source.height * source.width)
        width = np.clip(np.rint(np.sqrt(pixels * ratio)), 1, source.width)
        height = np.clip(np.rint(np.sqrt(pixels / ratio)), 1, source.height)
        left = np.floor(across * (source.width - width + 1))
        top = np.floor(down * (source.height - height + 1))
        return box(top, left, height, width, size)


class Perspective(GeometryOp):
    """View from another side: each corner moves inwards by up to half of `distortion` of the size.

    From two thirds on, three corners could come to lie in a line, and the picture would fold there.
    """

    name = "perspective"
    num_values = 8
    source = "torchvision RandomPerspective"

    distortion: float = Field(default=0.4, ge=0, le=0.6, description="how far corners move, 0 to 0.6")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """How far the corners move: across then down, top left, top right, bottom right, bottom left."""
        return uniforms * (self.distortion / 2)

    def label(self, values: Float64Array) -> str:
        return f"perspective {values.max(initial=0):.0%}"

    def inverse(self, values: Float64Array, size: Size) -> Float64Array:
        # In units of the last pixel's centre the source is the unit square, and its corners move to four points.
        x = np.stack([values[0], 1 - values[2], 1 - values[4], values[6]])
        y = np.stack([values[1], values[3], 1 - values[5], 1 - values[7]])
        forward = _square_to_quad(x, y)
        inverse = _adjugate(forward)
        right, bottom = max(1, size.width - 1), max(1, size.height - 1)
        # A common factor changes nothing. 1 at the middle, which is always in view, makes it positive where one looks.
        inverse /= 0.5 * (inverse[6] + inverse[7]) + inverse[8]
        # S · inverse · S^-1, with S from units to pixels.
        for column, unit in ((0, right), (1, bottom)):
            inverse[column::3] *= 1 / unit
        inverse[:3] *= right
        inverse[3:6] *= bottom
        return inverse


class Elastic(Op):
    """Deform smoothly: a lattice of random displacements, interpolated by cubic B-splines.

    It displaces the output's pixels before all maps, so it is the last of a policy's geometry. A policy has one.
    """

    name = "elastic"
    source = (
        "Simard et al., Best practices for convolutional neural networks, ICDAR 2003; "
        "the coarse grid of Ronneberger et al., U-Net, MICCAI 2015"
    )

    strength: float = Field(
        default=0.1, ge=0, le=1, description="largest displacement of a lattice point, in units of the size"
    )
    cells: int = Field(default=4, ge=1, le=16, description="cells of the lattice on each side")

    @property
    def side(self) -> int:
        """Lattice points on each side: splines reach over the border."""
        return self.cells + 3

    @property
    def num_values(self) -> int:  # type: ignore[override]
        return 2 * self.side * self.side

    def values(self, uniforms: Float64Array) -> Float64Array:
        return (2 * uniforms - 1) * self.strength

    def label(self, values: Float64Array) -> str:
        return f"elastic {np.abs(values).max(initial=0):.0%}"

    def lattice(self, values: Float64Array, size: Size) -> Float64Array:
        """Displacements in pixels, float64 (2, side, side, K): across and down, by row and column."""
        lattice = values.reshape(2, self.side, self.side, -1).copy()
        lattice[0] *= size.width
        lattice[1] *= size.height
        return lattice


def _turn(degrees: Float64Array, size: Size) -> Float64Array:
    sin, cos = sin_cos_degrees(degrees)
    x, y = (size.width - 1) / 2, (size.height - 1) / 2
    c, f = x - (cos * x - sin * y), y - (sin * x + cos * y)
    return affine(len(sin), a=cos, b=-sin, c=c, d=sin, e=cos, f=f)


def _affine_about_middle(
    size: Size, degrees: Float64Array, factor: Float64Array, shear_x: Float64Array, shear_y: Float64Array
) -> Float64Array:
    """torchvision's matrix of rotation, shears and scale, inverted; its angle is clockwise, `degrees` is not."""
    sin, cos = sin_cos_degrees(-degrees - shear_y)
    cos_y = sin_cos_degrees(shear_y)[1]
    sin_x, cos_x = sin_cos_degrees(shear_x)
    tan_x = sin_x / cos_x
    sin_turn, cos_turn = sin_cos_degrees(-degrees)
    a = cos / cos_y
    b = -(cos * tan_x / cos_y) - sin_turn
    d = sin / cos_y
    e = -(sin * tan_x / cos_y) + cos_turn
    # [[a, b], [d, e]] has determinant 1: its inverse needs no division.
    x, y = (size.width - 1) / 2, (size.height - 1) / 2
    scale = 1 / factor
    return about(x, y, e * scale, -b * scale, -d * scale, a * scale, len(a))


def box(top: Float64Array, left: Float64Array, height: Float64Array, width: Float64Array, size: Size) -> Float64Array:
    """The map of the whole size onto a box of the source, edges onto edges."""
    a, e = width / max(1, size.width), height / max(1, size.height)
    return affine(len(a), a=a, c=left + 0.5 * a - 0.5, e=e, f=top + 0.5 * e - 0.5)


def _square_to_quad(x: Float64Array, y: Float64Array) -> Float64Array:
    """Projective maps of the unit square's corners (0, 0), (1, 0), (1, 1), (0, 1) to points, float64 (9, K).

    Each up to a factor: nothing is divided.

    Heckbert, "Fundamentals of texture mapping and image warping", 1989. x and y are float64 (4, K).
    """
    dx1, dx2, dx3 = x[1] - x[2], x[3] - x[2], x[0] - x[1] + x[2] - x[3]
    dy1, dy2, dy3 = y[1] - y[2], y[3] - y[2], y[0] - y[1] + y[2] - y[3]
    det = dx1 * dy2 - dx2 * dy1
    g = dx3 * dy2 - dx2 * dy3
    h = dx1 * dy3 - dx3 * dy1
    return np.stack(
        [
            det * (x[1] - x[0]) + g * x[1],
            det * (x[3] - x[0]) + h * x[3],
            det * x[0],
            det * (y[1] - y[0]) + g * y[1],
            det * (y[3] - y[0]) + h * y[3],
            det * y[0],
            g,
            h,
            det,
        ]
    )


def _adjugate(maps: Float64Array) -> Float64Array:
    """The inverses of projective maps, up to a factor, float64 (9, K)."""
    a, b, c, d, e, f, g, h, i = maps
    return np.stack(
        [
            e * i - f * h,
            c * h - b * i,
            b * f - c * e,
            f * g - d * i,
            a * i - c * g,
            c * d - a * f,
            d * h - e * g,
            b * g - a * h,
            a * e - b * d,
        ]
    )
