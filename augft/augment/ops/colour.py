"""Ops that change colours, each pixel by itself.

Two kinds. *Linear* ops (brightness, contrast, saturation, hue, …) give a colour y = M·x + K·mean + t, where mean is the
average colour of the sample's picture: contrast turns about the average grey, and is linear all the same. Such maps
compose to one of their kind, so any run of them is one 3×4 matrix in the end, nothing is clipped or rounded on the way.
*Table* ops (gamma, posterize, equalize, …) look each channel's value up in 256 entries; a run of them is one table a
channel. Where both kinds stand in a policy, runs follow each other in its order.

Colours are RGB in 0 to 255; grey is ITU-R BT.601's 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import numpy as np
from pydantic import Field

from augft.augment.draw import Float64Array
from augft.augment.ops.op import Op, between, bounded, log_between, signed, whole_between
from augft.augment.portable import exp, log, sin_cos_degrees

GREY = (0.299, 0.587, 0.114)

FACTOR = bounded(0, 10)
"""Of an enhancement: 1 leaves a picture as it is, 0 takes the property away, 2 doubles it."""


class Kind(IntEnum):
    """What a step of a colour pass does; its argument in brackets."""

    LINEAR = 1
    """A linear map (its 21 numbers)."""
    POSTERIZE = 2
    """Keep the highest bits (how many)."""
    SOLARIZE = 3
    """Invert what is at or above a threshold (0 to 256)."""
    GAMMA = 4
    """255·(x/255)^gamma (gamma)."""
    AUTOCONTRAST = 5
    """Stretch each channel from its lowest and highest value to 0 and 255."""
    EQUALIZE = 6
    """Make each channel's histogram flat."""


class ColourOp(Op):
    """An op on colours."""

    kind: ClassVar[Kind]

    def argument(self, values: Float64Array) -> Float64Array:
        """Of the step that a sample's values make: float64 (num_values, K) → float64 (A, K)."""
        return values[:1]


class LinearOp(ColourOp):
    """An op that is linear in colours: the argument is float64 (21, K), M then K, row by row, then t."""

    kind = Kind.LINEAR


class TableOp(ColourOp):
    """An op that looks each channel up in a table."""


# -- linear ----------------------------------------------------------------------------------------


class Brightness(LinearOp):
    """Multiply by a factor."""

    name = "brightness"
    source = "PIL ImageEnhance.Brightness; torchvision adjust_brightness"

    factor: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.factor)

    def label(self, values: Float64Array) -> str:
        return f"brightness ×{values[0]:.2f}"

    def argument(self, values: Float64Array) -> Float64Array:
        return linear(diagonal=values[0])


class Contrast(LinearOp):
    """Multiply the distance from the picture's average grey by a factor."""

    name = "contrast"
    source = "PIL ImageEnhance.Contrast; torchvision adjust_contrast"

    factor: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.factor)

    def label(self, values: Float64Array) -> str:
        return f"contrast ×{values[0]:.2f}"

    def argument(self, values: Float64Array) -> Float64Array:
        argument = linear(diagonal=values[0])
        for row in range(3):
            for column, weight in enumerate(GREY):
                argument[9 + 3 * row + column] = (1 - values[0]) * weight
        return argument


class Saturation(LinearOp):
    """Multiply the distance from each pixel's grey by a factor."""

    name = "saturation"
    source = "PIL ImageEnhance.Color; torchvision adjust_saturation"

    factor: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.factor)

    def label(self, values: Float64Array) -> str:
        return f"saturation ×{values[0]:.2f}"

    def argument(self, values: Float64Array) -> Float64Array:
        argument = linear(diagonal=values[0])
        for row in range(3):
            for column, weight in enumerate(GREY):
                argument[3 * row + column] += (1 - values[0]) * weight
        return argument


