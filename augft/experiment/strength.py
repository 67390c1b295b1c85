"""How strong an op is, as one number from 0 to 1: what a search turns, and what it means for each op.

At 0 an op does next to nothing. At 1 it goes beyond RandAugment's strongest (Cubuk et al., 2020) and stays short of
TrivialAugment's wide space (Müller and Hutter, 2021), so that what is best is likely to lie inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from augft.augment.policy import ALL_OPS

Parameters = dict[str, Any]


def parameters(op: str, strength: float) -> Parameters:
    """An op's parameters at a strength; those not named are the op's own defaults.

    Args:
        op: a name of `STRENGTHS`.
        strength: from 0 to 1.
    """
    scale = STRENGTHS[op]
    return {} if scale is None else {name: _rounded(value) for name, value in scale(strength).items()}


def has_strength(op: str) -> bool:
    """Whether strength changes anything of an op: a flip is a flip."""
    return STRENGTHS[op] is not None


def _about_one(most: float) -> Callable[[float], Parameters]:
    return lambda strength: {"factor": [1 - most * strength, 1 + most * strength]}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(end) for end in value]
    return value if isinstance(value, int | str) else float(f"{value:.3g}")


STRENGTHS: Mapping[str, Callable[[float], Parameters] | None] = {
    "horizontal_flip": None,
    "vertical_flip": None,
    "rotate90": None,
    "rotate": lambda s: {"degrees": 45 * s},
    "translate": lambda s: {"x": 0.45 * s, "y": 0.45 * s},
    "shear": lambda s: {"x": 30 * s, "y": 30 * s},
    "scale": lambda s: {"factor": [1 / (1 + s), 1 + s]},
    "affine": lambda s: {
        "degrees": 30 * s,
        "x": 0.3 * s,
        "y": 0.3 * s,
        "factor": [1 / (1 + 0.5 * s), 1 + 0.5 * s],
        "shear_x": 20 * s,
        "shear_y": 20 * s,
    },
    "crop": lambda s: {"padding": round(12 * s)},
    "center_crop": lambda s: {"share": 1 - 0.5 * s},
    "resized_crop": lambda s: {"scale": [1 - 0.92 * s, 1.0]},
    "perspective": lambda s: {"distortion": 0.6 * s},
    "elastic": lambda s: {"strength": 0.2 * s},
    "brightness": _about_one(0.95),
    "contrast": _about_one(0.95),
    "saturation": _about_one(0.95),
    "sharpness": _about_one(0.95),
    "hue": lambda s: {"degrees": 90 * s},
    "color_jitter": lambda s: {
        **{name: [1 - 0.9 * s, 1 + 0.9 * s] for name in ("brightness", "contrast", "saturation")},
        "hue": 60 * s,
    },
    "gamma": lambda s: {"gamma": [1 / (1 + 2 * s), 1 + 2 * s]},
    "greyscale": None,
    "invert": None,
    "solarize": lambda s: {"threshold": [256 * (1 - s), 256.0]},
    "posterize": lambda s: {"bits": [8 - round(6 * s), 8]},
    "autocontrast": None,
    "equalize": None,
    "channel_shuffle": None,
    "color_temperature": lambda s: {"mired": 100 * s},
    "gaussian_blur": lambda s: {"sigma": [0.1, 0.1 + 2.9 * s]},
    "gaussian_noise": lambda s: {"sigma": [0.0, 0.3 * s]},
    "jpeg": lambda s: {"quality": [100 - round(90 * s), 100]},
    "erasing": lambda s: {"scale": [0.02, 0.02 + 0.48 * s]},
    "cutout": lambda s: {"size": 0.05 + 0.7 * s},
    "grid_mask": lambda s: {"keep": 1 - 0.6 * s},
    "rand_augment": lambda s: {"magnitude": round(30 * s)},
    "trivial_augment": None,
    "auto_augment": None,
    "aug_mix": lambda s: {"severity": 1 + round(9 * s)},
}
"""Op → its parameters as a function of the strength; None where it has none."""

assert set(STRENGTHS) == set(ALL_OPS)
