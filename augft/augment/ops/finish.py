"""Ops that cannot be composed: they look at neighbours, or at places. They run last, each on the whole picture.

All filters of a sample come first (sharpness, blur, noise, JPEG), then what covers parts of it, both in the policy's
order.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from augft.augment.draw import Float64Array
from augft.augment.ops.colour import FACTOR
from augft.augment.ops.op import (
    IntArray,
    Op,
    Size,
    UInt8Array,
    UInt64Array,
    between,
    bounded,
    log_between,
    signed,
    whole_between,
)


class FinishOp(Op):
    """An op on finished pixels."""

    covers: ClassVar[bool] = False
    """Whether it covers parts of the picture: such ops come after all others."""
    keyed: ClassVar[bool] = False
    """Whether it draws for each pixel, from a key of each sample's own."""

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        """Change some pictures of a batch in place.

        Args:
            images: uint8 (N, H, W, 3), C-contiguous.
            rows: int64 (K,), which pictures.
            values: float64 (num_values, K).
            fill: uint8 (K, 3), what covers; the policy's fill.
            keys: uint64 (K,) where `keyed`, else empty.
        """
        raise NotImplementedError


class Sharpness(FinishOp):
    """Blend with a smoothed picture: below 1 softer, above 1 sharper; the outermost pixels stay."""

    name = "sharpness"
    source = "PIL ImageEnhance.Sharpness; torchvision adjust_sharpness"

    factor: FACTOR = Field(default=(0.1, 1.9), description="smallest and largest factor")

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.factor)

    def label(self, values: Float64Array) -> str:
        return f"sharpness ×{values[0]:.2f}"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.filters import sharpen

        sharpen(images, rows, values[0])


class GaussianBlur(FinishOp):
    """Blur by a Gaussian, sigma uniform; over the border the picture is reflected."""

    name = "gaussian_blur"
    source = "Chen et al., A simple framework for contrastive learning, ICML 2020; torchvision GaussianBlur"

    sigma: bounded(0.05, 20) = Field(default=(0.1, 2.0), description="smallest and largest sigma, in pixels")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.sigma)

    def label(self, values: Float64Array) -> str:
        return f"blur σ {values[0]:.1f}"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.filters import gaussian_blur

        gaussian_blur(images, rows, values[0])


class GaussianNoise(FinishOp):
    """Add normal noise to each channel of each pixel, its sigma uniform."""

    name = "gaussian_noise"
    source = "Bishop, Training with noise is equivalent to Tikhonov regularization, 1995; torchvision GaussianNoise"
    keyed = True

    sigma: bounded(0, 1) = Field(default=(0.02, 0.1), description="smallest and largest sigma, as a share of 255")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return between(uniforms, self.sigma)

    def label(self, values: Float64Array) -> str:
        return f"noise σ {values[0]:.1%}"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.filters import add_gaussian_noise

        add_gaussian_noise(images, rows, values[0], keys)


class Jpeg(FinishOp):
    """What compression as JPEG leaves, without subsampled chroma; the quality is uniform in whole numbers."""

    name = "jpeg"
    source = "ITU-T T.81; libjpeg's integer transforms; torchvision JPEG"

    quality: bounded(1, 100) = Field(default=(10, 60), description="lowest and highest quality, 1 to 100")  # type: ignore[valid-type]

    def values(self, uniforms: Float64Array) -> Float64Array:
        return whole_between(uniforms, self.quality)

    def label(self, values: Float64Array) -> str:
        return f"jpeg {values[0]:.0f}"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.filters import jpeg

        jpeg(images, rows, values[0].astype(np.int64))