class Hue(LinearOp):
    """Turn the colour about the grey axis by an angle, uniform in ±degrees; grey stays, and so does its luminance.

    A rotation of the chroma plane (YIQ), not of HSV's hexagon: linear, so that it composes.
    """

    name = "hue"
    source = "Haeberli, Matrix operations for image processing, 1993; NVIDIA DALI Hue"

    degrees: float = Field(default=36.0, ge=0, le=180, description="largest angle either way, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return (2 * uniforms - 1) * self.degrees

    def label(self, values: Float64Array) -> str:
        return f"hue {signed(values[0], '.0f')}°"

    def argument(self, values: Float64Array) -> Float64Array:
        sin, cos = sin_cos_degrees(values[0])
        argument = np.zeros((21, len(sin)))
        for entry in range(9):
            argument[entry] = _LUMINANCE[entry] + cos * _CHROMA[entry] + sin * _TURNED[entry]
        return argument


class ColorJitter(LinearOp):
    """Brightness, contrast, saturation and hue as one matrix.

    Without clipping in between their order changes nothing, so none is drawn: brightness scales all that the others
    see, and saturation and hue keep each pixel's grey, about whose average contrast turns.
    """

    name = "color_jitter"
    num_values = 4
    source = "Krizhevsky et al., ImageNet classification, NIPS 2012; torchvision ColorJitter"

    brightness: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]
    contrast: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]
    saturation: FACTOR = Field(default=(0.6, 1.4), description="smallest and largest factor")  # type: ignore[valid-type]
    hue: float = Field(default=36.0, ge=0, le=180, description="largest angle either way, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Three factors and an angle."""
        return np.stack(
            [
                between(uniforms[0], self.brightness),
                between(uniforms[1], self.contrast),
                between(uniforms[2], self.saturation),
                (2 * uniforms[3] - 1) * self.hue,
            ]
        )

    def label(self, values: Float64Array) -> str:
        return f"jitter ×{values[0]:.2f} ×{values[1]:.2f} ×{values[2]:.2f} {signed(values[3], '.0f')}°"

    def argument(self, values: Float64Array) -> Float64Array:
        total = Brightness().argument(values[0:1])
        for op, number in ((Contrast(), values[1:2]), (Saturation(), values[2:3]), (Hue(), values[3:4])):
            total = compose_linear(op.argument(number), total)
        return total


class Greyscale(LinearOp):
    """Grey, on all three channels."""

    name = "greyscale"
    num_values = 0
    source = "torchvision RandomGrayscale"

    def label(self, values: Float64Array) -> str:
        return "greyscale"

    def argument(self, values: Float64Array) -> Float64Array:
        return Saturation().argument(np.zeros((1, values.shape[1])))


class Invert(LinearOp):
    """The negative: 255 less each value."""

    name = "invert"
    num_values = 0
    source = "PIL ImageOps.invert"

    def label(self, values: Float64Array) -> str:
        return "invert"

    def argument(self, values: Float64Array) -> Float64Array:
        argument = linear(diagonal=np.full(values.shape[1], -1.0))
        argument[18:] = 255
        return argument


class ChannelShuffle(LinearOp):
    """The channels in another order, each of the six as likely, the old one among them."""

    name = "channel_shuffle"
    source = "torchvision RandomChannelPermutation"

    def values(self, uniforms: Float64Array) -> Float64Array:
        return np.floor(6 * uniforms)

    def label(self, values: Float64Array) -> str:
        return f"channels {''.join('RGB'[channel] for channel in _ORDERS[int(values[0])])}"

    def argument(self, values: Float64Array) -> Float64Array:
        argument = np.zeros((21, values.shape[1]))
        order = np.array(_ORDERS)[values[0].astype(np.int64)]
        for row in range(3):
            argument[3 * row + order[:, row], np.arange(len(order))] = 1
        return argument


class ColorTemperature(LinearOp):
    """Light of another colour temperature: channels are scaled as a black body's light is, its luminance kept.

    In mired (a million over kelvin) against 6,504 K, uniform either way: warmer above 0, cooler below.
    """

    name = "color_temperature"
    source = (
        "Kim et al., Design of advanced color temperature control system, 2002 (the Planckian locus); CIE 1931, sRGB"
    )

    mired: float = Field(default=60.0, ge=0, le=100, description="largest shift either way, in mired")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return (2 * uniforms - 1) * self.mired

    def label(self, values: Float64Array) -> str:
        return f"temperature {1e6 / (1e6 / _DAYLIGHT_K + values[0]):,.0f} K"

    def argument(self, values: Float64Array) -> Float64Array:
        gains = _planckian_rgb(1e6 / (1e6 / _DAYLIGHT_K + values[0])) / _planckian_rgb(np.array([_DAYLIGHT_K]))
        # Pixels are stored with the exponent 1/2.2 of sRGB, and light adds up without it.
        gains = exp(log(gains) * (1 / 2.2))
        luminance = GREY[0] * gains[0] + GREY[1] * gains[1] + GREY[2] * gains[2]
        argument = np.zeros((21, values.shape[1]))
        for channel in range(3):
            argument[4 * channel] = gains[channel] / luminance
        return argument


# -- tables ----------------------------------------------------------------------------------------


class Gamma(TableOp):
    """255·(x/255)^gamma: above 1 darker, below 1 lighter; gamma is uniform in its logarithm."""

    name = "gamma"
    source = "torchvision adjust_gamma"
    kind = Kind.GAMMA

    gamma: bounded(0.1, 10) = Field(default=(0.6, 1.67), description="smallest and largest exponent")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return log_between(uniforms, self.gamma)

    def label(self, values: Float64Array) -> str:
        return f"gamma {values[0]:.2f}"


class Solarize(TableOp):
    """Invert all values at or above a threshold."""

    name = "solarize"
    source = "PIL ImageOps.solarize; torchvision RandomSolarize"
    kind = Kind.SOLARIZE

    threshold: bounded(0, 256) = Field(default=(64, 192), description="smallest and largest threshold")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.threshold)

    def label(self, values: Float64Array) -> str:
        return f"solarize ≥ {np.ceil(values[0]):.0f}"

    def argument(self, values: Float64Array) -> Float64Array:
        return np.ceil(values)


