"""The table of ops: what each draws, and what it composes to.

An op is a class: its fields are its parameters (typed, bounded, in physical units), its class variables the row of the
table. Drawing and pixels are apart: `values` turns uniform numbers into physical values (degrees, pixels, fractions),
so a draw can be shown, stored and applied again. Three kinds make pixels, and run in this order:

    geometry   a map of the plane each: all compose to one, which is sampled once          geometry.py, maps.py
    colour     a linear map or a table each: runs of one kind compose to one               colour.py
    finish     what cannot be composed: filters, then what covers parts of the picture     finish.py

A new op is a new class in one of these files and a line in `OPS`; ops that choose among others are in `automatic.py`.
"""

from __future__ import annotations

from augft.augment.ops.colour import (
    Autocontrast,
    Brightness,
    ChannelShuffle,
    ColorJitter,
    ColorTemperature,
    ColourOp,
    Contrast,
    Equalize,
    Gamma,
    Greyscale,
    Hue,
    Invert,
    LinearOp,
    Posterize,
    Saturation,
    Solarize,
    TableOp,
)
from augft.augment.ops.finish import (
    Cutout,
    Erasing,
    FinishOp,
    GaussianBlur,
    GaussianNoise,
    GridMask,
    Jpeg,
    Sharpness,
)
from augft.augment.ops.geometry import (
    Affine,
    CenterCrop,
    Crop,
    Elastic,
    GeometryOp,
    HorizontalFlip,
    Perspective,
    ResizedCrop,
    Rotate,
    Rotate90,
    Scale,
    Shear,
    Translate,
    VerticalFlip,
)
from augft.augment.ops.maps import compose, identity
from augft.augment.ops.op import Op, Size

__all__ = [
    "OPS",
    "Affine",
    "Autocontrast",
    "Brightness",
    "CenterCrop",
    "ChannelShuffle",
    "ColorJitter",
    "ColorTemperature",
    "ColourOp",
    "Contrast",
    "Crop",
    "Cutout",
    "Elastic",
    "Equalize",
    "Erasing",
    "FinishOp",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "GeometryOp",
    "Greyscale",
    "GridMask",
    "HorizontalFlip",
    "Hue",
    "Invert",
    "Jpeg",
    "LinearOp",
    "Op",
    "Perspective",
    "Posterize",
    "ResizedCrop",
    "Rotate",
    "Rotate90",
    "Saturation",
    "Scale",
    "Sharpness",
    "Shear",
    "Size",
    "Solarize",
    "TableOp",
    "Translate",
    "VerticalFlip",
    "compose",
    "identity",
]

OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        HorizontalFlip,
        VerticalFlip,
        Rotate90,
        Rotate,
        Translate,
        Shear,
        Scale,
        Affine,
        Crop,
        CenterCrop,
        ResizedCrop,
        Perspective,
        Elastic,
        Brightness,
        Contrast,
        Saturation,
        Hue,
        ColorJitter,
        Gamma,
        Greyscale,
        Invert,
        Solarize,
        Posterize,
        Autocontrast,
        Equalize,
        ChannelShuffle,
        ColorTemperature,
        Sharpness,
        GaussianBlur,
        GaussianNoise,
        Jpeg,
        Erasing,
        Cutout,
        GridMask,
    )
}
"""Every plain op, by name."""
