"""Noise, each pixel and channel by itself: the same strength at any size of picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import poisson

from augft.assess.corrupt.draws import Draws, Float32Array
from augft.augment.draw import Float64Array

GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)
"""Standard deviation, pictures being in [0, 1]."""
SHOT = (500, 250, 100, 75, 50)
"""Photons that a white pixel receives."""
IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)
"""Share of the values that are black or white."""


def gaussian_noise(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Low light: a normal number is added."""
    return x + np.float32(GAUSSIAN[level]) * draws.normal("noise", x.shape[1:])


def shot_noise(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Light comes in photons: a Poisson number of them."""
    photons = SHOT[level]
    steps = _cumulative(photons)
    # The rows of all grey levels as one rising sequence: row v lies between v and v + 1.
    grey = np.rint(255 * x).astype(np.int64)
    places = np.searchsorted(steps.ravel(), grey + draws.uniform("noise", x.shape[1:]), side="right")
    arrived: Float32Array = ((places - grey * steps.shape[1]) / photons).astype(np.float32)
    return arrived


def impulse_noise(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Bit errors: values that are black or white, as likely."""
    share = IMPULSE[level]
    u = draws.uniform("noise", x.shape[1:])
    hit: Float32Array = np.where(u < share, (u < share / 2).astype(np.float32), x)
    return hit


@lru_cache
def _cumulative(photons: int) -> Float64Array:
    """P(count <= k) + v for grey level v, float64 (256, K): rows and all of it never fall."""
    most = int(poisson.isf(1e-12, photons)) + 1
    table = poisson.cdf(np.arange(most)[None, :], photons * np.arange(256)[:, None] / 255)
    table[:, -1] = 1.0
    return np.minimum(table, 1.0) + np.arange(256)[:, None]  # type: ignore[no-any-return]