class Posterize(TableOp):
    """Keep the highest bits of each value, as many as are drawn, and clear the others."""

    name = "posterize"
    source = "PIL ImageOps.posterize; torchvision RandomPosterize"
    kind = Kind.POSTERIZE

    bits: bounded(1, 8) = Field(default=(2, 5), description="fewest and most bits")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return whole_between(uniforms, self.bits)

    def label(self, values: Float64Array) -> str:
        return f"posterize {values[0]:.0f} bits"


class Autocontrast(TableOp):
    """Stretch each channel so that its lowest value becomes 0 and its highest 255."""

    name = "autocontrast"
    num_values = 0
    source = "PIL ImageOps.autocontrast; torchvision RandomAutocontrast"
    kind = Kind.AUTOCONTRAST

    def label(self, values: Float64Array) -> str:
        return "autocontrast"

    def argument(self, values: Float64Array) -> Float64Array:
        return np.zeros((1, values.shape[1]))


class Equalize(TableOp):
    """Give each channel a flat histogram."""

    name = "equalize"
    num_values = 0
    source = "PIL ImageOps.equalize; torchvision RandomEqualize"
    kind = Kind.EQUALIZE

    def label(self, values: Float64Array) -> str:
        return "equalize"

    def argument(self, values: Float64Array) -> Float64Array:
        return np.zeros((1, values.shape[1]))


# -- linear maps -----------------------------------------------------------------------------------


def linear(diagonal: Float64Array) -> Float64Array:
    """The map that multiplies all channels by a number, float64 (K,) → float64 (21, K)."""
    argument = np.zeros((21, len(diagonal)))
    argument[0] = argument[4] = argument[8] = diagonal
    return argument