class Erasing(FinishOp):
    """Cover a box of random area, shape and place, with the fill or with noise; the whole box lies in the picture."""

    name = "erasing"
    num_values = 4
    source = "Zhong et al., Random erasing data augmentation, AAAI 2020; torchvision RandomErasing"
    covers = True
    keyed = True

    scale: bounded(0, 1) = Field(default=(0.02, 0.33), description="smallest and largest share of the area")  # type: ignore[valid-type]
    ratio: bounded(0.1, 10) = Field(default=(0.3, 3.3), description="smallest and largest width over height")  # type: ignore[valid-type]
    noise: bool = Field(default=True, description="cover with uniform noise, else with the policy's fill")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Area, ratio, and where in the room that is left, across and down."""
        area, ratio = between(uniforms[0], self.scale), log_between(uniforms[1], self.ratio)
        return np.stack([area, ratio, uniforms[2], uniforms[3]])

    def label(self, values: Float64Array) -> str:
        area, ratio, across, down = values
        return f"erase {area:.0%} {ratio:.2f}:1 at ({across:.0%}, {down:.0%})"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.masks import fill_boxes

        boxes = self.boxes(values, Size(*images.shape[1:3]))
        fill_boxes(images, rows, boxes, fill, keys if self.noise else None)

    def boxes(self, values: Float64Array, size: Size) -> IntArray:
        """Rows top, bottom, left, right of what is covered, in pixels, int64 (4, K)."""
        area, ratio, across, down = values
        height, width = size
        wide = np.minimum(np.rint(np.sqrt(area * ratio * (height * width))), width)
        high = np.minimum(np.rint(np.sqrt(area / ratio * (height * width))), height)
        left = np.floor(across * (width - wide + 1))
        top = np.floor(down * (height - high + 1))
        return np.stack([top, top + high, left, left + wide]).astype(np.int64)


class Cutout(FinishOp):
    """Cover a square with the fill; its middle lies anywhere in the picture, so a border may cut it."""

    name = "cutout"
    num_values = 2
    source = "DeVries and Taylor, Improved regularization of convolutional neural networks with cutout, 2017"
    covers = True

    size: float = Field(default=0.5, gt=0, le=1, description="side of the square, as a share of the shorter side")

    def label(self, values: Float64Array) -> str:
        return f"cutout {self.size:.0%} at ({values[0]:.0%}, {values[1]:.0%})"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.masks import fill_boxes

        fill_boxes(images, rows, self.boxes(values, Size(*images.shape[1:3])), fill)

    def boxes(self, values: Float64Array, size: Size) -> IntArray:
        """As `Erasing.boxes`; parts may lie outside the picture."""
        height, width = size
        side = np.rint(self.size * min(height, width))
        left = np.floor(values[0] * width) - np.floor(side / 2)
        top = np.floor(values[1] * height) - np.floor(side / 2)
        return np.stack([top, top + side, left, left + side]).astype(np.int64)


class GridMask(FinishOp):
    """Cover the squares of a grid, turned and shifted at random."""

    name = "grid_mask"
    num_values = 4
    source = "Chen et al., GridMask data augmentation, 2020"
    covers = True

    period: bounded(0.05, 2) = Field(  # type: ignore[valid-type]
        default=(0.3, 0.6), description="smallest and largest period of the grid, as a share of the shorter side"
    )
    keep: float = Field(default=0.6, ge=0, le=1, description="share of each period that stays, on either axis")
    degrees: float = Field(default=45.0, ge=0, le=180, description="largest angle of the grid either way, in degrees")

    def values(self, uniforms: Float64Array) -> Float64Array:
        """Period, offset across and down as shares of it, and angle."""
        return np.stack(
            [between(uniforms[0], self.period), uniforms[1], uniforms[2], (2 * uniforms[3] - 1) * self.degrees]
        )

    def label(self, values: Float64Array) -> str:
        period, across, down, degrees = values
        return f"grid {period:.0%} at ({across:.0%}, {down:.0%}) {signed(degrees, '.0f')}°"

    def apply(
        self, images: UInt8Array, rows: IntArray, values: Float64Array, fill: UInt8Array, keys: UInt64Array
    ) -> None:
        from augft.augment.masks import grid_mask

        grid_mask(images, rows, *self.grid(values, Size(*images.shape[1:3])), fill)

    def grid(self, values: Float64Array, size: Size) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        """Periods in pixels, shares that stay, offsets float64 (2, K), and angles, as `masks.grid_mask` takes them."""
        period, across, down, degrees = values
        keep = np.full(len(period), self.keep)
        return np.maximum(period * min(size), 2.0), keep, np.stack([across, down]), degrees
