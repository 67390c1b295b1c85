"""Weather: snow, frost, fog and light."""

from __future__ import annotations

import numpy as np

from augft.assess.corrupt.blur import scale_of, smeared, zoomed
from augft.assess.corrupt.draws import Draws, Float32Array
from augft.augment.draw import Float64Array

SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
"""Mean and deviation of the flakes' field, its zoom, the threshold of a flake, radius and sigma of their fall, and how
much of the picture's own colour stays."""
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
"""Weights of the picture and of the ice."""
FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
"""How dense, and how fast its detail fades."""
BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)
"""Added to the value of HSV."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_ICE = np.array([0.86, 0.94, 1.0], np.float32)


def snow(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Falling flakes, drawn out by their fall, and a whitened picture."""
    mean, deviation, zoom, threshold, radius, sigma, kept = SNOW[level]
    scale = scale_of(x)
    flakes = np.float32(mean) + np.float32(deviation) * draws.normal("flakes", (*x.shape[1:3], 1))
    flakes = zoomed(flakes, max(1.0, scale * zoom))
    flakes = np.where(flakes < threshold, np.float32(0), np.floor(255 * np.clip(flakes, 0, 1)) / np.float32(255))
    flakes = smeared(flakes, scale * radius, scale * sigma, draws.uniform("angle", low=-135, high=-45))
    white = np.maximum(x, (x * _GREY).sum(3, keepdims=True) * np.float32(1.5) + np.float32(0.5))
    whitened: Float32Array = np.float32(kept) * x + np.float32(1 - kept) * white
    return whitened + flakes + flakes[:, ::-1, ::-1]


def frost(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Ice on the lens: thin bright ridges over a haze, made anew for each picture.

    The benchmark has six photographs of ice here, which are not ours to hand on; these are drawn. So this one of the
    fifteen is like the benchmark's in strength, not in its pixels.
    """
    kept, ice = FROST[level]
    height, width = x.shape[1:3]
    fields = [plasma(draws, f"ice/{i}", max(height, width), 1.6)[:, :height, :width] for i in range(2)]
    ridges = [1 - np.abs(2 * field - 1) for field in fields]
    crystals = np.clip(0.35 * fields[0] + 0.65 * np.maximum(ridges[0] ** 4, ridges[1] ** 4), 0, 1)
    iced: Float32Array = np.float32(kept) * x + np.float32(ice) * crystals.astype(np.float32)[..., None] * _ICE
    return iced


def fog(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """Fog of uneven density."""
    density, fading = FOG[level]
    height, width = x.shape[1:3]
    field = plasma(draws, "fog", max(height, width), fading)[:, :height, :width, None].astype(np.float32)
    brightest = x.max((1, 2, 3), keepdims=True)
    fogged: Float32Array = (x + np.float32(density) * field) * (brightest / (brightest + np.float32(density)))
    return fogged


def brightness(x: Float32Array, level: int, draws: Draws) -> Float32Array:
    """More light: the value of HSV is raised; hue and saturation stay, so the channels grow in proportion."""
    value = x.max(3, keepdims=True)
    raised = np.minimum(value + np.float32(BRIGHTNESS[level]), 1)
    brighter: Float32Array = np.where(value > 0, x * (raised / np.maximum(value, np.float32(1e-6))), raised)
    return brighter


def plasma(draws: Draws, what: str, size: int, fading: float) -> Float64Array:
    """Clouds by diamond and square (Fournier, Fussell and Carpenter, 1982), on a torus.

    Args:
        draws: of the pictures.
        what: names this field.
        size: what it has to cover; the side S is the next power of two.
        fading: what the random part is divided by from each scale to the next finer.

    Returns:
        float64 (N, S, S), each from 0 to 1.
    """
    side = 1 << max(1, size - 1).bit_length()
    noise = draws.uniform(what, (side, side), -1, 1)
    field: Float64Array = np.zeros_like(noise)
    step, strength = side, 1.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        beside = corners + np.roll(corners, -1, 1)
        middles = (beside + np.roll(beside, -1, 2)) / 4 + strength * noise[:, half::step, half::step]
        field[:, half::step, half::step] = middles
        across = corners + np.roll(corners, -1, 2) + middles + np.roll(middles, 1, 1)
        field[:, ::step, half::step] = across / 4 + strength * noise[:, ::step, half::step]
        along = corners + np.roll(corners, -1, 1) + middles + np.roll(middles, 1, 2)
        field[:, half::step, ::step] = along / 4 + strength * noise[:, half::step, ::step]
        step, strength = half, strength / fading
    field -= field.min((1, 2), keepdims=True)
    field /= np.maximum(field.max((1, 2), keepdims=True), 1e-12)
    return field