def compose_linear(outer: Float64Array, inner: Float64Array) -> Float64Array:
    """outer(inner(x)), float64 (21, K).

    Of y = M x + K μ + t, the mean is (M + K) μ + t; so for z = N y + L ν + s with ν the mean of y,
    z = N M x + (N K + L (M + K)) μ + (N + L) t + s.
    """
    n, big_l, s = outer[:9], outer[9:18], outer[18:]
    m, k, t = inner[:9], inner[9:18], inner[18:]
    result = np.empty_like(outer)
    result[:9] = _product(n, m)
    result[9:18] = _product(n, k) + _product(big_l, m + k)
    both = n + big_l
    for row in range(3):
        result[18 + row] = both[3 * row] * t[0] + both[3 * row + 1] * t[1] + both[3 * row + 2] * t[2] + s[row]
    return result


def _product(left: Float64Array, right: Float64Array) -> Float64Array:
    """3×3 matrices, float64 (9, K), entry by entry: a library's product may fuse or reorder."""
    result = np.empty_like(left)
    for i in range(3):
        for j in range(3):
            result[3 * i + j] = left[3 * i] * right[j] + left[3 * i + 1] * right[3 + j] + left[3 * i + 2] * right[6 + j]
    return result


_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

_DAYLIGHT_K = 6504.0


def _chroma() -> tuple[list[float], list[float], list[float]]:
    """RGB → YIQ → RGB split in three: what keeps the luminance, the chroma as it is, the chroma turned by 90°."""
    to_yiq = [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
    a, b, c = to_yiq
    det = a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
    cofactor = [
        [b[1] * c[2] - b[2] * c[1], a[2] * c[1] - a[1] * c[2], a[1] * b[2] - a[2] * b[1]],
        [b[2] * c[0] - b[0] * c[2], a[0] * c[2] - a[2] * c[0], a[2] * b[0] - a[0] * b[2]],
        [b[0] * c[1] - b[1] * c[0], a[1] * c[0] - a[0] * c[1], a[0] * b[1] - a[1] * b[0]],
    ]
    back = [[entry / det for entry in row] for row in cofactor]
    luminance, chroma, turned = [], [], []
    for y, i, q in back:
        for column in range(3):
            luminance.append(y * a[column])
            chroma.append(i * b[column] + q * c[column])
            turned.append(q * b[column] - i * c[column])
    return luminance, chroma, turned


_LUMINANCE, _CHROMA, _TURNED = _chroma()


def _planckian_rgb(kelvin: Float64Array) -> Float64Array:
    """Linear sRGB of a black body, float64 (3, K), of luminance 1; 1,667 to 25,000 K."""
    t = 1000 / kelvin
    low = ((-0.2661239 * t - 0.2343589) * t + 0.8776956) * t + 0.179910
    high = ((-3.0258469 * t + 2.1070379) * t + 0.2226347) * t + 0.240390
    x = np.where(kelvin <= 4000, low, high)
    y_lowest = ((-1.1063814 * x - 1.34811020) * x + 2.18555832) * x - 0.20219683
    y_low = ((-0.9549476 * x - 1.37418593) * x + 2.09137015) * x - 0.16748867
    y_high = ((3.0817580 * x - 5.87338670) * x + 3.75112997) * x - 0.37001483
    y = np.where(kelvin <= 2222, y_lowest, np.where(kelvin <= 4000, y_low, y_high))
    big_x, big_z = x / y, (1 - x - y) / y
    red = 3.2404542 * big_x - 1.5371385 - 0.4985314 * big_z
    green = -0.9692660 * big_x + 1.8760108 + 0.0415560 * big_z
    blue = 0.0556434 * big_x - 0.2040259 + 1.0572252 * big_z
    rgb: Float64Array = np.stack([red, green, np.maximum(blue, 1e-3)])
    return rgb
